"""MATLAB's bicubic `imresize`, with the symmetric padding of current versions."""

from __future__ import annotations

import functools
import math

import numpy as np

_CHUNK = 2048  # columns resized at a time; bounds the size of the float64 copy


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = -0.5, MATLAB's choice (Keys 1981, eq. 15)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))


def mirrored(indices: np.ndarray, size: int) -> np.ndarray:
    """Mirrors indices outside [0, size) at the ends of the axis ('symmetric' padding)."""
    indices = np.mod(indices, 2 * size)
    return np.minimum(indices, 2 * size - 1 - indices)


@functools.lru_cache(16)  # training resizes many patches of the same size
def _resize_matrix(in_size: int, out_size: int):
    """Sparse [out_size, in_size] matrix; the kernel is wider when shrinking."""
    from scipy.sparse import csr_array

    scale = out_size / in_size
    shrink = min(scale, 1.0)
    width = 4.0 / shrink
    centre = (np.arange(out_size) + 0.5) / scale - 0.5
    left = np.floor(centre - width / 2).astype(np.int64)
    indices = left[:, None] + np.arange(math.ceil(width) + 2)  # [out_size, taps]
    weights = _cubic(shrink * (centre[:, None] - indices))
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.broadcast_to(np.arange(out_size)[:, None], indices.shape)
    places = rows.ravel(), mirrored(indices, in_size).ravel()
    matrix = csr_array((weights.ravel(), places), shape=(out_size, in_size))
    matrix.eliminate_zeros()
    return matrix


def _resize_rows(image: np.ndarray, out_size: int) -> np.ndarray:
    """[h, columns] -> [out_size, columns], same dtype; uint8 is rounded half up and clipped."""
    matrix = _resize_matrix(image.shape[0], out_size)
    resized = np.empty((out_size, image.shape[1]), image.dtype)
    for start in range(0, image.shape[1], _CHUNK):
        columns = slice(start, start + _CHUNK)
        values = matrix @ image[:, columns].astype(np.float64)
        if image.dtype == np.uint8:
            values = (values + 0.5).clip(0, 255)  # conversion to uint8 rounds down
        resized[:, columns] = values
    return resized


def resize(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """[h, w] or [h, w, c], uint8 or float -> the same dtype, resized as MATLAB's `imresize` does."""
    assert image.ndim in (2, 3), image.shape
    assert image.dtype == np.uint8 or np.issubdtype(image.dtype, np.floating), image.dtype
    scales = [new / old for new, old in zip(shape, image.shape)]
    # like MATLAB: first the axis that shrinks most, or the vertical one if both are equal
    for axis in sorted((0, 1), key=scales.__getitem__):
        moved = np.moveaxis(image, axis, 0)
        rows = _resize_rows(moved.reshape(moved.shape[0], -1), shape[axis])
        image = np.moveaxis(rows.reshape(shape[axis], *moved.shape[1:]), 0, axis)
    return np.ascontiguousarray(image)


def downsample(image: np.ndarray, scale: int) -> np.ndarray:
    """HR [h, w(, c)] -> LR [h/scale, w/scale(, c)] of the same dtype; sides divisible by scale."""
    height, width = image.shape[:2]
    assert height % scale == width % scale == 0, (image.shape, scale)
    return resize(image, (height // scale, width // scale))


def upsample(image: np.ndarray, scale: int) -> np.ndarray:
    """LR [h, w(, c)] -> [scale * h, scale * w(, c)] of the same dtype."""
    return resize(image, (scale * image.shape[0], scale * image.shape[1]))
