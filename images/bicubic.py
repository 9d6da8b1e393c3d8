"""MATLAB's bicubic `imresize`."""

from __future__ import annotations

import functools
import math

import numpy as np

_CHUNK = 2048  # columns resized at a time: bounds the float64 copy whatever the image's size


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
    return weights, mirrored(indices, in_size)


def mirrored(indices: np.ndarray, size: int) -> np.ndarray:
    """Indices beyond an axis of `size` px, mirrored at its ends ('symmetric')."""
    indices = np.mod(indices, 2 * size)
    return np.minimum(indices, 2 * size - 1 - indices)


@functools.lru_cache(16)  # training resizes patches of one size again and again
def _resize_matrix(in_size: int, out_size: int, scale: float, border: str):
    """The contributions as a sparse matrix [out_size, in_size]."""
    from scipy.sparse import csr_array

    weights, indices = _contributions(in_size, out_size, scale, border)
    rows = np.broadcast_to(np.arange(out_size)[:, None], indices.shape)
    matrix = csr_array((weights.ravel(), (rows.ravel(), indices.ravel())), shape=(out_size, in_size))
    matrix.eliminate_zeros()
    return matrix


def _resize_rows(image: np.ndarray, out_size: int, scale: float, border: str) -> np.ndarray:
    """[h, columns] -> [out_size, columns] of its dtype; uint8 is rounded half up and clipped."""
    matrix = _resize_matrix(image.shape[0], out_size, scale, border)
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


def downsample(image: np.ndarray, scale: int, border: str = "symmetric") -> np.ndarray:
    """HR [h, w(, c)] -> LR [h/scale, w/scale(, c)] of the same dtype; sides divisible by scale."""
    assert not any(side % scale for side in image.shape[:2]), (image.shape, scale)
    return resize(image, 1 / scale, border)


def upsample(image: np.ndarray, scale: int) -> np.ndarray:
    """LR [h, w(, c)] -> [scale * h, scale * w(, c)] of the same dtype."""
    return resize(image, scale)
