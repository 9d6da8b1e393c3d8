import logging
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
import pyvips
import tifffile
from examples import random_image, read_image
from PIL import Image, ImageCms, PngImagePlugin

from common.errors import UserError
from images.files import ImageData, Source, check_fits, read_rgb, write_image, write_rgb
from images.listing import list_images

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SIDES = (20, 30)  # h, w
ROOT = Path(__file__).parents[2]


def random_samples(dtype, *channels):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (*SIDES, *channels), dtype)


def photograph():
    y, x = np.mgrid[: SIDES[0], : SIDES[1]]
    return np.dstack([60 + 4 * x, 200 - 5 * y, 90 + 2 * x + y]).astype(np.uint8)


def save(path, samples=None, **options):
    """The path of a file that Pillow wrote: of the photograph, if no samples are given."""
    Image.fromarray(photograph() if samples is None else samples).save(path, **options)
    return path


def rewritten(path, image):
    write_image(path, image)
    return read_image(path)


def exif_bytes(orientation=1):
    exif = Image.Exif()
    exif[271], exif[274] = "A maker", orientation
    exif[0x8769] = {0x9003: "2020:02:03 04:05:06", 0xA002: 30, 0xA003: 20}
    exif[0x8825] = {1: "N", 2: (1.0, 2.0, 3.0)}
    return exif.tobytes()


@pytest.fixture
def metadata(tmp_path_factory):
    """ICC profile, EXIF and text of a file."""
    path = tmp_path_factory.mktemp("metadata") / "a.png"
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "somebody")
    return read_image(save(path, icc_profile=ICC, exif=exif_bytes(), pnginfo=text)).metadata


def exif_of(path):
    with Image.open(path) as image:
        return image.getexif()


def icc_of(path):
    with Image.open(path) as image:
        return image.info.get("icc_profile")


def assert_same(image, pixels, alpha=None):
    np.testing.assert_array_equal(image.pixels, pixels, strict=True)  # and of the same type
    np.testing.assert_array_equal(image.alpha, alpha, strict=True)


def assert_similar(pixels, expected):
    assert np.abs(pixels.astype(int) - expected).mean() < 2


def png(samples, *chunks):
    """A PNG of 16-bit samples, with chunks of (name, content) before them."""
    header = struct.pack(">IIBBBBB", *SIDES[::-1], 16, 0 if samples.ndim == 2 else 2, 0, 0, 0)
    rows = samples.astype(">u2").reshape(SIDES[0], -1).view(np.uint8)
    data = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())  # each begins with its filter: none
    blocks = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in blocks
    )


@pytest.mark.parametrize("with_alpha", [False, True], ids=["opaque", "alpha"])
@pytest.mark.parametrize("channels", [(), (3,)], ids=["gray", "colour"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8bit", "16bit"])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_lossless_formats_return_every_sample(tmp_path, suffix, dtype, channels, with_alpha, metadata):
    pixels = random_samples(dtype, *channels)
    alpha = random_samples(dtype) // 3 if with_alpha else None
    path = tmp_path / f"a{suffix}"
    for kept in (pixels, pixels % 200):  # 16 bits are not recognised by the brightest pixel
        image = rewritten(path, ImageData(kept, alpha, metadata))
        assert_same(image, kept, alpha)
    # the profile of colours is none of grays
    assert image.metadata.get("icc-profile-data") == (ICC if channels else None)
    assert list(tmp_path.iterdir()) == [path]
    if channels and not with_alpha:  # other programs agree
        np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1], kept)
        assert icc_of(path) == ICC


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".jfif", ".webp", ".png"])
def test_metadata_is_carried_and_nothing_is_logged(tmp_path, suffix, metadata, caplog):
    caplog.set_level(logging.DEBUG)
    path = tmp_path / f"a{suffix}"
    assert_similar(rewritten(path, ImageData(photograph(), None, metadata)).pixels, photograph())
    assert caplog.text == ""
    assert icc_of(path) == ICC
    exif = exif_of(path)
    assert exif[271] == "A maker"
    assert exif.get_ifd(0x8769)[0x9003] == "2020:02:03 04:05:06"
    assert exif.get_ifd(0x8769)[0xA002] == SIDES[1]
    assert exif.get_ifd(0x8825)[2] == (1.0, 2.0, 3.0)
    if suffix == ".png":
        with Image.open(path) as image:
            assert image.text["Author"] == "somebody"


def test_jpeg_keeps_gray_and_full_colour_resolution(tmp_path):
    assert rewritten(tmp_path / "gray.jpg", ImageData(photograph()[..., 0])).pixels.shape == SIDES
    write_image(tmp_path / "a.jpg", ImageData(photograph()))
    with Image.open(tmp_path / "a.jpg") as image:
        assert [component[1:3] for component in image.layer] == [(1, 1)] * 3


FRAMES = {"save_all": True, "append_images": [Image.new("RGB", (30, 20))]}


@pytest.mark.parametrize("options", [{}, {"exif": exif_bytes()}, {"icc_profile": (ICC + b"\0") * 9}, FRAMES])
def test_lossless_webp_stays_lossless(tmp_path, options):
    pixels = random_samples(np.uint8, 3)
    lossless = read_image(save(tmp_path / "a.webp", pixels, lossless=True, **options))
    assert_same(rewritten(tmp_path / "b.webp", lossless), pixels)
    write_image(tmp_path / "d.webp", read_image(save(tmp_path / "c.webp", pixels, **options)))
    assert (tmp_path / "d.webp").stat().st_size < (tmp_path / "b.webp").stat().st_size


def test_webp_keeps_alpha_exactly_and_makes_colour_of_gray(tmp_path):
    alpha = random_samples(np.uint8)
    gray_profile = {"icc-profile-data": ICC[:16] + b"GRAY" + ICC[20:]}
    image = rewritten(tmp_path / "a.webp", ImageData(photograph()[..., 0], alpha, gray_profile))
    assert image.pixels.shape == (*SIDES, 3)
    np.testing.assert_array_equal(image.alpha, alpha)
    assert "icc-profile-data" not in image.metadata


def test_16_bits_become_the_nearest_8(tmp_path, caplog):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(values / 65535 * 255).astype(np.uint8)
    assert_same(rewritten(tmp_path / "a.bmp", ImageData(values)), expected)
    assert "a.bmp: BMP does not support 16 bits; reduced to 8" in caplog.text
    for name in ("a.png", "a.tif"):  # for training too
        np.testing.assert_array_equal(read_rgb(save(tmp_path / name, values)), np.dstack([expected] * 3))


@pytest.mark.parametrize("channels", [(), (3,)], ids=["gray", "colour"])
def test_alpha_is_laid_on_white_where_the_format_has_none(tmp_path, caplog, channels):
    pixels, alpha = random_samples(np.uint8, *channels), random_samples(np.uint8)
    alpha[0, :2] = 0, 255
    cover = alpha.reshape(*SIDES, *[1 for _ in channels]) / 255
    expected = np.floor(pixels * cover + 255 * (1 - cover) + 0.5).astype(np.uint8)
    assert_same(rewritten(tmp_path / "a.bmp", ImageData(pixels, alpha)), expected)
    assert "a.bmp: BMP does not support transparency; flattened onto white" in caplog.text


def test_palettes_and_one_bit_are_converted(tmp_path):
    rgb = photograph() // 64 * 64
    palette = Image.fromarray(rgb).quantize(256)
    palette.save(tmp_path / "palette.png")
    assert_same(read_image(tmp_path / "palette.png"), rgb)

    palette.save(tmp_path / "clear.png", transparency=palette.getpixel((0, 0)))
    opaque = np.where((rgb == rgb[0, 0]).all(axis=2), 0, 255).astype(np.uint8)
    assert_same(read_image(tmp_path / "clear.png"), rgb, opaque)
    np.testing.assert_array_equal(read_rgb(tmp_path / "clear.png"), rgb)

    Image.fromarray(rgb[..., 0]).convert("P").save(tmp_path / "grays.png", icc_profile=ICC)
    image = read_image(tmp_path / "grays.png")
    assert_same(image, np.repeat(rgb[..., :1], 3, axis=2))
    write_image(tmp_path / "again.png", image)  # colour with a profile of colours
    assert icc_of(tmp_path / "again.png") == ICC

    bits = random_samples(np.uint8) > 127
    for name in ("bits.png", "bits.tiff", "bits.bmp"):
        assert_same(read_image(save(tmp_path / name, bits)), bits * np.uint8(255))


def gray_cmyk_profile():
    """libvips's own, in which the output tables of a* and b*, the last ones, are those of no colour."""
    profile = bytearray(pyvips.Image.profile_load("cmyk"))
    start, size = struct.unpack_from(">2I", profile, profile.index(b"A2B0") + 4)
    (entries,) = struct.unpack_from(">H", profile, start + 50)
    profile[start + size - 4 * entries : start + size] = b"\x80\0" * (2 * entries)
    return bytes(profile)


def test_cmyk_goes_through_its_own_profile_which_is_not_carried(tmp_path):
    inks = np.zeros((*SIDES, 4), np.uint8)
    inks[:, 15:, 0] = 255  # white, cyan
    for profile in (gray_cmyk_profile(), b"not a profile"):
        Image.fromarray(inks, "CMYK").save(tmp_path / "a.tiff", icc_profile=profile)
        image = read_image(tmp_path / "a.tiff")
        assert "icc-profile-data" not in image.metadata
        assert (image.pixels[:, :15] >= 254).all()
        red, green, blue = image.pixels[0, -1].astype(int)
        if profile != b"not a profile":
            assert 80 < red < 180 and max(red, green, blue) - min(red, green, blue) <= 2  # cyan is gray
        else:
            assert red < 60 and green > 120 and blue > 180  # as printed, not 0 and 255


@pytest.mark.parametrize("channels", [(), (3,)], ids=["gray", "colour"])
def test_the_transparent_colour_of_a_png_becomes_alpha(tmp_path, channels):
    samples = random_samples(np.uint16, *channels)
    key = np.array(samples[3, 4], ">u2")
    (tmp_path / "a.png").write_bytes(png(samples, (b"tRNS", key.tobytes())))
    is_opaque = (samples != key).reshape(*SIDES, -1).any(axis=2)
    assert_same(read_image(tmp_path / "a.png"), samples, is_opaque * np.uint16(65535))


def test_deep_tiff_of_every_layout_is_read(tmp_path):
    path = tmp_path / "a.tiff"
    rgb, rgba = random_samples(np.uint16, 3), random_samples(np.uint16, 4)
    tifffile.imwrite(path, rgb, photometric="rgb", byteorder=">", compression="zlib", tile=(16, 16))
    assert_same(read_image(path), rgb)
    for kind in ("unassalpha", "unspecified"):
        tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=[kind])
        assert_same(read_image(path), rgba[..., :3], rgba[..., 3])
    tifffile.imwrite(path, rgb[..., 0], photometric="miniswhite")
    assert_same(read_image(path), 65535 - rgb[..., 0])
    half = np.full(SIDES, 30000, np.uint16)
    premultiplied = np.dstack([half // 2, half // 4, half * 0, half])
    tifffile.imwrite(path, premultiplied, photometric="rgb", extrasamples=["assocalpha"])
    image = read_image(path)
    np.testing.assert_allclose(image.pixels.reshape(-1, 3) - [32768.0, 16384, 0], 0, atol=1)
    np.testing.assert_array_equal(image.alpha, half)


@pytest.mark.parametrize("channels", [(), (3,)], ids=["gray", "colour"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_floats_from_0_to_1_become_16_bit(tmp_path, dtype, channels):
    values = (random_samples(np.uint16, *channels) / 65535).astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb" if channels else "minisblack")
    expected = np.rint(values.astype(np.float32) * 65535).astype(np.uint16)
    assert_same(read_image(tmp_path / "a.tif"), expected)


@pytest.mark.parametrize(
    ("value", "dtype", "reason"),
    [
        (1.5, np.float32, "its float values are not all between 0 and 1; save it with 16 bits"),
        (-0.1, np.float32, "its float values are not all between 0 and 1; save it with 16 bits"),
        (np.nan, np.float32, "its float values are not all between 0 and 1; save it with 16 bits"),
        (1, np.float64, "its sample type is not supported; save it with 8 or 16 bits"),
        (1, np.complex64, "its sample type is not supported; save it with 8 or 16 bits"),
        (1, np.uint32, "its values are of type uint; save it with 8 or 16 bits"),
        (1, np.int16, "its values are of type short; save it with 8 or 16 bits"),
        (1, np.int8, "its values are of type char; save it with 8 or 16 bits"),
    ],
)
def test_samples_that_are_no_brightness_are_refused_in_a_sentence(tmp_path, value, dtype, reason):
    tifffile.imwrite(tmp_path / "a.tiff", np.full(SIDES, value, dtype), photometric="minisblack")
    with pytest.raises(UserError, match=rf"a\.tiff: .*{reason}"):
        read_image(tmp_path / "a.tiff")


def turned(stored, orientation):
    """By what EXIF 2.32 says of row 0 and column 0: the visual top and left, top and right, ..."""
    upright = stored.swapaxes(0, 1) if orientation > 4 else stored
    upright = upright[::-1] if orientation in (3, 4, 7, 8) else upright
    return upright[:, ::-1] if orientation in (2, 3, 6, 7) else upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["8.png", "8.webp", "8.tiff", "16.png", "16.tiff"])
def test_exif_orientation_is_applied_and_reset(tmp_path, name, orientation):
    path, exif = tmp_path / name, exif_bytes(orientation)
    stored = random_samples(np.uint8 if name.startswith("8") else np.uint16, 3)
    if name.startswith("8"):
        save(path, stored, exif=exif, lossless=True)
    elif name == "16.png":
        path.write_bytes(png(stored, (b"eXIf", exif[6:])))
    else:
        tifffile.imwrite(path, stored, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    image = read_image(path)
    assert_same(image, turned(stored, orientation))
    assert_same(rewritten(path, image), image.pixels)
    with Image.open(path) as written:
        assert written.getexif().get(274, 1) == 1
        assert written.size == image.pixels.shape[1::-1]


def test_exif_keeps_makers_notes_and_gets_the_new_size_and_orientation(tmp_path):
    exif = Image.Exif()
    exif[256], exif[257], exif[270], exif[274] = 30, 20, "a description", 6
    note = bytes(range(200))
    exif[0x8769] = {37500: note, 40962: 30, 40963: 20}
    image = read_image(save(tmp_path / "a.jpg", exif=exif.tobytes()))
    assert image.pixels.shape[:2] == SIDES[::-1]
    image.pixels = np.zeros((70, 90, 3), np.uint8)
    write_image(tmp_path / "b.webp", image)
    carried = exif_of(tmp_path / "b.webp")
    assert (256 in carried, 257 in carried, carried[270], carried[274]) == (False, False, "a description", 1)
    assert carried.get_ifd(34665)[37500] == note
    assert (carried.get_ifd(34665)[40962], carried.get_ifd(34665)[40963]) == (90, 70)


def ifd(*entries):
    table = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + table + struct.pack("<L", 0)


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png"])
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0II*\0\xff\xff\0\0",
        b"Exif\0\0rubbish",
        ifd((34853, 4, 1, 8), (34665, 4, 1, 0)),  # both directories are the first one
        ifd((271, 2, 2**31, 8)),
    ],
    ids=["offset", "text", "itself", "long"],
)
def test_damaged_exif_does_no_harm(tmp_path, suffix, exif):
    image = read_image(save(tmp_path / f"a{suffix}", lossless=True, quality=100, exif=exif))
    for target in ("b.jpg", "b.tiff", "b.png", "b.webp"):
        assert_similar(rewritten(tmp_path / target, image).pixels, photograph())


@pytest.mark.parametrize(
    ("target", "kind", "size"), [("a.jpg", "JPEG", 70000), ("a.tif", "TIFF", 9), ("a.bmp", "BMP", 9)]
)
def test_exif_that_a_format_cannot_hold_is_left_out_and_logged(tmp_path, caplog, target, kind, size):
    note = Image.Exif()
    note[0x8769] = {37500: bytes(size)}
    write_image(tmp_path / target, read_image(save(tmp_path / "a.png", exif=note.tobytes())))
    assert 37500 not in exif_of(tmp_path / target).get_ifd(0x8769)
    assert f"{target}: {kind} cannot store this EXIF data; dropped" in caplog.text


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"imagej": True}, None),
        ({"metadata": {"axes": "YX"}}, None),
        ({"ome": True}, None),
        ({"description": "a cat", "metadata": None}, "a cat"),
    ],
    ids=["ImageJ", "tifffile", "OME", "text"],
)
def test_descriptions_of_the_old_layout_are_dropped(tmp_path, options, kept):
    tifffile.imwrite(tmp_path / "a.ome.tif", random_samples(np.uint16), **options)
    image = read_image(tmp_path / "a.ome.tif")
    image.pixels = np.repeat(image.pixels, 4, axis=0)
    write_image(tmp_path / "b.tif", image)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), image.pixels)
    assert exif_of(tmp_path / "b.tif").get(270) == kept


SRGB = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
ADOBE_RGB = struct.pack(">8I", 31270, 32900, 64000, 33000, 21000, 71000, 15000, 6000)


@pytest.mark.parametrize(
    ("chunks", "icc", "lost"),
    [
        ({b"cICP": bytes([9, 16, 0, 1])}, ICC, "cICP"),
        ({b"gAMA": struct.pack(">I", 100000)}, None, "gAMA"),
        ({b"cHRM": ADOBE_RGB, b"gAMA": struct.pack(">I", 45000)}, None, "cHRM, gAMA"),
        ({b"gAMA": struct.pack(">I", 45455), b"cHRM": SRGB}, None, None),  # what is assumed without them
        ({b"gAMA": struct.pack(">I", 100000)}, ICC, None),  # the profile counts, and is kept
    ],
)
def test_colour_chunks_that_cannot_be_kept_are_named(tmp_path, caplog, chunks, icc, lost):
    info = PngImagePlugin.PngInfo()
    for name, content in chunks.items():
        info.add(name, content)
    read_image(save(tmp_path / "a.png", pnginfo=info, icc_profile=icc))
    says = f"a.png: dropped colour chunks: {lost}\n"
    assert says in caplog.text if lost else caplog.text == ""


# --- Files of other programs


@pytest.mark.parametrize(
    "suffix", [".ppm", ".pgm", ".pbm", ".tga", ".jp2", ".bmp", ".avif", ".gif", ".jpe", ".jfif"]
)
def test_other_kinds_are_read(tmp_path, suffix):
    mode = {".pgm": "L", ".pbm": "1", ".gif": "P"}.get(suffix, "RGB")
    image = Image.fromarray(photograph()).convert(mode)
    options = {} if suffix == ".jp2" else {"quality": 100}  # JPEG 2000 is without loss by default
    image.save(tmp_path / f"a{suffix}", **options)
    assert_similar(read_rgb(tmp_path / f"a{suffix}"), np.asarray(image.convert("RGB")))
    assert len(list_images(tmp_path, "X")) == 1


@pytest.mark.parametrize("target", ["b.png", "b.jpg", "b.webp", "b.tif"])
@pytest.mark.parametrize("source", ["a.png", "a.jpg", "a.webp", "a.tif"])
def test_xmp_and_resolution_are_kept(tmp_path, source, target):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r/></x:xmpmeta>'
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp.decode())
    options = {"a.png": {"pnginfo": text}, "a.tif": {"tiffinfo": {700: xmp}}}.get(source, {"xmp": xmp})
    image = read_image(save(tmp_path / source, dpi=(300, 300), **options))
    assert rewritten(tmp_path / target, image).metadata["xmp-data"] == xmp
    if "webp" not in source + target:  # which has no resolution
        with Image.open(tmp_path / target) as written:
            np.testing.assert_allclose([float(dpi) for dpi in written.info["dpi"]], 300, atol=0.02)


def test_16_bit_gray_by_pillow_is_read_whole_and_colour_as_8_bits_which_is_logged(tmp_path, caplog):
    gray, rgb = random_samples(np.uint16), photograph().repeat(4, 0).repeat(4, 1) * np.uint16(257)
    (tmp_path / "a.pgm").write_bytes(b"P5 30 20 65535\n" + gray.astype(">u2").tobytes())
    assert_same(read_image(tmp_path / "a.pgm"), gray)
    assert caplog.text == ""
    (tmp_path / "a.ppm").write_bytes(b"P6\n#\n120 80\n65535\n" + rgb.astype(">u2").tobytes())
    cv2.imwrite(str(tmp_path / "a.jp2"), rgb[..., ::-1])
    for name in ("a.ppm", "a.jp2"):
        assert np.abs(read_image(tmp_path / name).pixels - rgb / 257).max() <= 2
        assert f"{name}: colours in this format are read with 8 bits, not 16" in caplog.text


def test_deep_lab_and_cmyk_become_deep_rgb(tmp_path):
    lab = np.zeros((*SIDES, 3), np.uint16)
    lab[..., 0] = 32768  # L* 50 is the gray 119 of sRGB
    tifffile.imwrite(tmp_path / "lab.tif", lab, photometric="cielab")
    inks = np.zeros((*SIDES, 4), np.uint16)
    tifffile.imwrite(tmp_path / "inks.tif", inks, photometric="separated")
    for name, level in (("lab.tif", 118.9), ("inks.tif", 255)):
        image = read_image(tmp_path / name)
        assert image.pixels.dtype == np.uint16
        assert np.abs(image.pixels / 257 - level).max() < 0.3


@pytest.mark.parametrize("name", ["a[page=1].png", "ä ö[x].png", "-rf.png", "%d.png", "x" * 251 + ".png"])
def test_any_name_is_a_name(tmp_path, name):
    write_rgb(tmp_path / name, photograph())
    np.testing.assert_array_equal(read_rgb(tmp_path / name), photograph())
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_first_of_several_frames_is_used_and_logged(tmp_path, caplog):
    second = Image.fromarray(255 - photograph())
    for name in ("a.webp", "a.tiff"):
        path = save(tmp_path / name, save_all=True, append_images=[second], lossless=True)
        assert_same(read_image(path), photograph())
        assert f"{name} holds several frames: only the first is used" in caplog.text


@pytest.mark.parametrize("name", ["8.png", "16.png", "8.jpeg", "8.webp", "8.bmp", "8.tiff", "16.tiff"])
def test_truncated_files_are_refused_in_one_sentence(tmp_path, name):
    path = tmp_path / name
    write_image(path, ImageData(random_samples(np.uint16 if "16" in name else np.uint8, 3)))
    data = path.read_bytes()
    for part in (0.3, 0.6, 0.9):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(UserError) as error:
            read_image(path)
        assert str(error.value).startswith(f"cannot read {path}: ")
        assert "\n" not in str(error.value)


# By the header, a PNG of 24000 x 16000 px
HEADER = b"IHDR" + struct.pack(">IIBBBBB", 24000, 16000, 16, 0, 0, 0, 0)
HUGE = png(np.zeros(SIDES))
HUGE = HUGE[:12] + HEADER + struct.pack(">I", zlib.crc32(HEADER)) + HUGE[33:]


def test_8_bit_lab_and_heic_are_refused_in_a_sentence(tmp_path):
    Image.new("LAB", (30, 20)).save(tmp_path / "a.tif")
    heic = Path(__file__).parent / "small.heic"  # encoded with x265: the wheel's libvips cannot decode it
    for path, reason in (
        (tmp_path / "a.tif", "its colour space is 8-bit LAB, which is not supported; save it as RGB"),
        (heic, "it is HEIC, which is not supported"),
    ):
        with pytest.raises(UserError, match=f"{path}: {reason}"):
            read_image(path)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("none.png", b"", "it is not an image"),
        ("text.png", b"some text", "it is not an image"),
        ("pointer.png", b"version https://git-lfs.github.com/spec/v1\noid", "it is a Git LFS pointer"),
        ("missing.png", None, "No such file"),
        ("folder.png", None, "it is not a file"),
        ("huge.png", HUGE, r"it has 384 megapixels; the limit on this machine is \d{2,3}"),
    ],
    ids=["none", "text", "pointer", "missing", "folder", "huge"],
)
def test_what_cannot_be_read_is_refused_by_its_name_with_the_reason(tmp_path, name, content, reason):
    (tmp_path / "folder.png").mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    for read in (read_image, read_rgb, Source):
        with pytest.raises(UserError, match=f"cannot read {tmp_path / name}: {reason}"):
            read(tmp_path / name)


def test_sizes_and_formats_that_cannot_be_written_are_refused(tmp_path):
    cases = [
        ("a.webp", (1, 16384), "WEBP holds at most 16383 pixels per side"),
        ("a.jpg", (65501, 1), "JPEG holds at most 65500 pixels per side"),
        ("a.bmp", (40000, 40000), "BMP holds at most 4 GB"),
        ("a.gif", (1, 1), "use one of .png, "),
        ("a", (1, 1), "use one of .png, "),
    ]
    for name, size, reason in cases:
        with pytest.raises(UserError, match=reason):
            check_fits(tmp_path / name, *size)
    with pytest.raises(UserError, match="16383"):
        write_image(tmp_path / "a.webp", ImageData(np.zeros((1, 16384), np.uint8)))
    write_image(tmp_path / "b.webp", ImageData(np.zeros((1, 16383), np.uint8)))
    write_image(tmp_path / "b.jpg", ImageData(np.zeros((65500, 1), np.uint8)))


# --- 8-bit RGB, and folders


def test_a_wrong_folder_is_an_error_that_names_the_setting(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for folder, reason in (
        ("missing", "there is no folder .*missing"),
        ("file", "file' is a file"),
        ("empty", "no images in .*empty"),
    ):
        with pytest.raises(UserError, match=rf"^TRAIN\.hr_img_path: .*{reason}"):
            list_images(tmp_path / folder, "TRAIN.hr_img_path")
    monkeypatch.setattr(os, "scandir", Mock(side_effect=PermissionError(13, "Permission denied", "locked")))
    with pytest.raises(UserError, match=r"^X: cannot read the folder 'locked' \(Permission denied\)"):
        list_images(tmp_path, "X")


WRITE_TO_A_FULL_DISK = """
import resource, signal, sys
import numpy as np
from common.errors import UserError
from images.files import write_rgb

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
for path in sys.argv[1:]:
    try:
        write_rgb(path, np.random.default_rng(1).integers(0, 256, (400, 400, 3), dtype=np.uint8))
    except UserError as error:
        print(error)
"""


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path):
    paths = [tmp_path / f"a.{suffix}" for suffix in ("png", "tiff", "webp", "jpg", "bmp")]
    for path in paths:
        write_rgb(path, random_image(400, 400))
    before = [path.read_bytes() for path in paths]
    command = [sys.executable, "-c", WRITE_TO_A_FULL_DISK, *paths]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    lines = said.stdout.splitlines()
    assert len(lines) == 5 and said.stderr == ""
    assert all(line.startswith(f"cannot write {path}: ") for line, path in zip(lines, paths))
    assert [path.read_bytes() for path in paths] == before
    assert set(tmp_path.iterdir()) == set(paths)


def test_ctrl_c_while_an_image_is_decoded_is_not_lost(tmp_path):
    Image.fromarray(random_image(1000, 1000)).save(tmp_path / "a.png")

    def interrupt(*_):
        raise KeyboardInterrupt

    def read(milliseconds):
        signal.setitimer(signal.ITIMER_REAL, milliseconds / 1000)
        read_rgb(tmp_path / "a.png")
        time.sleep(0.1)

    before = signal.signal(signal.SIGALRM, interrupt)
    for milliseconds in range(2, 22):
        with pytest.raises(KeyboardInterrupt):
            read(milliseconds)
    signal.signal(signal.SIGALRM, before)
