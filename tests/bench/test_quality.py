"""The measures of bench/quality.py."""

import math

import numpy as np
import pytest
import quality
from scipy import ndimage

from images.photos import validation_photo

FROZEN_NIQE = [8.7619013, 14.1363064, 14.5887460, 12.4783371]


def flat(value, size=24):
    return np.full((size, size, 3), value, np.uint8)


def test_colour_shift_is_that_of_the_worst_channel():
    a, b = flat(100), flat(100)
    b[..., 1], b[:12, :, 2] = 98, 103  # a difference of 2 everywhere, and one of 3 in one half
    assert quality.colour_shift(a, b) == quality.colour_shift(b, a) == 2.0


def test_black_is_measured_where_hr_is_black_all_around():
    hr = flat(200)
    hr[:, :12] = 3
    sr = hr.copy()
    sr[:, 8:] += 50  # what lies within 4 px of the bright half does not count
    assert quality.black(sr, hr) == 3.0
    sr[:, 4:8, 2] += 20  # a tint in half of what does
    assert quality.black(sr, hr) == 13.0
    assert math.isnan(quality.black(sr, flat(4)))


def test_sharpness_is_a_fraction_of_hrs_gradient():
    ramp = np.repeat(np.arange(0, 48, 2, dtype=np.uint8)[:, None, None], 3, 2) + flat(0)
    steep = 2 * ramp
    assert quality.sharpness(ramp, steep) == pytest.approx(0.5)


def test_grid_is_the_deviation_of_positions_and_of_no_other_pattern():
    positions = np.zeros((4, 4))
    positions[1, 2] = 16
    plain = flat(60, 124)
    pattern = np.tile(positions, (31, 31)).astype(np.uint8)[..., None] + plain
    # 9 x 9 px around that place hold 9 of its kind, in its row or column of positions 6, elsewhere 4: their
    # mean is subtracted, and what is left has the mean 0
    squares = (16 - 16 * 9 / 81) ** 2 + 6 * (16 * 6 / 81) ** 2 + 9 * (16 * 4 / 81) ** 2
    assert quality.grid(pattern, plain) == pytest.approx(math.sqrt(squares / 16))
    assert quality.grid(plain, plain) == 0.0
    ramp = plain + np.arange(124, dtype=np.uint8)[:, None]
    assert quality.grid(ramp, ramp) == pytest.approx(0.0, abs=1e-9)


def test_grid_is_measured_where_hr_is_flat():
    grain = 6 * (np.indices((128, 128)).sum(0) % 2)  # a standard deviation of 3 levels
    grained = flat(60, 128) + grain[..., None].astype(np.uint8)
    half_flat = np.concatenate([flat(60, 128)[:, :72], grained[:, 72:]], axis=1)
    sr = flat(60, 128)
    sr[:, 88::4] = 90  # a grid in the other half, out of reach of a mean of 9 x 9 px
    assert quality.grid(sr, half_flat) == 0.0
    assert quality.grid(sr, flat(60, 128)) > 1
    assert math.isnan(quality.grid(sr, grained))


def test_niqe_keeps_its_numbers_and_grows_with_unnatural_images():
    """Frozen numbers; noise, blur and dots must score worse than the photograph."""
    niqe = quality.Niqe()
    photo = validation_photo()
    rng = np.random.default_rng(0)
    noisy = np.clip(photo + rng.normal(0, 25, photo.shape), 0, 255).astype(np.uint8)
    blurred = np.stack([ndimage.gaussian_filter(photo[..., c], 2) for c in range(3)], axis=-1)
    dotted = np.clip(photo.astype(int) + 12 * (np.indices((512, 512)).sum(0) % 4 == 0)[..., None], 0, 255)
    scores = [niqe(image.astype(np.uint8)) for image in (photo, noisy, blurred, dotted)]
    assert min(scores[1:]) > 1.2 * scores[0]
    assert scores == pytest.approx(FROZEN_NIQE, rel=1e-3)


def test_outlines_are_unevenness_next_to_edges_that_hr_lacks():
    hr = flat(100, 64)
    hr[:, :20] = 200  # 5 px around columns 18 to 21 hold the edge: 10 to 17 and 22 to 29 are beside
    assert quality.outlines(hr, hr) == 0.0
    sr = hr.copy()
    sr[:, 34:] += 50 * (np.indices((64, 30)).sum(0) % 2)[..., None].astype(np.uint8)  # too far away
    assert quality.outlines(sr, hr) == 0.0
    ripple = hr.copy()
    ripple[:, 27] += 10  # in a fifth of the windows around columns 25 to 29; Y has 219 levels
    expected = 5 / 16 * 10 * math.sqrt(0.2 * 0.8) * 219 / 255
    assert quality.outlines(ripple, hr) == pytest.approx(expected)
    assert math.isnan(quality.outlines(sr, flat(100, 64)))


@pytest.mark.parametrize(("grain", "step", "counts"), [(4, 50, True), (6, 50, False), (4, 30, False)])
def test_outlines_are_measured_where_hr_is_flat_next_to_a_strong_edge(grain, step, counts):
    """HR's deviations, of 255 levels: half of `grain` all over, nearly half of `step` at the edge."""
    hr = flat(100, 64)
    hr[:, :20] += np.uint8(step)
    hr += (grain * (np.indices((64, 64)).sum(0) % 2)[..., None]).astype(np.uint8)
    assert math.isnan(quality.outlines(hr, hr)) != counts


def test_fine_power_is_a_fraction_of_hrs_finest_octave():
    x = np.indices((64, 64))[1]
    wave = {cycles: np.cos(2 * np.pi * cycles * x) for cycles in (0.1, 0.3)}
    hr, soft = (
        np.rint(128 + 40 * wave[0.1] + amplitude * wave[0.3]).astype(np.uint8)[..., None].repeat(3, 2)
        for amplitude in (40, 20)
    )
    assert quality.fine_power(hr, hr) == 1.0
    assert quality.fine_power(soft, hr) == pytest.approx(0.25, abs=0.01)
