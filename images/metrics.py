"""PSNR and SSIM on the luma channel, as super-resolution papers measure them."""

from __future__ import annotations

import math

import numpy as np
from skimage import color
from skimage import metrics as skimage_metrics

PEAK = 255.0
SSIM_WINDOW_PX = 11  # (Wang et al. 2004)


def to_y(rgb: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3] -> float64 [h, w], 16.0 (black) to 235.0 (white), not rounded.

    MATLAB's rgb2ycbcr rounds to uint8; papers on colour networks do not. Bicubic on Set5 gives
    28.43 dB / .8111 this way and 28.42 / .8101 rounded; the published 28.42 / .8104 come from
    shrinking and enlarging the rounded Y itself, which a colour network cannot do.
    """
    assert (rgb.dtype, rgb.ndim, rgb.shape[-1]) == (np.uint8, 3, 3), (rgb.dtype, rgb.shape)
    return color.rgb2ycbcr(rgb)[..., 0]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """Two pictures of one shape, 0-255 -> PSNR in dB, infinite where they are equal."""
    assert a.shape == b.shape, (a.shape, b.shape)
    if np.array_equal(a, b):
        return math.inf
    return float(skimage_metrics.peak_signal_noise_ratio(a, b, data_range=PEAK))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Two [h, w] pictures, 0-255, 11 px or more a side -> mean SSIM (Wang et al. 2004)."""
    assert a.shape == b.shape, (a.shape, b.shape)
    assert a.ndim == 2, a.shape
    # The window of the paper's MATLAB code, 11x11, averaged where it lies within the picture.
    return float(
        skimage_metrics.structural_similarity(
            a.astype(np.float64),
            b.astype(np.float64),
            data_range=PEAK,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def least_side(scale: int) -> int:
    """Pixels of HR that the measures need: SSIM's window between two borders."""
    return 2 * scale + SSIM_WINDOW_PX


def psnr_y(a: np.ndarray, b: np.ndarray, border: int) -> float:
    """Two uint8 [h, w, 3] images -> PSNR in dB on Y without `border` px (usually the scale) at each side."""
    return psnr(_shaved_y(a, border), _shaved_y(b, border))


def ssim_y(a: np.ndarray, b: np.ndarray, border: int) -> float:
    """Two uint8 [h, w, 3] pictures -> mean SSIM on Y, `border` pixels shaved off each side."""
    return ssim(_shaved_y(a, border), _shaved_y(b, border))


def _shaved_y(rgb: np.ndarray, border: int) -> np.ndarray:
    assert min(rgb.shape[:2]) > 2 * border, (rgb.shape, border)
    return to_y(rgb)[border : rgb.shape[0] - border, border : rgb.shape[1] - border]
