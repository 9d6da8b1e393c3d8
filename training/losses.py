"""Losses that neither the note nor the paper has, one function each: tensors in, scalar out."""

from __future__ import annotations

import tensorflow as tf

FLAT_VARIANCE = (2 / 127.5) ** 2  # hardly visible: a deviation of two 8-bit values
FREE_VARIANCE_RATIO = 4.0  # of SR's variance to HR's: twice the deviation costs nothing
CHECKERBOARD_WEIGHT = 40.0  # a visible one, of a single 8-bit value, is small compared with detail


def means_loss(sr: tf.Tensor, hr: tf.Tensor, scale: int) -> tf.Tensor:
    """Mean squared local means of the errors of [N, h, w, 3] images in [-1, 1]; detail costs nothing.

    First the means of scale x scale cells, which LR shows: they keep colours. Then, for each position within
    a cell, the mean over 4 x 4 cells where HR is flat, without the cells' means: it prevents a checkerboard
    in step with the upsampling, which is visible there. HR with a variance of `FLAT_VARIANCE` counts half.
    """

    def split(x):
        """The means of cells, [N, h / scale, w / scale, 3], and the rest, [..., 3 * scale ** 2]."""
        means = tf.nn.avg_pool2d(x, scale, scale, "VALID")
        return means, tf.nn.space_to_depth(x, scale) - tf.tile(means, [1, 1, 1, scale**2])

    cell_errors, position_errors = split(sr - hr)
    position_errors = tf.nn.avg_pool2d(position_errors, 4, 4, "SAME")
    _, detail = split(hr)
    variance = tf.reduce_mean(tf.nn.avg_pool2d(detail**2, 4, 4, "SAME"), -1, keepdims=True)
    flatness = FLAT_VARIANCE / (FLAT_VARIANCE + variance)
    return tf.reduce_mean(cell_errors**2) + CHECKERBOARD_WEIGHT * tf.reduce_mean(
        flatness * position_errors**2
    )


def excess_loss(sr: tf.Tensor, hr: tf.Tensor) -> tf.Tensor:
    """Variance of [N, h, w, 3] images in [-1, 1] beyond HR's: dots, and outlines along edges.

    The mean over all pixels of max(0, log((variance of SR + F) / (R * variance of HR + F))), F and R being
    the constants above: texture costs nothing up to twice HR's standard deviation. The logarithm makes faint
    ripples count as well as strong ones. Variances are over 5 x 5 px, averaged over channels. Not from a
    paper.
    """

    def variance(x):
        local = tf.nn.avg_pool2d(x**2, 5, 1, "SAME") - tf.nn.avg_pool2d(x, 5, 1, "SAME") ** 2
        return tf.reduce_mean(tf.maximum(local, 0.0), -1)

    excess = tf.math.log(
        (variance(sr) + FLAT_VARIANCE) / (FREE_VARIANCE_RATIO * variance(hr) + FLAT_VARIANCE)
    )
    return tf.reduce_mean(tf.nn.relu(excess))
