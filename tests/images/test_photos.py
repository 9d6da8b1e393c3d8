"""The embedded photographs, and the validation image."""

import numpy as np
import pytest
from examples import random_image

from common.errors import UserError
from images import bicubic, files, photos


def test_sample_photos_are_colour_photographs_without_the_validation_one():
    sample, validation = photos.sample_photos(), photos.validation_photo()
    assert len(sample) == 7
    for photo in [*sample.values(), validation]:
        assert photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3
        assert min(photo.shape[:2]) >= 300
        assert (photo[..., 0] != photo[..., 2]).mean() > 0.5
    assert not any(np.array_equal(photo, validation) for photo in sample.values())
    assert min(validation.shape[:2]) % 4 == 0


def test_a_missing_sample_photo_is_a_users_error(monkeypatch):
    monkeypatch.setattr(photos, "SAMPLE_FILES", {"x": ("skimage", "data/absent.png")})
    with pytest.raises(UserError, match="scikit-image"):
        photos.sample_photos()


def test_validation_image_is_a_file_or_a_numbered_one_of_a_folder_cut_to_multiples_of_4(tmp_path):
    for number, size in enumerate([(22, 27), (24, 24)]):
        files.write_rgb(tmp_path / f"{number}.png", random_image(*size, number))
    first, second = random_image(22, 27, 0)[:20, :24], random_image(24, 24, 1)
    for path, imid, expected in ((tmp_path, 0, first), (tmp_path / "0.png", 0, first), (tmp_path, 1, second)):
        hr, lr = photos.validation_pair(4, path, imid=imid)
        np.testing.assert_array_equal(hr, expected)
        np.testing.assert_array_equal(lr, bicubic.downsample(expected, 4))
    np.testing.assert_array_equal(photos.validation_pair(4, "sample")[0], photos.validation_photo())
    with pytest.raises(UserError, match=r"^VALID\.hr_img_path: "):
        photos.validation_pair(4, tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"VALID\.imid is 2, but VALID\.hr_img_path has 2 images"):
        photos.validation_pair(4, tmp_path, imid=2)
    files.write_rgb(tmp_path / "2.png", random_image(19, 24))  # too small to be scored
    with pytest.raises(UserError, match=r"VALID\.hr_img_path"):
        photos.validation_pair(4, tmp_path, imid=2)


def test_validation_lr_is_the_users_own_if_there_is_one_and_must_be_a_quarter(tmp_path):
    for number in (0, 1):
        files.write_rgb(tmp_path / f"hr/{number}.png", random_image(20, 24, number))
        files.write_rgb(tmp_path / f"lr/{number}.png", random_image(5, 6, 10 + number))
    hr, lr = photos.validation_pair(4, tmp_path / "hr", tmp_path / "lr", 1)
    np.testing.assert_array_equal(hr, random_image(20, 24, 1))
    np.testing.assert_array_equal(lr, random_image(5, 6, 11))
    files.write_rgb(tmp_path / "lr/1.png", random_image(6, 6))
    with pytest.raises(UserError, match=r"VALID\.lr_img_path: its sides are not 1/4 of"):
        photos.validation_pair(4, tmp_path / "hr", tmp_path / "lr", 1)
