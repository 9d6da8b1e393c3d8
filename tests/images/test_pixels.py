"""Pixel ranges, and several images as one."""

import numpy as np
import pytest
from examples import random_image

from images import pixels


def test_floats_are_in_minus_1_to_1_and_clipped_on_the_way_back():
    floats = pixels.to_float(np.uint8([0, 255]))
    assert floats.dtype == np.float32 and floats.tolist() == [-1, 1]
    np.testing.assert_array_equal(pixels.to_integers(np.array([-1.5, 0.0, 0.004, 1.5])), [0, 128, 128, 255])


def test_side_by_side_shows_every_image_under_its_caption():
    images = [random_image(40, 30), random_image(60, 200, seed=1)]
    sheet = pixels.side_by_side(images, ["LR | 24 x 24 px", "HR"])
    strip = sheet.shape[0] - 60
    np.testing.assert_array_equal(sheet[strip : strip + 40, :30], images[0])
    np.testing.assert_array_equal(sheet[strip:, -200:], images[1])
    assert sheet[:strip, :30].min() < 100  # the caption's ink
    assert sheet[strip + 40 :, :30].min() == 255  # white below the lower image


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_integer_survives_the_way_to_floats_and_back(dtype):
    values = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
    np.testing.assert_array_equal(pixels.to_integers(pixels.to_float(values), dtype), values)
