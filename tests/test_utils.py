import numpy as np
import pytest

import utils
from common.errors import UserError
from images import bicubic
from images.files import write_rgb
from images.pixels import to_integers


def picture(h=12, w=20, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def test_note_helpers_read_crop_and_shrink(tmp_path):
    image = picture(386, 400)
    write_rgb(tmp_path / "a.png", image)
    read = utils.get_imgs_fn("a.png", str(tmp_path))
    np.testing.assert_array_equal(read, image)
    hr = utils.crop_sub_imgs_fn(read, is_random=False)
    assert hr.shape == (384, 384, 3)
    assert hr.dtype == np.float32
    np.testing.assert_array_equal(to_integers(hr), image[1:385, 8:392])
    lr = utils.downsample_fn(hr)
    assert lr.shape == (96, 96, 3)
    assert lr.dtype == np.float32
    np.testing.assert_array_equal(to_integers(lr), bicubic.downsample(image[1:385, 8:392], 4))


def test_random_crops_differ_and_follow_the_seed_of_numpy():
    image = picture(400, 400)
    np.random.seed(0)
    first, second = utils.crop_sub_imgs_fn(image), utils.crop_sub_imgs_fn(image)
    np.random.seed(0)
    np.testing.assert_array_equal(utils.crop_sub_imgs_fn(image), first)
    assert (first != second).any()


def test_note_helpers_keep_a_flat_colour():
    hr = utils.crop_sub_imgs_fn(np.full((384, 384, 3), (10, 128, 240), np.uint8))
    assert (to_integers(utils.downsample_fn(hr)) == (10, 128, 240)).all()


def test_a_picture_too_small_for_the_note_crop_is_a_users_error():
    with pytest.raises(UserError, match="384 x 384"):
        utils.crop_sub_imgs_fn(picture(383, 500))
