import numpy as np
import pytest

import utils
from common.errors import UserError
from images import bicubic
from images.files import write_rgb
from images.pixels import to_integers

IMAGE = np.random.default_rng(0).integers(0, 256, (386, 400, 3), np.uint8)


def test_note_helpers_read_crop_and_shrink(tmp_path):
    write_rgb(tmp_path / "a.png", IMAGE)
    read = utils.get_imgs_fn("a.png", str(tmp_path))
    np.testing.assert_array_equal(read, IMAGE)
    hr = utils.crop_sub_imgs_fn(read, is_random=False)
    assert hr.shape == (384, 384, 3) and hr.dtype == np.float32
    np.testing.assert_array_equal(to_integers(hr), IMAGE[1:385, 8:392])
    lr = utils.downsample_fn(hr)
    assert lr.shape == (96, 96, 3) and lr.dtype == np.float32
    np.testing.assert_array_equal(to_integers(lr), bicubic.downsample(IMAGE[1:385, 8:392], 4))


def test_random_crops_differ_and_follow_numpys_seed():
    np.random.seed(0)
    first, second = utils.crop_sub_imgs_fn(IMAGE), utils.crop_sub_imgs_fn(IMAGE)
    np.random.seed(0)
    np.testing.assert_array_equal(utils.crop_sub_imgs_fn(IMAGE), first)
    assert (first != second).any()


def test_images_too_small_for_the_notes_crop_are_refused():
    with pytest.raises(UserError, match="384 x 384"):
        utils.crop_sub_imgs_fn(IMAGE[:383])
