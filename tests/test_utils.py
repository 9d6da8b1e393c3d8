import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import bicubic
import utils
from utils import UserError


def picture(h=12, w=20, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), np.uint8)


def assert_one_sentence(error):
    text = str(error.value)
    assert "\n" not in text
    assert text.endswith(".")
    return text


def test_importing_utils_loads_nothing_slow():
    code = (
        "import sys, utils; slow = {'tensorflow', 'scipy', 'matplotlib', 'imageio', 'skimage'};"
        "sys.exit(str(slow & set(sys.modules)) if slow & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=os.path.dirname(utils.__file__))


def test_list_images_is_recursive_sorted_and_blind_to_case(tmp_path):
    for name in ["b.JPG", "a.png", "sub/deep/c.TiFf", "notes.txt", ".hidden.png", "a.npz"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    names = [path.relative_to(tmp_path).as_posix() for path in utils.list_images(tmp_path, "X")]
    assert names == ["a.png", "b.JPG", "sub/deep/c.TiFf"]


@pytest.mark.parametrize("wrong", ["missing", "file", "empty"])
def test_a_wrong_folder_is_an_error_that_names_the_setting(tmp_path, wrong):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"^TRAIN\.hr_img_path: .*" + wrong) as error:
        utils.list_images(tmp_path / wrong, "TRAIN.hr_img_path")
    assert_one_sentence(error)


def test_a_folder_that_cannot_be_read_is_an_error_not_an_empty_one(tmp_path, monkeypatch):
    (tmp_path / "a.png").touch()
    (tmp_path / "locked").mkdir()
    real_scandir = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return real_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"^VALID\.x: .*locked.*Permission denied"):
        utils.list_images(tmp_path, "VALID.x")


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".webp"])
def test_lossless_formats_round_trip(tmp_path, suffix):
    path = tmp_path / f"new/folder/picture{suffix}"
    utils.write_image(path, picture())
    np.testing.assert_array_equal(utils.read_image(path), picture())
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_jpeg_is_written_finely(tmp_path):
    smooth = bicubic.upsample(picture(4, 4))
    utils.write_image(tmp_path / "a.jpg", smooth)
    assert np.abs(utils.read_image(tmp_path / "a.jpg").astype(int) - smooth).mean() < 3


def test_gray_palette_alpha_and_cmyk_become_rgb(tmp_path):
    rgb = picture()
    gray = rgb[..., 0]
    alpha = np.dstack([rgb, np.zeros_like(gray)])
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(gray > 127).save(tmp_path / "bits.png")
    Image.fromarray(np.dstack([gray, gray * 0])).save(tmp_path / "gray_alpha.png")
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    Image.fromarray(rgb // 64 * 64).quantize(256).save(tmp_path / "palette.png", transparency=0)
    Image.new("CMYK", (20, 12), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")

    def read(name):
        image = utils.read_image(tmp_path / name)
        assert image.dtype == np.uint8
        assert image.shape == (12, 20, 3)
        return image

    as_rgb = np.dstack([gray] * 3)
    np.testing.assert_array_equal(read("gray.png"), as_rgb)
    np.testing.assert_array_equal(read("gray_alpha.png"), as_rgb)
    np.testing.assert_array_equal(read("bits.png"), (as_rgb > 127) * np.uint8(255))
    np.testing.assert_array_equal(read("alpha.png"), rgb)
    np.testing.assert_array_equal(read("palette.png"), rgb // 64 * 64)
    np.testing.assert_array_equal(read("cmyk.tif")[0, 0], [255, 0, 0])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_gray_keeps_its_upper_byte_however_dark(tmp_path, suffix):
    values = np.array([[0, 255, 256, 1000, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    read = utils.read_image(tmp_path / f"deep.{suffix}")
    np.testing.assert_array_equal(read[0, :, 1], [0, 0, 1, 3, 128, 255])


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_exif_orientation_is_applied(tmp_path, name):
    image = np.zeros((16, 32, 3), np.uint8)
    image[:, :16] = 255  # left half white
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn a quarter clockwise
    Image.fromarray(image).save(tmp_path / name, exif=exif)
    upright = utils.read_image(tmp_path / name)
    assert upright.shape == (32, 16, 3)
    assert utils.image_size(tmp_path / name) == (32, 16)
    assert upright[:12].min() > 200
    assert upright[20:].max() < 50


def test_unreadable_pictures_are_errors_that_name_the_file(tmp_path):
    whole = tmp_path / "whole.png"
    utils.write_image(whole, picture(64, 64))
    contents = {
        "cut.png": whole.read_bytes()[:4000],
        "text.png": b"hello",
        "none.png": b"",
        "pointer.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    (tmp_path / "folder.png").mkdir()
    hints = {"pointer.png": "git lfs pull", "none.png": "empty", "float.tif": "32 bits"}
    for name in [*contents, "float.tif", "folder.png", "absent.png"]:
        with pytest.raises(UserError, match=name) as error:
            utils.read_image(tmp_path / name)
        assert hints.get(name, "") in assert_one_sentence(error)


def test_a_picture_cut_short_still_tells_its_size(tmp_path):
    utils.write_image(tmp_path / "a.png", picture(64, 48))
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:2000])
    assert utils.image_size(tmp_path / "a.png") == (64, 48)
    with pytest.raises(UserError, match=r"absent\.png"):
        utils.image_size(tmp_path / "absent.png")


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    utils.write_image(tmp_path / "a.png", picture(seed=1))

    def fill_disk(self, file, **options):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fill_disk)
    with pytest.raises(UserError, match="No space left") as error:
        utils.write_image(tmp_path / "a.png", picture(seed=2))
    assert_one_sentence(error)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    np.testing.assert_array_equal(utils.read_image(tmp_path / "a.png"), picture(seed=1))


def test_writing_where_one_cannot_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write"):
        utils.write_image(tmp_path / "file" / "a.png", picture())
    with pytest.raises(UserError, match=r"\.png"):
        utils.write_image(tmp_path / "a.xyz", picture())


def test_pixel_ranges_round_trip_and_clip():
    levels = np.arange(256, dtype=np.uint8)
    floats = utils.to_float(levels)
    assert floats.dtype == np.float32
    assert (floats[0], floats[-1]) == (-1, 1)
    np.testing.assert_array_equal(utils.to_uint8(floats), levels)
    np.testing.assert_array_equal(utils.to_uint8(np.array([-1.5, 0.0, 0.004, 1.5])), [0, 128, 128, 255])


def test_crop_to_multiple_keeps_the_upper_left_part():
    image = picture(11, 22)
    np.testing.assert_array_equal(utils.crop_to_multiple(image, 4), image[:8, :20])
    np.testing.assert_array_equal(utils.crop_to_multiple(image, 11), image)


def test_side_by_side_shows_every_picture_under_its_caption():
    images = [picture(40, 30), picture(60, 200, seed=1)]
    sheet = utils.side_by_side(images, ["LR | 24 x 24 px", "HR"])
    strip = sheet.shape[0] - 60
    np.testing.assert_array_equal(sheet[strip : strip + 40, :30], images[0])
    np.testing.assert_array_equal(sheet[strip:, -200:], images[1])
    assert sheet[:strip, :30].min() < 100  # the caption's ink
    assert sheet[strip + 40 :, :30].min() == 255  # white below the lower picture


def test_image_grid_is_in_reading_order_and_black_where_empty():
    images = np.stack([picture(4, 6, seed) for seed in range(5)])
    grid = utils.image_grid(images, 3)
    assert grid.shape == (8, 18, 3)
    np.testing.assert_array_equal(grid[:4, 12:], images[2])
    np.testing.assert_array_equal(grid[4:, 6:12], images[4])
    assert not grid[4:, 12:].any()


def test_note_helpers_read_crop_and_shrink(tmp_path):
    image = picture(386, 400)
    utils.write_image(tmp_path / "a.png", image)
    read = utils.get_imgs_fn("a.png", str(tmp_path))
    np.testing.assert_array_equal(read, image)
    hr = utils.crop_sub_imgs_fn(read, is_random=False)
    assert hr.shape == (384, 384, 3)
    assert hr.dtype == np.float32
    np.testing.assert_array_equal(utils.to_uint8(hr), image[1:385, 8:392])
    lr = utils.downsample_fn(hr)
    assert lr.shape == (96, 96, 3)
    assert lr.dtype == np.float32
    np.testing.assert_array_equal(utils.to_uint8(lr), bicubic.downsample(image[1:385, 8:392]))


def test_random_crops_differ_and_follow_the_seed_of_numpy():
    image = picture(400, 400)
    np.random.seed(0)
    first, second = utils.crop_sub_imgs_fn(image), utils.crop_sub_imgs_fn(image)
    np.random.seed(0)
    np.testing.assert_array_equal(utils.crop_sub_imgs_fn(image), first)
    assert (first != second).any()


def test_note_helpers_keep_a_flat_colour():
    hr = utils.crop_sub_imgs_fn(np.full((384, 384, 3), (10, 128, 240), np.uint8))
    assert (utils.to_uint8(utils.downsample_fn(hr)) == (10, 128, 240)).all()


def test_a_picture_too_small_for_the_note_crop_is_a_users_error():
    with pytest.raises(UserError, match="384 x 384"):
        utils.crop_sub_imgs_fn(picture(383, 500))
