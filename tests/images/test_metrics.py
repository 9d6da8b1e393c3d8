import math

import numpy as np
import pytest

from images import metrics


def flat(value, size=24):
    return np.full((size, size, 3), value, np.uint8)


def stripes_and_a_blurred_copy():
    y, x = np.mgrid[:48, :64]
    checks = 128 + 100 * ((x // 8 + y // 8) % 2)
    sharp = np.stack([(x * 3 + y * 5) % 256, (x * y) % 256, checks], axis=2).astype(np.uint8)
    blurred = sharp.copy()
    blurred[:, 1:] = (sharp[:, 1:].astype(int) + sharp[:, :-1] + 1) // 2
    return sharp, blurred


def test_luma_is_bt601_and_not_rounded():
    colours = np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    np.testing.assert_allclose(metrics.to_y(colours), [[235, 16, 81.481, 144.553, 40.966]], rtol=1e-10)


def test_border_is_left_out():
    framed = flat(100)
    framed[:4] = framed[-4:] = framed[:, :4] = framed[:, -4:] = 0
    assert metrics.psnr_y(framed, flat(100), 4) == math.inf
    assert metrics.psnr_y(framed, flat(100), border=3) < 30
    assert metrics.psnr_y(framed, flat(100), border=0) < 20
    assert metrics.ssim_y(framed, flat(100), 4) == pytest.approx(1.0)


def test_ssim_equals_an_independent_implementation():
    # tf.image.ssim (TensorFlow 2.21) gives 0.8621049 on the same luma; SSIM written out with
    # scipy.signal.convolve2d(mode="valid") and a sampled 11x11 Gaussian gives the longer number.
    sharp, blurred = stripes_and_a_blurred_copy()
    assert metrics.ssim_y(sharp, blurred, 4) == pytest.approx(0.8621048959666, abs=1e-10)


def test_psnr_y_equals_the_formula_written_out():
    sharp, blurred = stripes_and_a_blurred_copy()
    difference = (sharp.astype(float) - blurred)[4:-4, 4:-4] @ [65.481, 128.553, 24.966] / 255
    expected_db = 10 * math.log10(255**2 / np.mean(difference**2))
    assert metrics.psnr_y(sharp, blurred, 4) == pytest.approx(expected_db, abs=1e-9)


@pytest.mark.parametrize("measure", [metrics.psnr_y, metrics.ssim_y])
def test_images_of_different_shapes_are_refused(measure):
    with pytest.raises(AssertionError):
        measure(flat(0, 24), flat(0, 28), 4)
    with pytest.raises(AssertionError):
        measure(flat(0, 8), flat(0, 8), 4)  # nothing left inside the border
