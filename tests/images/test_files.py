import io
import logging
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from common.errors import UserError
from images.files import ImageData, Source, check_fits, read_image, read_rgb, write_image, write_rgb
from images.listing import list_images

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SIDES = (20, 30)  # h, w
ROOT = Path(__file__).parents[2]


def random_samples(dtype, *channels):
    rng = np.random.default_rng(0)
    return rng.integers(0, np.iinfo(dtype).max + 1, (*SIDES, *channels), dtype)


def size_of(path):
    source = Source(path)
    return source.height, source.width


def photograph():
    y, x = np.mgrid[: SIDES[0], : SIDES[1]]
    return np.dstack([60 + 4 * x, 200 - 5 * y, 90 + 2 * x + y]).astype(np.uint8)


def exif_bytes(orientation=None, thumbnail=False):
    exif = Image.Exif()
    exif[271] = "A maker"
    if orientation is not None:
        exif[274] = orientation
    exif[0x8769] = {0x9003: "2020:02:03 04:05:06", 0xA002: 30, 0xA003: 20}
    exif[0x8825] = {1: "N", 2: (1.0, 2.0, 3.0)}
    return exif.tobytes()


@pytest.fixture
def metadata(tmp_path_factory):
    """ICC profile, EXIF and text of a file."""
    path = tmp_path_factory.mktemp("metadata") / "a.png"
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "somebody")
    Image.fromarray(photograph()).save(path, icc_profile=ICC, exif=exif_bytes(1), pnginfo=text)
    return read_image(path).metadata


def exif_of(path):
    with Image.open(path) as image:
        return image.getexif()


def icc_of(path):
    with Image.open(path) as image:
        return image.info.get("icc_profile")


def assert_same(picture, pixels, alpha=None):
    assert picture.pixels.dtype == pixels.dtype
    np.testing.assert_array_equal(picture.pixels, pixels)
    if alpha is None:
        assert picture.alpha is None
    else:
        assert picture.alpha.dtype == alpha.dtype
        np.testing.assert_array_equal(picture.alpha, alpha)


def raw_png16(samples, colour_type, extra=b""):
    def chunk(name, data):
        crc = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc)

    height, width = samples.shape[:2]
    rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    data = zlib.compress(np.pad(rows, ((0, 0), (1, 0))))
    chunks = chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.parametrize("with_alpha", [False, True], ids=["opaque", "alpha"])
@pytest.mark.parametrize("channels", [(), (3,)], ids=["gray", "colour"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8bit", "16bit"])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_lossless_formats_return_every_sample(tmp_path, suffix, dtype, channels, with_alpha, metadata):
    pixels = random_samples(dtype, *channels)
    alpha = random_samples(dtype) // 3 if with_alpha else None
    path = tmp_path / f"a{suffix}"
    write_image(path, ImageData(pixels, alpha, metadata))
    assert_same(read_image(path), pixels, alpha)
    assert size_of(path) == SIDES
    icc = read_image(path).metadata.get("icc-profile-data")
    assert icc == (ICC if channels else None)  # the profile of colours is none of grays
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_other_programs_read_the_same_16_bit_samples(tmp_path, suffix, metadata):
    pixels = random_samples(np.uint16, 3)
    write_image(tmp_path / f"a{suffix}", ImageData(pixels, None, metadata))
    by_opencv = cv2.imread(str(tmp_path / f"a{suffix}"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(by_opencv[..., ::-1], pixels)
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert image.info["icc_profile"] == ICC
        np.testing.assert_array_equal(np.asarray(image), pixels // 256)


@pytest.mark.parametrize("channels", [(), (3,)], ids=["gray", "colour"])
def test_bmp_returns_every_sample(tmp_path, channels, metadata):
    pixels = random_samples(np.uint8, *channels)
    write_image(tmp_path / "a.bmp", ImageData(pixels, None, metadata))
    assert_same(read_image(tmp_path / "a.bmp"), pixels)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".jfif", ".webp", ".png"])
def test_metadata_is_carried(tmp_path, suffix, metadata):
    path = tmp_path / f"a{suffix}"
    write_image(path, ImageData(photograph(), None, metadata))
    assert np.abs(read_image(path).pixels.astype(int) - photograph()).mean() < 2
    assert icc_of(path) == ICC
    exif = exif_of(path)
    assert exif[271] == "A maker"
    assert exif.get_ifd(0x8769)[0x9003] == "2020:02:03 04:05:06"
    assert exif.get_ifd(0x8769)[0xA002] == SIDES[1]
    assert exif.get_ifd(0x8825)[2] == (1.0, 2.0, 3.0)
    if suffix == ".png":
        with Image.open(path) as image:
            assert image.text["Author"] == "somebody"


@pytest.mark.parametrize(("source", "target"), [("a.png", "b.png"), ("a.jpg", "b.jpg"), ("a.tif", "b.tif")])
def test_resolution_is_kept(tmp_path, source, target):
    Image.fromarray(photograph()).save(tmp_path / source, dpi=(300, 300))
    write_image(tmp_path / target, read_image(tmp_path / source))
    with Image.open(tmp_path / target) as image:
        np.testing.assert_allclose([float(dpi) for dpi in image.info["dpi"]], (300, 300), atol=0.02)


def test_jpeg_keeps_gray_and_full_colour_resolution(tmp_path):
    write_image(tmp_path / "gray.jpg", ImageData(photograph()[..., 0]))
    assert read_image(tmp_path / "gray.jpg").pixels.shape == SIDES
    write_image(tmp_path / "a.jpg", ImageData(photograph()))
    with Image.open(tmp_path / "a.jpg") as image:
        assert [component[1:3] for component in image.layer] == [(1, 1)] * 3


@pytest.mark.parametrize("options", [{}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}, {"icc_profile": ICC * 3}])
def test_lossless_webp_stays_lossless(tmp_path, options):
    Image.fromarray(random_samples(np.uint8, 3)).save(tmp_path / "a.webp", lossless=True, **options)
    write_image(tmp_path / "b.webp", read_image(tmp_path / "a.webp"))
    assert_same(read_image(tmp_path / "b.webp"), random_samples(np.uint8, 3))
    Image.fromarray(random_samples(np.uint8, 3)).save(tmp_path / "c.webp", **options)
    write_image(tmp_path / "d.webp", read_image(tmp_path / "c.webp"))
    assert (tmp_path / "d.webp").stat().st_size < (tmp_path / "b.webp").stat().st_size


def test_webp_keeps_alpha_exactly_and_makes_colour_of_gray(tmp_path):
    alpha = random_samples(np.uint8)
    gray_profile = {"icc-profile-data": ICC[:16] + b"GRAY" + ICC[20:]}
    write_image(tmp_path / "a.webp", ImageData(photograph()[..., 0], alpha, gray_profile))
    picture = read_image(tmp_path / "a.webp")
    assert picture.pixels.shape == (*SIDES, 3)
    np.testing.assert_array_equal(picture.alpha, alpha)
    assert "icc-profile-data" not in picture.metadata


def test_16_bits_become_the_nearest_8(tmp_path, caplog):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    write_image(tmp_path / "a.bmp", ImageData(values))
    expected = np.rint(values / 65535 * 255).astype(np.uint8)
    assert_same(read_image(tmp_path / "a.bmp"), expected)
    assert "a.bmp: BMP has no 16 bits, reduced to 8" in caplog.text


@pytest.mark.parametrize("channels", [(), (3,)], ids=["gray", "colour"])
def test_alpha_is_laid_on_white_where_the_format_has_none(tmp_path, caplog, channels):
    pixels, alpha = random_samples(np.uint8, *channels), random_samples(np.uint8)
    alpha[0, :2] = 0, 255
    write_image(tmp_path / "a.bmp", ImageData(pixels, alpha))
    cover = alpha.reshape(*SIDES, *[1 for _ in channels]) / 255
    expected = np.floor(pixels * cover + 255 * (1 - cover) + 0.5).astype(np.uint8)
    written = read_image(tmp_path / "a.bmp").pixels
    assert np.abs(written.astype(int) - expected).max() <= 1
    assert (written[0, 0] == 255).all()
    assert (written[0, 1] == pixels[0, 1]).all()
    assert "a.bmp: BMP has no transparency, laid on white" in caplog.text


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [(), (3,)], ids=["gray", "colour"])
def test_a_dark_16_bit_picture_stays_16_bit(tmp_path, suffix, channels):
    dark = random_samples(np.uint16, *channels) % 200
    write_image(tmp_path / f"a{suffix}", ImageData(dark))
    assert_same(read_image(tmp_path / f"a{suffix}"), dark)


def test_16_bit_png_of_other_programs_is_read_whole(tmp_path):
    rgb, gray = random_samples(np.uint16, 3), random_samples(np.uint16)
    gray_alpha = random_samples(np.uint16, 2)
    (tmp_path / "la.png").write_bytes(raw_png16(gray_alpha, 4))
    assert_same(read_image(tmp_path / "la.png"), gray_alpha[..., 0], gray_alpha[..., 1])
    Image.fromarray(gray).save(tmp_path / "gray.png")
    assert_same(read_image(tmp_path / "gray.png"), gray)
    key = struct.pack(">I4s3H", 6, b"tRNS", *rgb[3, 4].tolist())
    key += struct.pack(">I", zlib.crc32(key[4:]))
    (tmp_path / "key.png").write_bytes(raw_png16(rgb, 2, key))
    opaque = np.where((rgb == rgb[3, 4]).all(axis=2), 0, 65535).astype(np.uint16)
    assert_same(read_image(tmp_path / "key.png"), rgb, opaque)
    key = struct.pack(">I4sH", 2, b"tRNS", gray[3, 4])
    key += struct.pack(">I", zlib.crc32(key[4:]))
    (tmp_path / "gray-key.png").write_bytes(raw_png16(gray, 0, key))
    opaque = np.where(gray == gray[3, 4], 0, 65535).astype(np.uint16)
    assert_same(read_image(tmp_path / "gray-key.png"), gray, opaque)


def test_palettes_one_bit_and_cmyk_are_converted(tmp_path):
    rgb = photograph() // 64 * 64
    Image.fromarray(rgb).quantize(256).save(tmp_path / "palette.png")
    assert_same(read_image(tmp_path / "palette.png"), rgb)

    palette = Image.fromarray(rgb).quantize(256)
    palette.save(tmp_path / "clear.png", transparency=palette.getpixel((0, 0)))
    opaque = np.where((rgb == rgb[0, 0]).all(axis=2), 0, 255).astype(np.uint8)
    assert_same(read_image(tmp_path / "clear.png"), rgb, opaque)

    Image.fromarray(rgb[..., 0]).convert("P").save(tmp_path / "grays.png", icc_profile=ICC)
    picture = read_image(tmp_path / "grays.png")
    assert_same(picture, np.repeat(rgb[..., :1], 3, axis=2))
    write_image(tmp_path / "again.png", picture)  # colour with a profile of colours
    assert icc_of(tmp_path / "again.png") == ICC

    bits = random_samples(np.uint8) > 127
    for name in ("bits.png", "bits.tiff", "bits.bmp"):
        Image.fromarray(bits).save(tmp_path / name)
        assert_same(read_image(tmp_path / name), bits * np.uint8(255))

    inks = np.zeros((*SIDES, 4), np.uint8)
    inks[:, :15, 0], inks[:, 15:, 3] = 255, 255  # cyan, black
    Image.fromarray(inks, "CMYK").save(tmp_path / "inks.tiff", icc_profile=b"not a profile")
    picture = read_image(tmp_path / "inks.tiff")
    cyan, black = picture.pixels[0, 0].astype(int), picture.pixels[0, -1].astype(int)
    assert cyan[0] < 60 and cyan[1] > 120 and cyan[2] > 180 and black.max() < 60  # as printed, not 0 and 255
    assert "icc-profile-data" not in picture.metadata


def cmyk_profile():
    """The smallest legal one: no ink is L* 100, cyan L* 50, black L* 0."""
    header = struct.pack(">I4sI4s4s4s", 0, b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += struct.pack(">6H4sI4s", 2020, 1, 1, 0, 0, 0, b"acsp", 0, b"MSFT")
    header = (header + b"\0" * 24)[:68] + struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    header = header.ljust(128, b"\0")
    lightness = [(255 - 127 * (corner >> 3)) * (1 - corner % 2) for corner in range(16)]
    grid = b"".join(bytes([value, 128, 128]) for value in lightness)
    identity = struct.pack(">9I", *(65536 * (i % 4 == 0) for i in range(9)))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity
    table += bytes(range(256)) * 4 + grid + bytes(range(256)) * 3
    text = b"text\0\0\0\0test\0".ljust(16, b"\0")
    description = (b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0").ljust(104, b"\0")
    white = b"XYZ \0\0\0\0" + struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    table = table.ljust(-(-len(table) // 4) * 4, b"\0")
    blocks = [(b"A2B0", table), (b"cprt", text), (b"desc", description), (b"wtpt", white)]
    at, directory, body = 128 + 4 + 12 * len(blocks), struct.pack(">I", len(blocks)), b""
    for name, block in blocks:
        directory += struct.pack(">4sII", name, at + len(body), len(block))
        body += block
    profile = header + directory + body
    return struct.pack(">I", len(profile)) + profile[4:]


def test_cmyk_goes_through_its_own_profile_which_is_not_carried(tmp_path):
    inks = np.zeros((*SIDES, 4), np.uint8)
    inks[:, 15:, 0] = 255
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.tiff", icc_profile=cmyk_profile())
    picture = read_image(tmp_path / "a.tiff")
    assert "icc-profile-data" not in picture.metadata
    assert (picture.pixels[:, :15] >= 254).all()
    # L* 50 is the gray 119 of sRGB; the plain formula would give (0, 255, 255).
    assert np.abs(picture.pixels[:, 15:].astype(int) - 119).max() <= 2


@pytest.mark.parametrize("kind", ["RGB", "L"])
def test_transparent_colours_of_8_bit_png_become_alpha(tmp_path, kind):
    image = Image.fromarray(photograph()).convert(kind)
    image.save(tmp_path / "a.png", transparency=image.getpixel((0, 0)))
    samples = np.asarray(image).reshape(*SIDES, -1)
    opaque = np.where((samples == samples[0, 0]).all(axis=2), 0, 255).astype(np.uint8)
    assert_same(read_image(tmp_path / "a.png"), np.asarray(image), opaque)


def test_deep_tiff_of_every_layout_is_read(tmp_path):
    path = tmp_path / "a.tiff"
    rgb, rgba = random_samples(np.uint16, 3), random_samples(np.uint16, 4)
    for options in ({"byteorder": ">"}, {"compression": "zlib"}, {"tile": (16, 16)}):
        tifffile.imwrite(path, rgb, photometric="rgb", **options)
        assert_same(read_image(path), rgb)
    planes = np.moveaxis(rgb, -1, 0).copy()
    tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate")
    assert_same(read_image(path), rgb)
    cv2.imwrite(str(path), rgb[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])  # LZW
    assert_same(read_image(path), rgb)
    tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["unassalpha"])
    assert_same(read_image(path), rgba[..., :3], rgba[..., 3])
    tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["unspecified"])
    assert_same(read_image(path), rgba[..., :3], rgba[..., 3])
    tifffile.imwrite(path, rgb[..., 0], photometric="miniswhite")
    assert_same(read_image(path), 65535 - rgb[..., 0])
    half = np.full(SIDES, 30000, np.uint16)
    premultiplied = np.dstack([half // 2, half // 4, half * 0, half])
    tifffile.imwrite(path, premultiplied, photometric="rgb", extrasamples=["assocalpha"])
    picture = read_image(path)
    np.testing.assert_allclose(picture.pixels.reshape(-1, 3) - [32768.0, 16384, 0], 0, atol=1)
    np.testing.assert_array_equal(picture.alpha, half)


def test_float_tiff_from_0_to_1_becomes_16_bit_and_others_are_refused(tmp_path):
    path = tmp_path / "a.tiff"
    values = (random_samples(np.uint16, 3) / 65535).astype(np.float32)
    tifffile.imwrite(path, values, photometric="rgb")
    assert_same(read_image(path), random_samples(np.uint16, 3))
    tifffile.imwrite(path, values.astype(np.float64), photometric="rgb")
    with pytest.raises(UserError, match="of a kind that is not supported; save it with 8 or 16 bits"):
        read_image(path)
    for bad in (1.5, -0.1, np.nan):
        tifffile.imwrite(path, np.full(SIDES, bad, np.float32))
        with pytest.raises(UserError, match="its float values are not all in 0 to 1"):
            read_image(path)


@pytest.mark.parametrize("dtype", [np.uint32, np.int16, np.int8])
def test_other_numbers_in_tiff_are_refused_in_a_sentence(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "a.tiff", np.ones(SIDES, dtype), photometric="minisblack")
    with pytest.raises(UserError, match=r"a\.tiff: its values are of type \w+; save it with 8 or 16 bits"):
        read_image(tmp_path / "a.tiff")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tiff", "16.png", "16.tiff"])
def test_exif_orientation_is_applied_and_reset(tmp_path, suffix, orientation):
    # What EXIF 2.32 calls the place of row 0 and column 0, as rows of an upright 2 x 3 picture.
    stored = {
        1: [[1, 2, 3], [4, 5, 6]],
        2: [[3, 2, 1], [6, 5, 4]],
        3: [[6, 5, 4], [3, 2, 1]],
        4: [[4, 5, 6], [1, 2, 3]],
        5: [[1, 4], [2, 5], [3, 6]],
        6: [[3, 6], [2, 5], [1, 4]],
        7: [[6, 3], [5, 2], [4, 1]],
        8: [[4, 1], [5, 2], [6, 3]],
    }[orientation]
    dtype = np.uint16 if "16" in suffix else np.uint8
    stored = np.repeat(np.array(stored, dtype)[..., None] * 40, 3, axis=2)
    path = tmp_path / f"a{suffix}"
    exif = exif_bytes(orientation)
    if suffix == "16.png":
        exif = struct.pack(">I", len(exif) - 6) + b"eXIf" + exif[6:]
        exif += struct.pack(">I", zlib.crc32(exif[4:]))
        path.write_bytes(raw_png16(stored, 2, exif))
    elif suffix == "16.tiff":
        tag = (274, "H", 1, orientation, True)
        tifffile.imwrite(path, stored, photometric="rgb", extratags=[tag])
    else:
        Image.fromarray(stored).save(path, exif=exif, lossless=True)
    picture = read_image(path)
    upright = np.array([[1, 2, 3], [4, 5, 6]], dtype) * 40
    np.testing.assert_array_equal(picture.pixels[..., 0], upright)
    assert size_of(path) == (2, 3)
    write_image(path, picture)
    np.testing.assert_array_equal(read_image(path).pixels, picture.pixels)
    with Image.open(path) as image:
        assert image.getexif().get(274, 1) == 1
        assert image.size == (3, 2)


def test_jpeg_orientation_is_applied_and_not_applied_twice(tmp_path):
    stored = np.repeat(photograph()[:8, :16], 2, axis=1)
    Image.fromarray(stored).save(tmp_path / "a.jpg", quality=95, exif=exif_bytes(6))
    picture = read_image(tmp_path / "a.jpg")
    assert picture.pixels.shape == (32, 8, 3) == (*size_of(tmp_path / "a.jpg"), 3)
    write_image(tmp_path / "b.jpg", picture)
    assert read_image(tmp_path / "b.jpg").pixels.shape == (32, 8, 3)


def test_exif_keeps_makers_notes_and_loses_the_old_size_and_the_thumbnail(tmp_path):
    exif = Image.Exif()
    exif[256], exif[257], exif[270] = 30, 20, "a description"
    note = bytes(range(200))
    exif[0x8769] = {37500: note, 40962: 30, 40963: 20}
    block = exif.tobytes()
    thumbnail = io.BytesIO()
    Image.new("RGB", (8, 8)).save(thumbnail, "jpeg")
    Image.fromarray(photograph()).save(tmp_path / "a.jpg", exif=block)
    picture = read_image(tmp_path / "a.jpg")
    picture.pixels = np.zeros((70, 90, 3), np.uint8)
    write_image(tmp_path / "b.webp", picture)
    carried = exif_of(tmp_path / "b.webp")
    assert (256 in carried, 257 in carried, carried[270]) == (False, False, "a description")
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
        b"Exif\0\0ZZ\0*\0\0\0\x08\0\0\0\0\0\0",  # neither II nor MM
        ifd((34665, 4, 1, 8)),  # the EXIF directory is the first one
        ifd((34853, 4, 1, 8), (34665, 4, 1, 0)),
        ifd((271, 2, 2**31, 8)),
    ],
    ids=["offset", "text", "order", "itself", "twice", "long"],
)
def test_damaged_exif_does_no_harm(tmp_path, suffix, exif):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(photograph()).save(path, lossless=True, quality=100, exif=exif)
    picture = read_image(path)
    for target in ("b.jpg", "b.tiff", "b.png", "b.webp"):
        write_image(tmp_path / target, picture)
        assert np.abs(read_image(tmp_path / target).pixels.astype(int) - photograph()).mean() < 2


def test_exif_too_long_for_jpeg_is_left_out(tmp_path, caplog):
    note = Image.Exif()
    note[0x8769] = {37500: bytes(70000)}
    Image.fromarray(photograph()).save(tmp_path / "a.png", exif=note.tobytes())
    write_image(tmp_path / "a.jpg", read_image(tmp_path / "a.png"))
    assert 37500 not in exif_of(tmp_path / "a.jpg").get_ifd(0x8769)
    assert "a.jpg: EXIF is too long for JPEG" in caplog.text


@pytest.mark.parametrize("options", [{"imagej": True}, {"metadata": {"axes": "YX"}}, {"ome": True}])
def test_descriptions_of_the_old_layout_are_dropped(tmp_path, options):
    tifffile.imwrite(tmp_path / "a.ome.tif", random_samples(np.uint16), **options)
    picture = read_image(tmp_path / "a.ome.tif")
    picture.pixels = np.repeat(picture.pixels, 4, axis=0)
    write_image(tmp_path / "b.tif", picture)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), picture.pixels)


def test_a_persons_description_stays(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", random_samples(np.uint16), description="a cat", metadata=None)
    write_image(tmp_path / "b.tif", read_image(tmp_path / "a.tif"))
    assert exif_of(tmp_path / "b.tif")[270] == "a cat"


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
    Image.fromarray(photograph()).save(tmp_path / "a.png", pnginfo=info, icc_profile=icc)
    read_image(tmp_path / "a.png")
    says = f"a.png: colour chunks that are not kept: {lost}\n"
    assert says in caplog.text if lost else caplog.text == ""


# --- Files of other programs


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", None])
def test_deep_tiff_of_any_compression_is_turned(tmp_path, compression, orientation):
    gray = random_samples(np.uint16)
    options = {"compression": compression} if compression else {}
    Image.fromarray(gray).save(tmp_path / "a.tif", tiffinfo={274: orientation}, **options)
    turned = gray.T if orientation > 4 else gray
    turned = turned[::-1] if orientation in (3, 4, 7, 8) else turned
    turned = turned[:, ::-1] if orientation in (2, 3, 6, 7) else turned
    assert_same(read_image(tmp_path / "a.tif"), turned)


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_half_floats_are_read(tmp_path, byteorder, compression):
    values = np.full((*SIDES, 3), 0.8, np.float16)
    options = {"byteorder": byteorder, "compression": compression, "photometric": "rgb"}
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    expected = np.rint(np.float32(values) * 65535).astype(np.uint16)
    assert_same(read_image(tmp_path / "a.tif"), expected)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_transparent_gray_of_any_depth_becomes_alpha(tmp_path, bits):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    white = 2**bits - 1
    header = struct.pack(">IIBBBBB", 8 // bits, 1, bits, 0, 0, 0, 0)
    row = bytes([0, white])  # black, but for the last pixel
    data = chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(">H", white))
    data += chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    picture = read_image(tmp_path / "a.png")
    expected = np.zeros((1, 8 // bits), np.uint8)
    expected[0, -1] = 255
    assert_same(picture, expected, 255 - expected)


@pytest.mark.parametrize("suffix", [".ppm", ".pgm", ".pbm", ".tga", ".jp2", ".bmp", ".avif", ".gif"])
def test_other_kinds_are_read(tmp_path, suffix):
    mode = {".pgm": "L", ".pbm": "1", ".gif": "P"}.get(suffix, "RGB")
    image = Image.fromarray(photograph()).convert(mode)
    options = {".avif": {"quality": 100}, ".jp2": {"irreversible": False}}.get(suffix, {})
    image.save(tmp_path / f"a{suffix}", **options)
    expected = np.asarray(image.convert("RGB"), int)
    assert np.abs(read_rgb(tmp_path / f"a{suffix}") - expected).mean() < 2


def test_16_bit_pgm_is_read_whole(tmp_path):
    gray = random_samples(np.uint16)
    (tmp_path / "a.pgm").write_bytes(b"P5 30 20 65535\n" + gray.astype(">u2").tobytes())
    assert_same(read_image(tmp_path / "a.pgm"), gray)


def test_lab_is_read_or_refused_in_a_sentence(tmp_path):
    Image.new("LAB", (30, 20)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="8-bit LAB, which are not supported; save it as RGB"):
        read_image(tmp_path / "a.tif")


def test_a_bad_checksum_of_a_text_is_no_harm(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "b")
    Image.fromarray(photograph()).save(tmp_path / "a.png", pnginfo=info)
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[data.index(b"tEXt") + 7] ^= 1  # its checksum
    (tmp_path / "a.png").write_bytes(data)
    assert_same(read_image(tmp_path / "a.png"), photograph())


@pytest.mark.parametrize("name", ["a[page=1].png", "ä ö[x].png", "-rf.png", "%d.png", "x" * 251 + ".png"])
def test_any_name_is_a_name(tmp_path, name):
    write_rgb(tmp_path / name, photograph())
    np.testing.assert_array_equal(read_rgb(tmp_path / name), photograph())
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_that_changed_is_read_anew(tmp_path):
    for pixels in (photograph(), 255 - photograph()):
        write_rgb(tmp_path / "a.png", pixels)
        np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), pixels)


def test_the_first_of_several_frames_is_used_and_said(tmp_path, caplog):
    first, second = Image.fromarray(photograph()), Image.fromarray(255 - photograph())
    for name in ("a.webp", "a.tiff"):
        options = {"lossless": True} if name == "a.webp" else {}
        first.save(tmp_path / name, save_all=True, append_images=[second], **options)
        caplog.clear()
        assert_same(read_image(tmp_path / name), photograph())
        assert f"{name} holds several frames: only the first is used" in caplog.text
    deep = random_samples(np.uint16, 3)
    tifffile.imwrite(tmp_path / "deep.tiff", np.stack([deep, deep // 2]), photometric="rgb")
    assert_same(read_image(tmp_path / "deep.tiff"), deep)
    assert "deep.tiff holds several frames" in caplog.text


def encoded(name):
    file = io.BytesIO()
    samples = random_samples(np.uint16, 3)
    if name == "16.png":
        return raw_png16(samples, 2)
    if name == "16.tiff":
        tifffile.imwrite(file, samples, photometric="rgb", compression="zlib")
    else:
        Image.fromarray((samples // 257).astype(np.uint8)).save(file, name.split(".")[1])
    return file.getvalue()


@pytest.mark.parametrize("name", ["8.png", "16.png", "8.jpeg", "8.webp", "8.bmp", "8.tiff", "16.tiff"])
def test_truncated_files_are_refused_in_one_sentence(tmp_path, name):
    data = encoded(name)
    for part in (0.3, 0.6, 0.9):
        (tmp_path / name).write_bytes(data[: int(len(data) * part)])
        with pytest.raises(UserError) as error:
            read_image(tmp_path / name)
        assert str(error.value).startswith(f"cannot read {tmp_path / name}: ")
        assert "\n" not in str(error.value)


def test_what_is_no_picture_is_refused_with_its_reason(tmp_path):
    path = tmp_path / "a.png"
    cases = {
        b"": "it is not an image",
        b"some text": "it is not an image",
        b"version https://git-lfs.github.com/spec/v1\noid": "it is a Git LFS pointer",
    }
    for data, reason in cases.items():
        path.write_bytes(data)
        for read in (read_image, size_of):
            with pytest.raises(UserError, match=reason):
                read(path)
    with pytest.raises(UserError, match="No such file"):
        read_image(tmp_path / "missing.png")
    with pytest.raises(UserError, match="it is not a file"):
        read_image(tmp_path)


def test_sizes_and_formats_that_cannot_be_written_are_refused(tmp_path):
    cases = [
        ("a.webp", (1, 16384), "WEBP holds at most 16383 pixels a side"),
        ("a.jpg", (65501, 1), "JPEG holds at most 65500 pixels a side"),
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


def test_pictures_above_the_limit_are_refused_by_their_header(tmp_path):
    header = struct.pack(">I4sIIBBBBB", 13, b"IHDR", 24000, 16000, 8, 2, 0, 0, 0)
    header += struct.pack(">I", zlib.crc32(header[4:])) + struct.pack(">I4s", 9, b"IDAT")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header)
    for read in (size_of, read_image):
        with pytest.raises(UserError, match=r"a\.png: it has 384 megapixels, and at most \d{2,3} are read"):
            read(tmp_path / "a.png")


def test_reading_and_writing_say_nothing_when_nothing_is_lost(tmp_path, caplog, metadata):
    caplog.set_level(logging.DEBUG)
    write_image(tmp_path / "a.png", ImageData(photograph(), None, metadata))
    read_image(tmp_path / "a.png")
    assert caplog.text == ""


# --- 8-bit RGB, and folders


def test_list_images_is_recursive_sorted_and_blind_to_case(tmp_path):
    for name in ["b.JPG", "a.png", "sub/deep/c.TiFf", "notes.txt", ".hidden.png", "a.npz"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    names = [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path, "X")]
    assert names == ["a.png", "b.JPG", "sub/deep/c.TiFf"]


@pytest.mark.parametrize("wrong", ["missing", "file", "empty"])
def test_a_wrong_folder_is_an_error_that_names_the_setting(tmp_path, wrong):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"^TRAIN\.hr_img_path: .*" + wrong) as error:
        list_images(tmp_path / wrong, "TRAIN.hr_img_path")
    str(error.value)


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
        list_images(tmp_path, "VALID.x")


def test_gray_palette_alpha_and_cmyk_become_rgb(tmp_path):
    rgb = random_samples(np.uint8, 3)
    gray = rgb[..., 0]
    alpha = np.dstack([rgb, np.zeros_like(gray)])
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(gray > 127).save(tmp_path / "bits.png")
    Image.fromarray(np.dstack([gray, gray * 0])).save(tmp_path / "gray_alpha.png")
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    Image.fromarray(rgb // 64 * 64).quantize(256).save(tmp_path / "palette.png", transparency=0)
    Image.new("CMYK", SIDES[::-1], (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")

    def read(name):
        image = read_rgb(tmp_path / name)
        assert image.dtype == np.uint8
        assert image.shape == (*SIDES, 3)
        return image

    as_rgb = np.dstack([gray] * 3)
    np.testing.assert_array_equal(read("gray.png"), as_rgb)
    np.testing.assert_array_equal(read("gray_alpha.png"), as_rgb)
    np.testing.assert_array_equal(read("bits.png"), (as_rgb > 127) * np.uint8(255))
    np.testing.assert_array_equal(read("alpha.png"), rgb)
    np.testing.assert_array_equal(read("palette.png"), rgb // 64 * 64)
    np.testing.assert_allclose(read("cmyk.tif")[0, 0], [232, 31, 42], atol=12)  # the red of print


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_gray_becomes_the_nearest_8_bits_for_training_too(tmp_path, suffix):
    values = np.array([[0, 255, 256, 1000, 32768, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
    read = read_rgb(tmp_path / f"deep.{suffix}")
    np.testing.assert_array_equal(read[0, :, 1], [0, 1, 1, 4, 128, 255])


def test_unreadable_pictures_are_errors_that_name_the_file(tmp_path):
    whole = tmp_path / "whole.png"
    write_rgb(whole, photograph().repeat(4, 0))
    contents = {
        "cut.png": whole.read_bytes()[:100],
        "text.png": b"hello",
        "none.png": b"",
        "pointer.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.png").mkdir()
    hints = {"pointer.png": "git lfs pull", "none.png": "not an image"}
    for name in [*contents, "folder.png", "absent.png"]:
        with pytest.raises(UserError, match=name) as error:
            read_rgb(tmp_path / name)
        assert hints.get(name, "") in str(error.value)


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.webp", "a.jpg", "a.bmp"])
def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    code = (
        "import resource, sys, signal, numpy as np; from images.files import write_rgb\n"
        "from common.errors import UserError\n"
        "noise = np.random.default_rng(1).integers(0, 256, (400, 400, 3), dtype=np.uint8)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n"
        "try: write_rgb(sys.argv[1], noise)\n"
        "except UserError as error: print(error)\n"
    )
    write_rgb(tmp_path / name, noise)
    before = (tmp_path / name).read_bytes()
    command = [sys.executable, "-c", code, tmp_path / name]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.startswith(f"cannot write {tmp_path / name}: ") and said.stderr == ""
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]
