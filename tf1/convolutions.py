"""2-D convolution by the fastest exact method on this machine (timings: docs/speed.md)."""

from __future__ import annotations

import math

import tensorflow as tf

from tf1.runtime import has_gpu


def conv2d(x: tf.Tensor, filters: tf.Tensor, stride: int, name: str | None = None) -> tf.Tensor:
    """[N, h, w, c_in], filters [side, side, c_in, c_out] -> "SAME" convolution; h and w may be unknown."""
    side, _, _, c_out = filters.shape
    has_sizes = x.shape[1:3].is_fully_defined()
    # fewer output positions in a batch of 16 than filters
    has_few_positions = has_sizes and 16 * math.prod(_output_sizes(x, stride)) < c_out
    if has_few_positions and side % stride == 0 and not has_gpu():
        return _conv2d_of_few_positions(x, filters, stride)
    return tf.nn.conv2d(x, filters, stride, "SAME", name=name)


def _output_sizes(x: tf.Tensor, stride: int) -> list[int]:
    """Height and width of a "SAME" convolution's output."""
    return [-(-length // stride) for length in x.shape[1:3]]


@tf.custom_gradient
def _matmul(few_rows: tf.Tensor, many_rows: tf.Tensor):
    """Matrix product whose gradient puts the taller factor first: up to twice as fast in oneDNN."""

    def gradient(dy):
        d_few = tf.transpose(tf.matmul(many_rows, dy, transpose_b=True))
        return d_few, tf.matmul(few_rows, dy, transpose_a=True)

    return tf.matmul(few_rows, many_rows), gradient


def _conv2d_of_few_positions(x: tf.Tensor, filters: tf.Tensor, stride: int) -> tf.Tensor:
    """A "SAME" convolution as one product of windows, [N * out_h * out_w, side**2 * c_in], and filters.

    For deep layers with few output positions and many filters, where ordinary kernels reread every filter
    for each small group of positions. `side` must be a multiple of the stride: each window then consists
    of whole stride x stride cells, and slices of cells are contiguous.
    """
    side, c_in, c_out = filters.shape[0], filters.shape[2], filters.shape[3]
    cells = side // stride  # per window and axis
    sizes = _output_sizes(x, stride)
    pads = [max((size + cells - 1) * stride - length, 0) for size, length in zip(sizes, x.shape[1:3])]
    x = tf.pad(x, [[0, 0], *([pad // 2, pad - pad // 2] for pad in pads), [0, 0]])
    if stride > 1:
        x = tf.nn.space_to_depth(x, stride)
    (out_h, out_w), steps = sizes, range(cells)
    windows = tf.stack([x[:, i : i + out_h, j : j + out_w] for i in steps for j in steps], axis=3)
    windows = tf.reshape(windows, [-1, cells, cells, stride, stride, c_in])
    windows = tf.transpose(windows, [0, 1, 3, 2, 4, 5])  # filter order: cell row, row in cell, ...
    windows = tf.reshape(windows, [-1, side * side * c_in])
    outputs = _matmul(windows, tf.reshape(filters, [side * side * c_in, c_out]))
    return tf.reshape(outputs, [-1, out_h, out_w, c_out])
