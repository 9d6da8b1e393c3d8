import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from images import bicubic, metrics

BENCHMARK = Path(__file__).resolve().parents[3] / "shared" / "data" / "benchmark"


def flat(value, size=24):
    return np.full((size, size, 3), value, np.uint8)


def stripes_and_a_blurred_copy():
    y, x = np.mgrid[:48, :64]
    checks = 128 + 100 * ((x // 8 + y // 8) % 2)
    sharp = np.stack([(x * 3 + y * 5) % 256, (x * y) % 256, checks], axis=2).astype(np.uint8)
    blurred = sharp.copy()
    blurred[:, 1:] = (sharp[:, 1:].astype(int) + sharp[:, :-1] + 1) // 2
    return sharp, blurred


def test_luma_of_white_is_235_and_of_black_16():
    assert metrics.to_y(flat(255)) == pytest.approx(235.0, abs=1e-9)
    assert metrics.to_y(flat(0)) == pytest.approx(16.0, abs=1e-9)


def test_luma_of_pure_colours_is_bt601_and_not_rounded():
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    np.testing.assert_allclose(metrics.to_y(colours), [[81.481, 144.553, 40.966]])


def test_psnr_y_of_gray_levels_apart_by_1_is_higher_by_the_luma_range():
    # One gray level is 219/255 of a luma level: 20 log10(255) + 20 log10(255/219).
    assert metrics.psnr_y(flat(100), flat(101)) == pytest.approx(49.4527, abs=5e-5)


def test_equal_images_have_infinite_psnr_and_ssim_1():
    image, _ = stripes_and_a_blurred_copy()
    assert metrics.psnr_y(image, image) == math.inf
    assert metrics.ssim_y(image, image) == pytest.approx(1.0)


def test_border_is_left_out():
    framed = flat(100)
    framed[:4] = framed[-4:] = framed[:, :4] = framed[:, -4:] = 0
    assert metrics.psnr_y(framed, flat(100)) == math.inf
    assert metrics.psnr_y(framed, flat(100), border=3) < 30
    assert metrics.psnr_y(framed, flat(100), border=0) < 20
    assert metrics.ssim_y(framed, flat(100)) == pytest.approx(1.0)


def test_ssim_equals_an_independent_implementation():
    # tf.image.ssim (TensorFlow 2.21) gives 0.8621049 on the same luma; SSIM written out with
    # scipy.signal.convolve2d(mode="valid") and a sampled 11x11 Gaussian gives the longer number.
    sharp, blurred = stripes_and_a_blurred_copy()
    assert metrics.ssim_y(sharp, blurred) == pytest.approx(0.8621048959666, abs=1e-10)


def test_psnr_y_equals_the_formula_written_out():
    sharp, blurred = stripes_and_a_blurred_copy()
    difference = (sharp.astype(float) - blurred)[4:-4, 4:-4] @ [65.481, 128.553, 24.966] / 255
    expected_db = 10 * math.log10(255**2 / np.mean(difference**2))
    assert metrics.psnr_y(sharp, blurred) == pytest.approx(expected_db, abs=1e-9)


@pytest.mark.parametrize("measure", [metrics.psnr_y, metrics.ssim_y])
def test_images_of_different_shapes_are_refused(measure):
    with pytest.raises(AssertionError):
        measure(flat(0, 24), flat(0, 28))
    with pytest.raises(AssertionError):
        measure(flat(0, 8), flat(0, 8))  # nothing left inside the border


@pytest.mark.skipif(not BENCHMARK.is_dir(), reason="needs the benchmark images")
@pytest.mark.parametrize(
    # Papers print 28.42 / .8104 and 26.00 / .7027, taken on a rounded Y; in Set14 they also take
    # the gray `bridge` on its full range, which is worth 0.09 dB of the mean.
    ("name", "expected_db", "expected_ssim"),
    [("Set5", 28.43, 0.8111), ("Set14", 26.09, 0.7048)],
)
def test_bicubic_upscaling_of_the_benchmark_scores_as_known(name, expected_db, expected_ssim):
    scores = []
    for path in sorted((BENCHMARK / name / "HR").iterdir()):
        hr = np.array(Image.open(path).convert("RGB"))
        lr = np.array(Image.open(BENCHMARK / name / "LR_bicubic_x4" / path.name).convert("RGB"))
        sr = bicubic.upsample(lr)
        scores.append((metrics.psnr_y(hr, sr), metrics.ssim_y(hr, sr)))
    psnr_db, ssim = np.mean(scores, axis=0)
    assert psnr_db == pytest.approx(expected_db, abs=0.02)
    assert ssim == pytest.approx(expected_ssim, abs=0.0005)
