"""Losses that are in neither the note nor the paper, one function each: tensors in, scalar out."""

from __future__ import annotations

import tensorflow as tf

FLAT_VARIANCE = (2 / 127.5) ** 2  # barely visible: a standard deviation of two 8-bit values
FREE_VARIANCE_RATIO = 4.0  # SR may have twice HR's standard deviation at no cost
CHECKERBOARD_WEIGHT = 40.0  # large because even a visible checkerboard is as small as one 8-bit value


def means_loss(sr: tf.Tensor, hr: tf.Tensor, scale: int) -> tf.Tensor:
    """Mean squared local means of the errors of [N, h, w, 3] images in [-1, 1]; detail costs nothing.

    The first term is the mean error of each scale x scale cell, which LR determines: it prevents colour
    shifts. The second is, for each position within a cell, the mean over 4 x 4 cells of the error minus its
    cell's mean: it prevents a checkerboard with the upsampling's period. It counts only where HR is flat and
    a checkerboard is visible, with half the weight where HR's variance is `FLAT_VARIANCE`.
    """

    def split(x):
        """Returns cell means, [N, h / scale, w / scale, 3], and the residuals, [..., 3 * scale ** 2]."""
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
    """Penalises local variance beyond HR's, such as dots and outlines along edges; [N, h, w, 3] in [-1, 1].

    The mean over all pixels of max(0, log((variance of SR + F) / (R * variance of HR + F))) with F =
    `FLAT_VARIANCE` and R = `FREE_VARIANCE_RATIO`. The logarithm makes faint ripples count as well as strong
    ones. Variances are over 5 x 5 px, averaged over channels. Not from a paper.
    """

    def variance(x):
        local = tf.nn.avg_pool2d(x**2, 5, 1, "SAME") - tf.nn.avg_pool2d(x, 5, 1, "SAME") ** 2
        return tf.reduce_mean(tf.maximum(local, 0.0), -1)

    excess = tf.math.log(
        (variance(sr) + FLAT_VARIANCE) / (FREE_VARIANCE_RATIO * variance(hr) + FLAT_VARIANCE)
    )
    return tf.reduce_mean(tf.nn.relu(excess))
