from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from images import bicubic, metrics

HERE = Path(__file__).parent
BENCHMARK = Path(__file__).resolve().parents[3] / "shared" / "data" / "benchmark"
needs_benchmark = pytest.mark.skipif(not BENCHMARK.is_dir(), reason="needs the benchmark images")


def benchmark_pairs(name):
    for path in sorted((BENCHMARK / name / "HR").iterdir()):
        lr = BENCHMARK / name / "LR_bicubic_x4" / path.name
        yield path.stem, *(np.array(Image.open(file).convert("RGB")) for file in (path, lr))


def test_an_image_is_made_small_as_matlab_made_it():
    """64 x 64 px of Set14's 'comic' and MATLAB's LR, but for the 2 px that saw what lay around them."""
    hr, lr = (np.array(Image.open(HERE / f"matlab_{name}.png")) for name in ("hr", "lr"))
    np.testing.assert_array_equal(bicubic.downsample(hr, 4)[2:-2, 2:-2], lr[2:-2, 2:-2])


def noise(*shape, block=1):
    """Black and white noise; beside blocks the kernel overshoots and is clipped."""
    values = np.random.default_rng(0).integers(0, 2, shape).astype(np.uint8) * 255
    return values.repeat(block, axis=0).repeat(block, axis=1)


def downsample_clamped(hr):
    """x1/4 by the MATLAB that made the benchmark LR, whose border repeats the last pixel."""
    return bicubic.downsample(np.pad(hr, ((16, 16), (16, 16), (0, 0)), mode="edge"), 4)[4:-4, 4:-4]


@needs_benchmark
@pytest.mark.parametrize("name", ["Set5", "Set14"])
def test_clamped_border_reproduces_every_value_that_matlab_wrote(name):
    for stem, hr, lr in benchmark_pairs(name):
        np.testing.assert_array_equal(downsample_clamped(hr), lr, err_msg=stem)


@needs_benchmark
@pytest.mark.parametrize(("name", "published_db", "published_ssim"), [("Set5", 28.42, 0.8104)])
def test_luma_path_of_the_papers_gives_the_published_bicubic_row(
    monkeypatch, name, published_db, published_ssim
):
    scores = []
    for _, hr, _ in benchmark_pairs(name):
        y = np.floor(metrics.to_y(hr) + 0.5)
        sr = np.floor(bicubic.upsample(bicubic.downsample(y, 4), 4) + 0.5).clip(0, 255)
        with monkeypatch.context() as patch:
            patch.setattr(metrics, "to_y", lambda y: y)  # it is Y already
            scores.append((metrics.psnr_y(y, sr, 4), metrics.ssim_y(y, sr, 4)))
    psnr_db, ssim = np.mean(scores, axis=0)
    assert psnr_db == pytest.approx(published_db, abs=0.005)
    assert ssim == pytest.approx(published_ssim, abs=0.00005)


def test_shrinking_by_4_uses_the_hand_computed_taps():
    # Keys' kernel at distances 1/8, 3/8, ... 15/8, over 4; as 4096ths.
    taps = [-7, -45, -75, -49, 93, 399, 745, 987, 987, 745, 399, 93, -49, -75, -45, -7]
    impulses = np.eye(48)  # column i holds a single one in row i
    shrunk = bicubic.resize(impulses, (12, 48))
    np.testing.assert_allclose(shrunk[6, 18:34] * 4096, taps, atol=1e-9)
    assert np.count_nonzero(shrunk[6]) == 16


@pytest.mark.parametrize(
    ("scale", "taps"),
    [
        (2, [-3 / 256, -9 / 256, 29 / 256, 111 / 256, 111 / 256, 29 / 256, -9 / 256, -3 / 256]),
        (3, [-1 / 81, -2 / 81, 0, 9 / 81, 21 / 81, 27 / 81, 21 / 81, 9 / 81, 0, -2 / 81, -1 / 81]),
    ],
)
def test_shrinking_by_2_and_3_uses_the_hand_computed_taps(scale, taps):
    # Keys' kernel at distances 1/4 ... 7/4, over 2; and at 0, 1/3 ... 5/3, over 3
    across = bicubic.resize(np.eye(48), (48 // scale, 48))[48 // scale // 2]
    centre = scale * (48 // scale // 2) + (scale - 1) / 2
    first = int(np.ceil(centre - (len(taps) - 1) / 2))
    np.testing.assert_allclose(across[first : first + len(taps)], taps, atol=1e-12)
    assert np.abs(across).sum() == pytest.approx(np.abs(taps).sum())


def test_enlarging_uses_four_taps_and_no_antialiasing():
    # Keys' kernel at distances 13/8, 5/8, 3/8, 11/8, as 1024ths.
    enlarged = bicubic.resize(np.eye(8), (32, 8))
    np.testing.assert_allclose(enlarged[16, 2:6] * 1024, [-45, 399, 745, -75], atol=1e-9)


def test_uint8_is_rounded_after_each_pass_and_floats_are_not():
    image = noise(8, 8, block=8)
    floats = bicubic.downsample(image.astype(np.float64), 4)
    assert floats.dtype == np.float64
    assert floats.min() < 0
    assert floats.max() > 255
    rows = np.floor(bicubic.resize(image.astype(np.float64), (16, 64)) + 0.5).clip(0, 255)
    both = np.floor(bicubic.resize(rows, (16, 16)) + 0.5).clip(0, 255)
    np.testing.assert_array_equal(bicubic.downsample(image, 4), both)
    assert (np.floor(floats + 0.5).clip(0, 255) != both).any()


def test_symmetric_border_is_that_of_a_mirrored_random_image():
    image = noise(16, 16, 3)
    mirrored = np.pad(image, ((16, 16), (16, 16), (0, 0)), mode="symmetric")
    np.testing.assert_array_equal(bicubic.downsample(image, 4), bicubic.downsample(mirrored, 4)[4:8, 4:8])


def test_the_axis_that_shrinks_most_is_resized_first():
    image = noise(12, 48)
    rows_last = bicubic.resize(bicubic.resize(image, (12, 6)), (6, 6))
    np.testing.assert_array_equal(bicubic.resize(image, (6, 6)), rows_last)


def test_sizes_and_types_are_those_of_matlab():
    assert bicubic.resize(noise(5, 7, 3), (9, 2)).shape == (9, 2, 3)
    assert bicubic.upsample(noise(5, 7, 3), 4).shape == (20, 28, 3)
    assert bicubic.upsample(noise(5, 7).astype(np.float32), 4).dtype == np.float32


def test_flat_gray_stays_the_same_gray_for_all_256():
    grays = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, 8, 12, 1))
    for gray in grays:
        assert (bicubic.downsample(gray, 4) == gray[0, 0]).all()
        assert (bicubic.upsample(gray, 4) == gray[0, 0]).all()


def test_sides_that_4_does_not_divide_are_refused():
    with pytest.raises(AssertionError):
        bicubic.downsample(noise(10, 12), 4)
