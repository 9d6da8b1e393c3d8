"""PSNR and SSIM on the luma channel, as in super-resolution papers."""

from __future__ import annotations

import math

import numpy as np
from skimage import color
from skimage import metrics as skimage_metrics

PEAK = 255.0
SSIM_WINDOW_PX = 11  # Wang et al. 2004


def to_y(rgb: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] -> float64 [h, w], 16.0 (black) to 235.0 (white), not rounded.

    MATLAB's rgb2ycbcr rounds to uint8; papers on colour networks do not. Bicubic on Set5 gives
    28.43 dB / .8111 without rounding and 28.42 / .8101 with it. The published 28.42 / .8104 come from
    shrinking and enlarging rounded Y, which is impossible with a colour network.
    """
    assert (rgb.dtype, rgb.ndim, rgb.shape[-1]) == (np.uint8, 3, 3), (rgb.dtype, rgb.shape)
    return color.rgb2ycbcr(rgb)[..., 0]


def least_side(scale: int) -> int:
    """Smallest HR side in px that can be scored: SSIM's window plus a border on both sides."""
    return 2 * scale + SSIM_WINDOW_PX


def psnr_y(a: np.ndarray, b: np.ndarray, border: int) -> float:
    """Two uint8 [h, w, 3] images -> PSNR on Y in dB, without `border` px per side; inf if equal."""
    a, b = _shaved_y(a, b, border)
    if np.array_equal(a, b):
        return math.inf
    return float(skimage_metrics.peak_signal_noise_ratio(a, b, data_range=PEAK))


def ssim_y(a: np.ndarray, b: np.ndarray, border: int) -> float:
    """Two uint8 [h, w, 3] images -> mean SSIM on Y (Wang et al. 2004), without `border` px per side.

    Uses the 11 x 11 Gaussian window of the paper's MATLAB code, only where it lies inside the image.
    """
    a, b = _shaved_y(a, b, border)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(skimage_metrics.structural_similarity(a, b, data_range=PEAK, **options))


def _shaved_y(a: np.ndarray, b: np.ndarray, border: int) -> tuple[np.ndarray, np.ndarray]:
    height, width = a.shape[:2]
    assert a.shape == b.shape and min(height, width) > 2 * border, (a.shape, b.shape, border)
    inside = np.s_[border : height - border, border : width - border]
    return to_y(a)[inside], to_y(b)[inside]
