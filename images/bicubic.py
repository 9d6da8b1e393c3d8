"""MATLAB's bicubic `imresize`, in NumPy and as a TensorFlow graph."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

SCALE = 4
_CHUNK = 2048  # columns resized at a time: bounds the float64 copy whatever the picture's size


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -0.5, MATLAB's choice (Keys 1981, eq. 15)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def _contributions(
    in_size: int, out_size: int, scale: float, border: str = "symmetric"
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and source indices, each [out_size, taps]; the kernel widens when shrinking."""
    assert border in ("symmetric", "clamp"), border
    shrink = min(scale, 1.0)
    width = 4.0 / shrink
    centre = (np.arange(out_size) + 0.5) / scale - 0.5
    left = np.floor(centre - width / 2).astype(np.int64)
    indices = left[:, None] + np.arange(math.ceil(width) + 2)
    weights = _cubic(shrink * (centre[:, None] - indices))
    weights /= weights.sum(axis=1, keepdims=True)
    if border == "clamp":
        return weights, indices.clip(0, in_size - 1)
    mirrored = np.mod(indices, 2 * in_size)
    return weights, np.minimum(mirrored, 2 * in_size - 1 - mirrored)


def _resize_rows(image: np.ndarray, out_size: int, scale: float, border: str) -> np.ndarray:
    """[h, columns] -> [out_size, columns] of its dtype; uint8 is rounded half up and clipped."""
    from scipy.sparse import csr_array

    weights, indices = _contributions(image.shape[0], out_size, scale, border)
    rows = np.broadcast_to(np.arange(out_size)[:, None], indices.shape)
    matrix = csr_array((weights.ravel(), (rows.ravel(), indices.ravel())), shape=(out_size, image.shape[0]))
    matrix.eliminate_zeros()
    resized = np.empty((out_size, image.shape[1]), image.dtype)
    for start in range(0, image.shape[1], _CHUNK):
        columns = slice(start, start + _CHUNK)
        values = matrix @ image[:, columns].astype(np.float64)
        if image.dtype == np.uint8:
            values = (values + 0.5).clip(0, 255)  # storing it as uint8 takes the floor
        resized[:, columns] = values
    return resized


def resize(
    image: np.ndarray, scale_or_shape: float | tuple[int, int], border: str = "symmetric"
) -> np.ndarray:
    """[h, w] or [h, w, c], uint8 or float -> the same dtype, resized as MATLAB's `imresize` does.

    `border` is 'symmetric' (today's MATLAB) or 'clamp' (the MATLAB that made the benchmark LR).
    """
    assert image.ndim in (2, 3), image.shape
    assert image.dtype == np.uint8 or np.issubdtype(image.dtype, np.floating), image.dtype
    size = image.shape[:2]
    if isinstance(scale_or_shape, tuple):
        shape = scale_or_shape
        scales = tuple(new / old for new, old in zip(shape, size))
    else:
        scales = (float(scale_or_shape),) * 2
        shape = tuple(math.ceil(round(side * scales[0], 6)) for side in size)
    # MATLAB starts with the axis that shrinks most, the vertical one when both are equal.
    for axis in sorted((0, 1), key=lambda axis: scales[axis]):
        moved = np.moveaxis(image, axis, 0)
        rows = _resize_rows(moved.reshape(moved.shape[0], -1), shape[axis], scales[axis], border)
        image = np.moveaxis(rows.reshape(shape[axis], *moved.shape[1:]), 0, axis)
    return np.ascontiguousarray(image)


def downsample(image: np.ndarray, scale: int = SCALE, border: str = "symmetric") -> np.ndarray:
    """HR [h, w(, c)] -> LR [h/scale, w/scale(, c)] of the same dtype; sides divisible by scale."""
    assert not any(side % scale for side in image.shape[:2]), (image.shape, scale)
    return resize(image, 1 / scale, border)


def upsample(image: np.ndarray, scale: int = SCALE) -> np.ndarray:
    """LR [h, w(, c)] -> [scale * h, scale * w(, c)] of the same dtype."""
    return resize(image, scale)


def downsample_graph(images: tf.Tensor) -> tf.Tensor:
    """HR uint8 [n, h, w, c] -> LR uint8 [n, h/4, w/4, c], the very numbers of `downsample`.

    Two products with banded matrices: faster than strided convolutions or slices on CPU. They are
    exact, because the taps are multiples of 1/4096 below 987/4096: 11 bits, which float32 and the
    TF32 of GPUs hold in full. bfloat16 would not do.
    """
    import tensorflow as tf

    assert (images.dtype, images.shape.rank) == (tf.uint8, 4), images
    static, dynamic = images.shape.as_list(), tf.shape(images)
    assert all(side is None or side % SCALE == 0 for side in static[1:3]), static
    n, h, w, c = (dynamic[i] if side is None else side for i, side in enumerate(static))
    weights, indices = _contributions(16 * SCALE, 16, 1 / SCALE)
    inner = weights[8] != 0  # an output away from the border shows the taps all of them share
    taps = tf.constant(weights[8][inner], tf.float32)
    offsets = tf.constant(indices[8][inner] - 8 * SCALE, tf.int32)

    def shrink(rows: tf.Tensor, size: int | tf.Tensor) -> tf.Tensor:
        """float [size, columns] -> [size/4, columns], rounded half up and clipped to 0-255."""
        sources = tf.math.floormod(SCALE * tf.range(size // SCALE)[:, None] + offsets, 2 * size)
        sources = tf.minimum(sources, 2 * size - 1 - sources)  # symmetric border
        band = tf.reduce_sum(tf.one_hot(sources, size) * taps[:, None], axis=1)
        return tf.clip_by_value(tf.floor(tf.matmul(band, rows) + 0.5), 0, 255)

    images = tf.cast(images, tf.float32)  # before the transpose: oneDNN has none for uint8
    columns = tf.reshape(tf.transpose(images, [1, 0, 2, 3]), [h, n * w * c])
    lr = tf.reshape(shrink(columns, h), [h // SCALE, n, w, c])
    lr = shrink(tf.reshape(tf.transpose(lr, [2, 1, 0, 3]), [w, n * (h // SCALE) * c]), w)
    lr = tf.reshape(lr, [w // SCALE, n, h // SCALE, c])
    lr = tf.cast(tf.transpose(lr, [1, 2, 0, 3]), tf.uint8)
    lr.set_shape([static[0], *(side and side // SCALE for side in static[1:3]), static[3]])
    return lr
