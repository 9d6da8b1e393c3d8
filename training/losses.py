"""The losses of the note and of the paper, one function each: tensors in, scalar out."""

from __future__ import annotations

import tensorflow as tf

from tf1.layers import tl

PLAIN = (2 / 127.5) ** 2  # variance that is hardly seen: a deviation of 2 levels
SLACK = 4.0  # variance of SR as a multiple of HR's that is free: twice the deviation
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

    Of scale x scale cells, which LR shows: this holds colours. And of each place in a cell, less the cell's
    mean, over 4 x 4 cells in which HR is plain: this holds a checkerboard in step with the upsampling,
    which is seen there. A variance of `PLAIN` within HR's cells is half plain.
    """

    def split(x):
        """The means of cells, [N, h / scale, w / scale, 3], and the rest as [..., scale ** 2 places x 3]."""
        means = tf.nn.avg_pool2d(x, scale, scale, "VALID")
        return means, tf.nn.space_to_depth(x, scale) - tf.tile(means, [1, 1, 1, scale**2])

    cell_errors, place_errors = split(sr - hr)
    place_errors = tf.nn.avg_pool2d(place_errors, 4, 4, "SAME")
    _, detail = split(hr)
    variance = tf.reduce_mean(tf.nn.avg_pool2d(detail**2, 4, 4, "SAME"), -1, keepdims=True)
    plain = PLAIN / (PLAIN + variance)
    return tf.reduce_mean(cell_errors**2) + PLACES * tf.reduce_mean(plain * place_errors**2)


def excess_loss(sr: tf.Tensor, hr: tf.Tensor) -> tf.Tensor:
    """How much [N, h, w, 3] pictures in [-1, 1] vary where HR varies far less: dots, outlines along edges.

    The mean over all pixels of log((variance of SR + `PLAIN`) / (`SLACK` times HR's + `PLAIN`)), zero where
    that is negative: texture is free up to twice HR's deviation, wherever its bright and dark pixels are.
    A logarithm, so that faint ripples count beside strong ones. Variances are in 5 x 5 px around each pixel,
    the mean of the channels'. Not from a paper.
    """

    def variance(x):
        local = tf.nn.avg_pool2d(x**2, 5, 1, "SAME") - tf.nn.avg_pool2d(x, 5, 1, "SAME") ** 2
        return tf.reduce_mean(tf.maximum(local, 0.0), -1)

    excess = tf.math.log((variance(sr) + PLAIN) / (SLACK * variance(hr) + PLAIN))
    return tf.reduce_mean(tf.nn.relu(excess))


def adversarial_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """-log D(G(lr)), averaged: the generator's part of the game (Ledig et al. 2017, eq. 6)."""
    return tl.cost.sigmoid_cross_entropy(fake_logits, tf.ones_like(fake_logits), name="g_gan_loss")


def real_loss(real_logits: tf.Tensor) -> tf.Tensor:
    """-log D(hr), averaged (Goodfellow et al. 2014, eq. 1)."""
    return tl.cost.sigmoid_cross_entropy(real_logits, tf.ones_like(real_logits), name="d_loss1")


def fake_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """-log(1 - D(G(lr))), averaged (Goodfellow et al. 2014, eq. 1)."""
    return tl.cost.sigmoid_cross_entropy(fake_logits, tf.zeros_like(fake_logits), name="d_loss2")
