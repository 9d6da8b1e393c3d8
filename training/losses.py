"""Losses that neither the note nor the paper has, one function each: tensors in, scalar out."""

from __future__ import annotations

import tensorflow as tf

FLAT_VARIANCE = (2 / 127.5) ** 2  # hardly visible: a deviation of two 8-bit values
FREE_VARIANCE_RATIO = 4.0  # of SR's variance to HR's: twice the deviation costs nothing
CHECKERBOARD_WEIGHT = 40.0  # a visible one, of a single 8-bit value, is small compared with detail


def means_loss(sr: tf.Tensor, hr: tf.Tensor, scale: int) -> tf.Tensor:
    """Mean squares of local means of the errors of [N, h, w, 3] images in [-1, 1]; detail is free.

    Of scale x scale cells, which LR shows: this holds colours. And of each place in a cell, less the cell's
    mean, over 4 x 4 cells in which HR is plain: this holds a checkerboard in step with the upsampling,
    which is seen there. A variance of `FLAT_VARIANCE` within HR's cells is half plain.
    """

    def split(x):
        """The means of cells, [N, h / scale, w / scale, 3], and the rest as [..., scale ** 2 places x 3]."""
        means = tf.nn.avg_pool2d(x, scale, scale, "VALID")
        return means, tf.nn.space_to_depth(x, scale) - tf.tile(means, [1, 1, 1, scale**2])

    cell_errors, place_errors = split(sr - hr)
    place_errors = tf.nn.avg_pool2d(place_errors, 4, 4, "SAME")
    _, detail = split(hr)
    variance = tf.reduce_mean(tf.nn.avg_pool2d(detail**2, 4, 4, "SAME"), -1, keepdims=True)
    plain = FLAT_VARIANCE / (FLAT_VARIANCE + variance)
    return tf.reduce_mean(cell_errors**2) + CHECKERBOARD_WEIGHT * tf.reduce_mean(plain * place_errors**2)


def excess_loss(sr: tf.Tensor, hr: tf.Tensor) -> tf.Tensor:
    """How much [N, h, w, 3] images in [-1, 1] vary where HR varies far less: dots, outlines along edges.

    The mean over all pixels of log((variance of SR + F) / (R * variance of HR + F)), zero where that is
    negative, F and R being the constants above: texture is free up to twice HR's deviation, wherever its
    bright and dark pixels are. A logarithm, so that faint ripples count beside strong ones. Variances are
    those of 5 x 5 px around each pixel, the mean of the channels'. Not from a paper.
    """

    def variance(x):
        local = tf.nn.avg_pool2d(x**2, 5, 1, "SAME") - tf.nn.avg_pool2d(x, 5, 1, "SAME") ** 2
        return tf.reduce_mean(tf.maximum(local, 0.0), -1)

    excess = tf.math.log(
        (variance(sr) + FLAT_VARIANCE) / (FREE_VARIANCE_RATIO * variance(hr) + FLAT_VARIANCE)
    )
    return tf.reduce_mean(tf.nn.relu(excess))
