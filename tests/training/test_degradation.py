"""LR as cameras and the web make it: its randomness, its alignment, its brightness, its rates."""

import collections
import itertools

import cv2
import numpy as np
import pytest
from test_dataset import epoch_of

from images import bicubic
from training import degradation
from training.dataset import Dataset
from training.degradation import apply_operations, sample_operations

SCALE = 4
FLAT_KINDS = ("matlab_bicubic", "gaussian", "sinc", "resize")


def operations_of(count, seed=0):
    return [sample_operations(np.random.default_rng([seed, i])) for i in range(count)]


def before_noise_and_jpeg(hr, count):
    """(LR, operations) by `count` samples of the operations that leave flat colours as they are."""
    for operations in operations_of(count):
        clean = [operation for operation in operations if operation[0] in FLAT_KINDS]
        yield apply_operations(hr, SCALE, clean), clean


def centroid(image, ground):
    weights = np.abs(image.astype(float).mean(2) - ground)
    weights *= weights > 0.1 * weights.max()
    y, x = np.indices(weights.shape)
    return (y * weights).sum() / weights.sum(), (x * weights).sum() / weights.sum()


def test_a_dot_stays_in_place_before_noise_and_jpeg():
    hr = np.full((192, 192, 3), 20, np.uint8)
    hr[88:104, 96:112] = 220  # its centre is at row 95.5, column 103.5
    expected = (95.5 + 0.5) / SCALE - 0.5, (103.5 + 0.5) / SCALE - 0.5
    for lr, operations in before_noise_and_jpeg(hr, 300):
        np.testing.assert_allclose(centroid(lr, 20), expected, atol=0.5, err_msg=str(operations))


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 30, 90)])
def test_flat_colours_change_by_at_most_1_before_noise_and_jpeg(colour):
    hr = np.full((96, 96, 3), colour, np.uint8)
    for lr, operations in before_noise_and_jpeg(hr, 200):
        assert np.abs(lr.astype(int) - colour).max() <= 1, operations


def test_noise_has_no_bias():
    image = np.full((512, 512, 3), 128, np.float32)
    normal, normal_gray = (degradation.noise(image, 8.0, is_gray, 1) for is_gray in (False, True))
    poisson, poisson_gray = (degradation.poisson(image, 400.0, is_gray, 3) for is_gray in (False, True))
    for noisy in (normal, normal_gray, poisson, poisson_gray):
        assert abs(noisy.mean() - 128) < 0.1
    assert normal.std() == pytest.approx(8, rel=0.02)
    # of n photons the deviation is the root: here of 400 * 128 / 255
    assert poisson.std() == pytest.approx(np.sqrt(400 * 128 / 255) * 255 / 400, rel=0.02)
    assert (normal_gray == normal_gray[..., :1]).all()


def test_each_operation_occurs_at_its_rate():
    d, total, sampled = degradation, 6000, operations_of(6000)
    names = [[name for name, _ in operations] for operations in sampled]
    arguments = collections.defaultdict(list)  # of each operation
    for name, values in itertools.chain(*sampled):
        arguments[name].append(values)
    gaussians, jpegs, resizes = (arguments[name] for name in ("gaussian", "jpeg", "resize"))
    noises, passes = arguments["noise"] + arguments["poisson"], len(resizes)
    modes = collections.Counter(resize["mode"] for resize in resizes)
    blurs, sincs = len(gaussians) + len(arguments["sinc"]), len(arguments["sinc"])
    rest = 1 - d.BICUBIC_RATE - d.BICUBIC_JPEG_RATE
    for count, of, rate in (
        (names.count(["matlab_bicubic"]), total, d.BICUBIC_RATE),
        (names.count(["matlab_bicubic", "jpeg"]), total, d.BICUBIC_JPEG_RATE),
        (sum(each.count("resize") == 2 for each in names), total, rest * d.TWICE_RATE),
        (blurs, passes, d.BLUR_RATE),
        (sincs, blurs, d.SINC_RATE),
        (sum(g["sigma_x"] != g["sigma_y"] for g in gaussians), len(gaussians), d.ANISOTROPIC_RATE),
        (len(noises), passes, d.NOISE_RATE),
        (sum(noise["gray"] for noise in noises), len(noises), d.GRAY_NOISE_RATE),
        (len(arguments["poisson"]), len(noises), d.POISSON_RATE),
        (len(jpegs), total, d.BICUBIC_JPEG_RATE + d.JPEG_RATE * passes / total),
        (sum(jpeg["is_420"] for jpeg in jpegs), len(jpegs), d.CHROMA_420_RATE),
        *((modes[mode], passes, rate) for mode, rate in zip(d.RESIZE_MODES, d.RESIZE_RATES)),
    ):
        assert count / of == pytest.approx(rate, abs=4 * np.sqrt(rate / of) + 1e-9), (count, of, rate)
    qualities = [jpeg["quality"] for jpeg in jpegs]
    assert (min(qualities), max(qualities)) == d.JPEG_QUALITY
    assert {(jpeg["top"], jpeg["left"]) for jpeg in jpegs} == {(i, j) for i in range(8) for j in range(8)}


def test_jpegs_grid_begins_at_its_phase():
    grain = np.random.default_rng(0).normal(0, 6, (40, 40, 1))
    image = (128 + 2 * np.arange(40)[:, None, None] + np.repeat(grain, 3, axis=2)).astype(np.float32)
    made = degradation.jpeg(image, quality=40, is_420=False, top=3, left=5)
    np.testing.assert_array_equal(made[:3], image[:3])
    np.testing.assert_array_equal(made[:, :5], image[:, :5])

    def finest(top, left):
        """The finest parts of a block, of which quality 40 leaves nothing but rounding."""
        return np.abs(cv2.dct(np.ascontiguousarray(made[top : top + 8, left : left + 8, 1]))[4:, 4:]).max()

    assert max(finest(top, left) for top in (3, 11, 19) for left in (5, 13, 21)) < 3
    assert finest(0, 0) > 6  # before the grid begins


def test_chroma_is_halved_in_420_alone():
    stripes = np.zeros((32, 32, 3), np.float32)
    stripes[:, ::2, 0], stripes[:, 1::2, 2] = 255, 255

    def contrast(image):
        return np.abs(np.diff(image[..., 0], axis=1)).mean()

    full, half = (degradation.jpeg(stripes, 95, is_420, 0, 0) for is_420 in (False, True))
    assert contrast(full) > 180 > 100 > contrast(half)


def test_a_sinc_passes_what_is_below_its_cutoff_and_no_more():
    x = np.arange(256)
    for frequency, gain in ((np.pi / 8, 1.0), (0.9 * np.pi, 0.0)):
        wave = np.broadcast_to(128 + 60 * np.cos(frequency * x)[None, :, None], (256, 256, 3))
        filtered = degradation.sinc(wave.astype(np.float32), np.pi / 2)[64:-64, 64:-64]
        assert filtered.std() / wave.std() == pytest.approx(gain, abs=0.12)


def test_lr_and_hr_of_a_batch_are_aligned_whatever_was_done():
    errors = collections.Counter()
    options = {"patch_size": 64, "batch_size": 8, "crops_per_image": 8, "seed": 0}
    for lr, hr in epoch_of(Dataset("sample", scale=4, degradation="photo", **options), 0):
        for low, high in zip(lr.astype(float), hr):
            small = bicubic.downsample(high, 4).astype(float)[2:-2, 2:-2]
            for shift in ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)):
                errors[shift] += ((np.roll(low, shift, (0, 1))[2:-2, 2:-2] - small) ** 2).mean()
    assert errors[0, 0] < 0.7 * min(error for shift, error in errors.items() if any(shift))
    assert max(errors.values()) < 1.2 * min(error for shift, error in errors.items() if any(shift))
