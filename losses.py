"""The losses of the note and of the paper, one function each: tensors in, scalar out."""

from __future__ import annotations

import tensorflow as tf

from layers import tl

PLAIN = (2 / 127.5) ** 2  # the variance at which `means_loss` takes HR for half plain: of 2 levels
PLACES = 40.0  # a checkerboard to be seen, of a level, is small beside what detail leaves in the cells' means


def mse_loss(sr: tf.Tensor, hr: tf.Tensor) -> tf.Tensor:
    """Mean squared error of [N, h, w, 3] pictures in [-1, 1] (Ledig et al. 2017, eq. 4)."""
    return tl.cost.mean_squared_error(sr, hr, is_mean=True, name="mse_loss")


def vgg_loss(sr_features: tf.Tensor, hr_features: tf.Tensor) -> tf.Tensor:
    """Mean squared difference of VGG19 features [N, h, w, c] (Ledig et al. 2017, eq. 5)."""
    return tl.cost.mean_squared_error(
        tf.cast(sr_features, tf.float32),
        tf.cast(hr_features, tf.float32),
        is_mean=True,
        name="vgg_loss",
    )


def means_loss(sr: tf.Tensor, hr: tf.Tensor, scale: int) -> tf.Tensor:
    """Mean squares of local means of the errors of [N, h, w, 3] pictures in [-1, 1]; detail is free.

    Of scale x scale cells, which LR shows: this holds colours. And of each place in a cell, over 4 x 4
    cells, where HR is plain: this holds a checkerboard in step with the upsampling, which is seen there.
    """
    cells = tf.nn.space_to_depth(sr - hr, scale)  # [N, h / scale, w / scale, scale ** 2 places x 3]
    cell_errors = tf.reduce_mean(tf.reshape(cells, [-1, scale**2, 3]), 1)
    place_errors = tf.nn.avg_pool2d(cells, 4, 4, "SAME")
    means, squares = (tf.nn.avg_pool2d(x, 4 * scale, 4 * scale, "SAME") for x in (hr, hr**2))
    variance = tf.reduce_mean(squares - means**2, -1, keepdims=True)
    plain = PLAIN / (PLAIN + variance)
    return tf.reduce_mean(cell_errors**2) + PLACES * tf.reduce_mean(plain * place_errors**2)


def adversarial_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """-log D(G(lr)), averaged: the generator's part of the game (Ledig et al. 2017, eq. 6)."""
    return tl.cost.sigmoid_cross_entropy(fake_logits, tf.ones_like(fake_logits), name="g_gan_loss")


def real_loss(real_logits: tf.Tensor) -> tf.Tensor:
    """-log D(hr), averaged (Goodfellow et al. 2014, eq. 1)."""
    return tl.cost.sigmoid_cross_entropy(real_logits, tf.ones_like(real_logits), name="d_loss1")


def fake_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """-log(1 - D(G(lr))), averaged (Goodfellow et al. 2014, eq. 1)."""
    return tl.cost.sigmoid_cross_entropy(fake_logits, tf.zeros_like(fake_logits), name="d_loss2")
