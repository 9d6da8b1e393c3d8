import base64
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
import pyvips
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from common.errors import UserError
from images.files import ImageData, Source, check_fits, read_rgb, write_image, write_rgb
from images.listing import list_images

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SIDES = (20, 30)  # h, w
ROOT = Path(__file__).parents[2]


def random_samples(dtype, *channels):
    rng = np.random.default_rng(0)
    return rng.integers(0, np.iinfo(dtype).max + 1, (*SIDES, *channels), dtype)


def read_image(path):
    return Source(path).read()


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


def assert_same(image, pixels, alpha=None):
    assert image.pixels.dtype == pixels.dtype
    np.testing.assert_array_equal(image.pixels, pixels)
    if alpha is None:
        assert image.alpha is None
    else:
        assert image.alpha.dtype == alpha.dtype
        np.testing.assert_array_equal(image.alpha, alpha)


def png(shape, bits, colour_type, rows, *chunks):
    """A PNG of rows of packed samples, with chunks of (name, content) before them."""
    height, width = shape
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    data = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).astype(np.uint8))
    blocks = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in blocks
    )


def png16(samples, colour_type, *chunks):
    height, width = samples.shape[:2]
    rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    return png((height, width), 16, colour_type, rows, *chunks)


@pytest.mark.parametrize("with_alpha", [False, True], ids=["opaque", "alpha"])
@pytest.mark.parametrize("channels", [(), (3,)], ids=["gray", "colour"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8bit", "16bit"])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_lossless_formats_return_every_sample(tmp_path, suffix, dtype, channels, with_alpha, metadata):
    pixels = random_samples(dtype, *channels)
    alpha = random_samples(dtype) // 3 if with_alpha else None
    path = tmp_path / f"a{suffix}"
    for kept in (pixels, pixels % 200):  # 16 bits are not recognised by the brightest pixel
        write_image(path, ImageData(kept, alpha, metadata))
        assert_same(read_image(path), kept, alpha)
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


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"exif": exif_bytes()},
        {"icc_profile": ICC * 9},
        {"save_all": True, "append_images": [Image.new("RGB", (30, 20))]},
    ],
)
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
    image = read_image(tmp_path / "a.webp")
    assert image.pixels.shape == (*SIDES, 3)
    np.testing.assert_array_equal(image.alpha, alpha)
    assert "icc-profile-data" not in image.metadata


def test_16_bits_become_the_nearest_8(tmp_path, caplog):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(values / 65535 * 255).astype(np.uint8)
    write_image(tmp_path / "a.bmp", ImageData(values))
    assert_same(read_image(tmp_path / "a.bmp"), expected)
    assert "a.bmp: BMP has no 16 bits, reduced to 8" in caplog.text
    for suffix in ("png", "tif"):  # for training too
        Image.fromarray(values).save(tmp_path / f"a.{suffix}")
        np.testing.assert_array_equal(read_rgb(tmp_path / f"a.{suffix}"), np.dstack([expected] * 3))


@pytest.mark.parametrize("channels", [(), (3,)], ids=["gray", "colour"])
def test_alpha_is_laid_on_white_where_the_format_has_none(tmp_path, caplog, channels):
    pixels, alpha = random_samples(np.uint8, *channels), random_samples(np.uint8)
    alpha[0, :2] = 0, 255
    write_image(tmp_path / "a.bmp", ImageData(pixels, alpha))
    cover = alpha.reshape(*SIDES, *[1 for _ in channels]) / 255
    expected = np.floor(pixels * cover + 255 * (1 - cover) + 0.5).astype(np.uint8)
    written = read_image(tmp_path / "a.bmp").pixels
    np.testing.assert_array_equal(written, expected)
    assert "a.bmp: BMP has no transparency, laid on white" in caplog.text


def test_16_bit_png_of_other_programs_is_read_whole(tmp_path):
    rgb, gray = random_samples(np.uint16, 3), random_samples(np.uint16)
    gray_alpha = random_samples(np.uint16, 2)
    (tmp_path / "la.png").write_bytes(png16(gray_alpha, 4))
    assert_same(read_image(tmp_path / "la.png"), gray_alpha[..., 0], gray_alpha[..., 1])
    Image.fromarray(gray).save(tmp_path / "gray.png")
    assert_same(read_image(tmp_path / "gray.png"), gray)
    for samples, colour_type in ((rgb, 2), (gray, 0)):
        key = samples[3, 4]
        (tmp_path / "key.png").write_bytes(
            png16(samples, colour_type, (b"tRNS", np.array(key, ">u2").tobytes()))
        )
        is_clear = (samples == key).reshape(*SIDES, -1).all(axis=2)
        assert_same(read_image(tmp_path / "key.png"), samples, np.where(is_clear, 0, 65535).astype(np.uint16))


def test_palettes_one_bit_and_cmyk_are_converted(tmp_path):
    rgb = photograph() // 64 * 64
    Image.fromarray(rgb).quantize(256).save(tmp_path / "palette.png")
    assert_same(read_image(tmp_path / "palette.png"), rgb)

    palette = Image.fromarray(rgb).quantize(256)
    palette.save(tmp_path / "clear.png", transparency=palette.getpixel((0, 0)))
    opaque = np.where((rgb == rgb[0, 0]).all(axis=2), 0, 255).astype(np.uint8)
    assert_same(read_image(tmp_path / "clear.png"), rgb, opaque)

    Image.fromarray(rgb[..., 0]).convert("P").save(tmp_path / "grays.png", icc_profile=ICC)
    image = read_image(tmp_path / "grays.png")
    assert_same(image, np.repeat(rgb[..., :1], 3, axis=2))
    write_image(tmp_path / "again.png", image)  # colour with a profile of colours
    assert icc_of(tmp_path / "again.png") == ICC

    bits = random_samples(np.uint8) > 127
    for name in ("bits.png", "bits.tiff", "bits.bmp"):
        Image.fromarray(bits).save(tmp_path / name)
        assert_same(read_image(tmp_path / name), bits * np.uint8(255))

    inks = np.zeros((*SIDES, 4), np.uint8)
    inks[:, :15, 0], inks[:, 15:, 3] = 255, 255  # cyan, black
    Image.fromarray(inks, "CMYK").save(tmp_path / "inks.tiff", icc_profile=b"not a profile")
    image = read_image(tmp_path / "inks.tiff")
    cyan, black = image.pixels[0, 0].astype(int), image.pixels[0, -1].astype(int)
    assert cyan[0] < 60 and cyan[1] > 120 and cyan[2] > 180 and black.max() < 60  # as printed, not 0 and 255
    assert "icc-profile-data" not in image.metadata


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
    image = read_image(tmp_path / "a.tiff")
    assert "icc-profile-data" not in image.metadata
    assert (image.pixels[:, :15] >= 254).all()
    # L* 50 is the gray 119 of sRGB; the plain formula would give (0, 255, 255).
    assert np.abs(image.pixels[:, 15:].astype(int) - 119).max() <= 2


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
    image = read_image(path)
    np.testing.assert_allclose(image.pixels.reshape(-1, 3) - [32768.0, 16384, 0], 0, atol=1)
    np.testing.assert_array_equal(image.alpha, half)


@pytest.mark.parametrize("byteorder", "<>")
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("channels", [(), (3,)], ids=["gray", "colour"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_floats_from_0_to_1_become_16_bit(tmp_path, dtype, channels, compression, byteorder):
    values = (random_samples(np.uint16, *channels) / 65535).astype(dtype)
    options = {"photometric": "rgb" if channels else "minisblack", "compression": compression}
    tifffile.imwrite(tmp_path / "a.tif", values, byteorder=byteorder, **options)
    expected = np.rint(values.astype(np.float32) * 65535).astype(np.uint16)
    assert_same(read_image(tmp_path / "a.tif"), expected)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.full(SIDES, 1.5, np.float32), "its float values are not all in 0 to 1"),
        (np.full(SIDES, -0.1, np.float32), "its float values are not all in 0 to 1"),
        (np.full(SIDES, np.nan, np.float32), "its float values are not all in 0 to 1"),
        (np.ones(SIDES, np.float64), "of a kind that is not supported; save it with 8 or 16 bits"),
        (np.ones(SIDES, np.uint32), "its values are of type uint; save it with 8 or 16 bits"),
        (np.ones(SIDES, np.int16), "its values are of type short; save it with 8 or 16 bits"),
        (np.ones(SIDES, np.int8), "its values are of type char; save it with 8 or 16 bits"),
        (np.ones(SIDES, np.complex64), "of a kind that is not supported; save it with 8 or 16 bits"),
        (Image.new("LAB", (30, 20)), "8-bit LAB, which are not supported; save it as RGB"),
    ],
)
def test_samples_that_are_no_brightness_are_refused_in_a_sentence(tmp_path, samples, reason):
    if isinstance(samples, np.ndarray):
        tifffile.imwrite(tmp_path / "a.tiff", samples, photometric="minisblack")
    else:
        samples.save(tmp_path / "a.tiff")
    with pytest.raises(UserError, match=rf"a\.tiff: .*{reason}"):
        read_image(tmp_path / "a.tiff")


def turned(stored, orientation):
    """By what EXIF 2.32 says of row 0 and column 0: the visual top and left, top and right, ..."""
    upright = stored.swapaxes(0, 1) if orientation > 4 else stored
    upright = upright[::-1] if orientation in (3, 4, 7, 8) else upright
    return upright[:, ::-1] if orientation in (2, 3, 6, 7) else upright


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "name", ["8.png", "8.webp", "8.tiff", "16.png", "16.tiff", "lzw.tif", "deflate.tif", "packbits.tif"]
)
def test_exif_orientation_is_applied_and_reset(tmp_path, name, orientation):
    path, exif = tmp_path / name, exif_bytes(orientation)
    stored = random_samples(np.uint8 if name.startswith("8") else np.uint16, 3)
    if name.startswith("8"):
        Image.fromarray(stored).save(path, exif=exif, lossless=True)
    elif name == "16.png":
        path.write_bytes(png16(stored, 2, (b"eXIf", exif[6:])))
    elif name == "16.tiff":
        tifffile.imwrite(path, stored, photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
    else:
        stored = stored[..., 0]
        compression = {"lzw": "tiff_lzw", "deflate": "tiff_adobe_deflate"}.get(path.stem, "packbits")
        Image.fromarray(stored).save(path, tiffinfo={274: orientation}, compression=compression)
    image = read_image(path)
    assert_same(image, turned(stored, orientation))
    assert size_of(path) == image.pixels.shape[:2]
    write_image(path, image)
    assert_same(read_image(path), image.pixels)
    with Image.open(path) as written:
        assert written.getexif().get(274, 1) == 1
        assert written.size == image.pixels.shape[1::-1]


def test_jpeg_orientation_is_applied_and_not_applied_twice(tmp_path):
    Image.fromarray(photograph()).save(tmp_path / "a.jpg", exif=exif_bytes(6))
    assert size_of(tmp_path / "a.jpg") == (30, 20)
    write_image(tmp_path / "b.jpg", read_image(tmp_path / "a.jpg"))
    assert read_image(tmp_path / "b.jpg").pixels.shape == (30, 20, 3)


def test_exif_keeps_makers_notes_and_gets_the_new_size(tmp_path):
    exif = Image.Exif()
    exif[256], exif[257], exif[270] = 30, 20, "a description"
    note = bytes(range(200))
    exif[0x8769] = {37500: note, 40962: 30, 40963: 20}
    Image.fromarray(photograph()).save(tmp_path / "a.jpg", exif=exif.tobytes())
    image = read_image(tmp_path / "a.jpg")
    image.pixels = np.zeros((70, 90, 3), np.uint8)
    write_image(tmp_path / "b.webp", image)
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
    image = read_image(path)
    for target in ("b.jpg", "b.tiff", "b.png", "b.webp"):
        write_image(tmp_path / target, image)
        assert np.abs(read_image(tmp_path / target).pixels.astype(int) - photograph()).mean() < 2


@pytest.mark.parametrize(("target", "size"), [("a.jpg", 70000), ("a.tif", 9), ("a.bmp", 9)])
def test_exif_that_a_format_cannot_hold_is_left_out_and_said(tmp_path, caplog, target, size):
    note = Image.Exif()
    note[0x8769] = {37500: bytes(size)}
    Image.fromarray(photograph()).save(tmp_path / "a.png", exif=note.tobytes())
    write_image(tmp_path / target, read_image(tmp_path / "a.png"))
    assert 37500 not in exif_of(tmp_path / target).get_ifd(0x8769)
    kind = {"a.jpg": "JPEG", "a.tif": "TIFF", "a.bmp": "BMP"}[target]
    assert f"{target}: {kind} cannot hold this EXIF, left out" in caplog.text


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"imagej": True}, None),
        ({"metadata": {"axes": "YX"}}, None),
        ({"ome": True}, None),
        ({"description": "a cat", "metadata": None}, "a cat"),
    ],
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
    Image.fromarray(photograph()).save(tmp_path / "a.png", pnginfo=info, icc_profile=icc)
    read_image(tmp_path / "a.png")
    says = f"a.png: colour chunks that are not kept: {lost}\n"
    assert says in caplog.text if lost else caplog.text == ""


# --- Files of other programs


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_transparent_gray_of_any_depth_becomes_alpha(tmp_path, bits):
    white = 2**bits - 1
    row = np.array([[white]])  # black, but for the last pixel
    data = png((1, 8 // bits), bits, 0, row, (b"tRNS", struct.pack(">H", white)))
    (tmp_path / "a.png").write_bytes(data)
    image = read_image(tmp_path / "a.png")
    expected = np.zeros((1, 8 // bits), np.uint8)
    expected[0, -1] = 255
    assert_same(image, expected, 255 - expected)


@pytest.mark.parametrize(
    "suffix", [".ppm", ".pgm", ".pbm", ".tga", ".jp2", ".bmp", ".avif", ".gif", ".jpe", ".jfif"]
)
def test_other_kinds_are_read(tmp_path, suffix):
    mode = {".pgm": "L", ".pbm": "1", ".gif": "P"}.get(suffix, "RGB")
    image = Image.fromarray(photograph()).convert(mode)
    options = {".jp2": {"irreversible": False}}.get(suffix, {"quality": 100})
    image.save(tmp_path / f"a{suffix}", **options)
    expected = np.asarray(image.convert("RGB"), int)
    assert np.abs(read_rgb(tmp_path / f"a{suffix}") - expected).mean() < 2
    assert len(list_images(tmp_path, "X")) == 1


def test_avif_keeps_alpha_and_more_than_8_bits(tmp_path):
    rgba = np.dstack([photograph(), random_samples(np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.avif", quality=100)
    np.testing.assert_allclose(read_image(tmp_path / "a.avif").alpha, rgba[..., 3], atol=2)
    deep = pyvips.Image.new_from_array(random_samples(np.uint16, 3), interpretation="auto")
    deep.heifsave(str(tmp_path / "deep.avif"), compression="av1", bitdepth=12, lossless=True)
    read = read_image(tmp_path / "deep.avif").pixels
    assert read.dtype == np.uint16
    np.testing.assert_allclose(read, random_samples(np.uint16, 3), atol=16)


# 16 x 16 px, encoded with x265: the wheel's libvips has the container, but no decoder
HEIC = """
AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAXxtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJp
bG9jAAAAAERAAAEAAQAAAAABoAABAAAAAAAAADIAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAAB
AAAA/GlwcnAAAADcaXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEA
AQApQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqrprm4CGgwIAAAAyAAAADAIRiAAEABkQBwXPBiQAAABNjb2xybmNseAABAA0ABoAAAAAU
aXNwZQAAAAAAAABAAAAAQAAAAChjbGFwAAAAEAAAAAEAAAAQAAAAAf///9AAAAAC////0AAAAAIAAAAQcGl4aQAAAAADCAgIAAAAGGlw
bWEAAAAAAAAAAQABBYECAwWEAAAAOm1kYXQAAAAuKAGvEyFiY0D1JyL/9+Sf/Ie5/xd2WFncroDBW/L6wPZkm8DzqpGegIdppzAVeA==
"""


def test_heic_is_refused_in_a_sentence(tmp_path):
    (tmp_path / "a.heic").write_bytes(base64.b64decode(HEIC))
    with pytest.raises(UserError, match=r"a\.heic: it is HEIC, for which there is no decoder"):
        read_image(tmp_path / "a.heic")


@pytest.mark.parametrize("target", ["b.png", "b.jpg", "b.webp", "b.tif"])
@pytest.mark.parametrize("source", ["a.png", "a.jpg", "a.webp", "a.tif"])
def test_xmp_is_kept(tmp_path, source, target):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r/></x:xmpmeta>'
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp.decode())
    options = {"a.png": {"pnginfo": text}, "a.tif": {"tiffinfo": {700: xmp}}}.get(source, {"xmp": xmp})
    Image.fromarray(photograph()).save(tmp_path / source, **options)
    write_image(tmp_path / target, read_image(tmp_path / source))
    assert read_image(tmp_path / target).metadata["xmp-data"] == xmp


def test_16_bit_gray_of_pillow_is_read_whole_and_colour_as_8_bits_which_is_said(tmp_path, caplog):
    gray, rgb = random_samples(np.uint16), photograph().repeat(4, 0).repeat(4, 1) * np.uint16(257)
    (tmp_path / "a.pgm").write_bytes(b"P5 30 20 65535\n" + gray.astype(">u2").tobytes())
    assert_same(read_image(tmp_path / "a.pgm"), gray)
    assert caplog.text == ""
    (tmp_path / "a.ppm").write_bytes(b"P6\n#\n120 80\n65535\n" + rgb.astype(">u2").tobytes())
    cv2.imwrite(str(tmp_path / "a.jp2"), rgb[..., ::-1])
    for name in ("a.ppm", "a.jp2"):
        assert np.abs(read_image(tmp_path / name).pixels - rgb / 257).max() <= 2
        assert f"{name}: colours of this kind are read with 8 bits, not 16" in caplog.text


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
        first.save(tmp_path / name, save_all=True, append_images=[second], lossless=True)
        assert_same(read_image(tmp_path / name), photograph())
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


@pytest.mark.parametrize("read", [read_image, read_rgb, Source])
def test_what_is_no_image_is_refused_by_its_name_with_the_reason(tmp_path, read):
    contents = {
        "none.png": (b"", "it is not an image"),
        "text.png": (b"some text", "it is not an image"),
        "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid", "it is a Git LFS pointer"),
        "missing.png": (None, "No such file"),
        "folder.png": (None, "it is not a file"),
    }
    (tmp_path / "folder.png").mkdir()
    for name, (content, reason) in contents.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"cannot read {tmp_path / name}: {reason}"):
            read(tmp_path / name)


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


def test_images_above_the_limit_are_refused_by_their_header(tmp_path):
    (tmp_path / "a.png").write_bytes(png((16000, 24000), 8, 2, np.zeros((1, 9))))
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


def test_gray_becomes_rgb_and_alpha_is_dropped(tmp_path):
    rgb = random_samples(np.uint8, 3)
    gray, clear = rgb[..., 0], np.zeros_like(rgb[..., 0])
    for samples, expected in (
        (gray, np.dstack([gray] * 3)),
        (np.dstack([gray, clear]), np.dstack([gray] * 3)),
        (np.dstack([rgb, clear]), rgb),
    ):
        Image.fromarray(samples).save(tmp_path / "a.png")
        read = read_rgb(tmp_path / "a.png")
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, expected)


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
