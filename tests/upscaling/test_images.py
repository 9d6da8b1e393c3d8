import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from test_upscaler import NETWORKS, write_weights

from common.errors import UserError
from common.files import atomic
from images.files import ImageData, Source, write_image
from upscaling import images as images_module
from upscaling import jobs as jobs_module
from upscaling.images import resize
from upscaling.jobs import NOTES_FILE, notes_of, part_of

upscale_files = functools.partial(images_module.upscale_files, scale=4, outscale=4)
plan_outputs = functools.partial(jobs_module.plan_outputs, outscale=4)

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def nearest(pixels, _progress):
    """Stands in for the network."""
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    return pixels.repeat(4, axis=0).repeat(4, axis=1)


def four_times(plane):
    return plane.repeat(4, axis=0).repeat(4, axis=1)


def random_samples(dtype, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def make_png(path, height=5, width=6, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, ImageData(random_samples(np.uint8, height, width, 3, seed=seed)))
    return path


def make_pngs(folder, count):
    """As many small images; the folder as an input."""
    for index in range(count):
        make_png(folder / f"{index}.png", seed=index)
    return [str(folder)]


def read_image(path):
    return Source(path).read()


def names_in(folder):
    """All files but the notes of what results were made from."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != NOTES_FILE)
    return sorted(str(path.relative_to(folder)) for path in files)


@pytest.mark.parametrize("with_alpha", [False, True], ids=["opaque", "alpha"])
@pytest.mark.parametrize("channels", [(), (3,)], ids=["gray", "colour"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8bit", "16bit"])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_every_kind_of_image_passes_through_exactly(tmp_path, suffix, dtype, channels, with_alpha):
    pixels = random_samples(dtype, 5, 6, *channels) % 200  # 16 bits are not recognised by the brightest pixel
    most = np.iinfo(dtype).max
    seen = []
    alpha = np.full((5, 6), most, dtype) if with_alpha else None
    exif = Image.Exif()
    exif[271] = "A maker"
    Image.new("RGB", (2, 2)).save(tmp_path / "b.png", exif=exif.tobytes())
    metadata = {**read_image(tmp_path / "b.png").metadata, "icc-profile-data": ICC}
    source = tmp_path / f"a{suffix}"
    write_image(source, ImageData(pixels, alpha, metadata))
    upscale = lambda x, progress: seen.append(x) or nearest(x, progress)  # noqa: E731
    assert upscale_files(upscale, [str(source)], tmp_path / "out") == 0
    np.testing.assert_array_equal(seen[0], pixels if channels else np.dstack([pixels] * 3))
    image = read_image(tmp_path / "out" / f"a_x4{suffix}")
    assert image.pixels.dtype == dtype
    np.testing.assert_array_equal(image.pixels, four_times(pixels))
    assert (image.alpha is not None) == with_alpha
    assert not with_alpha or (image.alpha == most).all()
    assert image.metadata.get("icc-profile-data") == (ICC if channels else None)
    assert suffix == ".tiff" or b"A maker" in image.metadata["exif-data"]


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".bmp"])
def test_8_bit_formats_pass_through(tmp_path, suffix):
    pixels = np.full((8, 9, 3), (200, 100, 50), np.uint8)
    write_image(tmp_path / f"a{suffix}", ImageData(pixels))
    assert upscale_files(nearest, [str(tmp_path / f"a{suffix}")], tmp_path / "out") == 0
    sr = read_image(tmp_path / "out" / f"a_x4{suffix}").pixels
    assert np.abs(sr.astype(int) - four_times(pixels)).max() <= 3


def test_palette_and_cmyk_images_come_out_as_colour(tmp_path):
    colours = np.zeros((4, 4, 3), np.uint8)
    colours[:2], colours[2:] = (255, 0, 0), (0, 255, 0)
    Image.fromarray(colours).quantize(2).save(tmp_path / "palette.png")
    Image.fromarray(colours).quantize(2).save(tmp_path / "moving.gif")
    inks = np.zeros((4, 4, 4), np.uint8)
    inks[:2, :, 1:3], inks[2:, :, 0:3:2] = 255, 255  # magenta and yellow, cyan and yellow
    Image.fromarray(inks, "CMYK").save(tmp_path / "inks.tiff")
    assert upscale_files(nearest, [str(tmp_path)], tmp_path / "out") == 0
    for name in ("palette_x4.png", "moving.gif_x4.png", "inks_x4.tiff"):
        sr = read_image(tmp_path / "out" / name).pixels
        if name == "inks_x4.tiff":  # the red and green of print
            assert (sr.argmax(-1) == four_times(colours).argmax(-1)).all()
        else:
            np.testing.assert_array_equal(sr, four_times(colours))


@pytest.mark.parametrize(("tint", "mean"), [(2, 65534), (1, 65533)])  # 65533 and 2/3, 65533 and 1/3
def test_gray_is_the_rounded_mean_of_the_three_channels(tmp_path, tint, mean):
    write_image(tmp_path / "a.png", ImageData(np.full((2, 2), 65533, np.uint16)))
    upscale = lambda x, progress: nearest(x, progress) + np.array([0, 0, tint], np.uint16)  # noqa: E731
    upscale_files(upscale, [str(tmp_path / "a.png")], tmp_path / "out")
    assert (read_image(tmp_path / "out/a_x4.png").pixels == mean).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_edges_stay_in_range_and_colour_does_not_bleed_from_under_them(tmp_path, dtype):
    most = np.iinfo(dtype).max
    alpha = np.zeros((8, 12), dtype)
    alpha[:, 6:] = most
    pixels = np.zeros((8, 12, 3), dtype)
    pixels[:, 6:] = most // 2
    write_image(tmp_path / "a.png", ImageData(pixels, alpha))
    upscale_files(nearest, [str(tmp_path / "a.png")], tmp_path / "out")
    sr = read_image(tmp_path / "out/a_x4.png")
    assert (sr.pixels == most // 2).all()
    assert (sr.alpha[:, :18] == 0).all()
    assert (sr.alpha[:, 30:] == most).all()
    assert (np.diff(sr.alpha.astype(int), axis=1) >= 0).all()


def test_wholly_transparent_images_keep_their_colours(tmp_path):
    pixels = random_samples(np.uint8, 4, 4, 3)
    write_image(tmp_path / "a.png", ImageData(pixels, np.zeros((4, 4), np.uint8)))
    assert upscale_files(nearest, [str(tmp_path / "a.png")], tmp_path / "out") == 0
    sr = read_image(tmp_path / "out/a_x4.png")
    np.testing.assert_array_equal(sr.pixels, four_times(pixels))


def test_folders_are_searched_and_their_structure_is_kept(tmp_path, capfd):
    for name in ("a.png", "b/c.png", "b/d/e.PNG", ".hidden/f.png", "._a.png"):
        make_png(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    single = make_png(tmp_path / "single.png")
    out = tmp_path / "out"
    assert upscale_files(nearest, [str(tmp_path / "in"), str(single)], out) == 0
    assert names_in(out) == ["a_x4.png", "b/c_x4.png", "b/d/e_x4.PNG", "single_x4.png"]
    printed = capfd.readouterr()
    assert f"4 of 4 images upscaled to {out}\n" in printed.out
    assert f"[4/4] {single}\n" in printed.err


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("a.jpg", {}, "a_x4.jpg"),
        ("a.b.TIF", {}, "a.b_x4.TIF"),
        ("a.jfif", {}, "a_x4.jfif"),
        ("a.gif", {}, "a.gif_x4.png"),
        ("a.tga", {}, "a.tga_x4.png"),
        ("a.png", {"format": "jpg"}, "a.png_x4.jpg"),
        ("a.JPG", {"format": "jpg"}, "a_x4.jpg"),
        ("a.jpeg", {"format": "jpg"}, "a.jpeg_x4.jpg"),
        ("a.png", {"format": "webp", "outscale": 2}, "a.png_x2.webp"),
        ("a.png", {"outscale": 3.5}, "a_x3.5.png"),
        ("a.png", {"outscale": 16.0}, "a_x16.png"),
    ],
)
def test_outputs_are_named_after_input_factor_and_format(tmp_path, name, options, expected):
    (tmp_path / name).touch()
    (job,) = plan_outputs([str(tmp_path / name)], tmp_path / "out", **options)
    assert job.target == tmp_path / "out" / expected


def test_the_chosen_format_is_written(tmp_path):
    source = make_png(tmp_path / "a.png")
    for format, kind in (("jpg", "JPEG"), ("webp", "WEBP"), ("bmp", "BMP"), ("tiff", "TIFF")):
        upscale_files(nearest, [str(source)], tmp_path, format=format)
        with Image.open(tmp_path / f"a.png_x4.{format}") as image:
            assert (image.format, image.size) == (kind, (24, 20))


def test_mistakes_are_refused_before_any_work(tmp_path):
    make_png(tmp_path / "in/a.png")
    make_png(tmp_path / "in/a_x4.png")
    make_png(tmp_path / "other/a.png")
    write_image(tmp_path / "in/a.jpg", ImageData(np.zeros((4, 4, 3), np.uint8)))
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    png = str(tmp_path / "in/a.png")
    out = tmp_path / "out"
    cases = [
        (["nowhere.png"], out, {}, "there is no file or folder 'nowhere.png'"),
        ([str(tmp_path / "empty")], out, {}, "no images in"),
        ([png], tmp_path / "file", {}, "--output: cannot write to"),
        ([png], tmp_path / "file/below", {}, "--output: cannot write to"),
        ([png, str(tmp_path / "other")], out, {}, "would both become"),
        ([png, str(tmp_path / "in/a_x4.png")], tmp_path / "in", {}, "would overwrite the input"),
    ]
    for inputs, output, options, sentence in cases:
        with pytest.raises(UserError) as error:
            upscale_files(lambda *_: pytest.fail("work has begun"), inputs, output, **options)
        assert sentence in str(error.value)
        assert "\n" not in str(error.value)
    assert not out.exists() or names_in(out) == []


def test_an_image_named_twice_or_behind_a_circular_link_is_done_once(tmp_path):
    source = make_png(tmp_path / "in/a.png")
    (tmp_path / "in/circle").symlink_to(tmp_path / "in")
    jobs = plan_outputs([str(source), str(tmp_path / "in"), str(tmp_path / "in/circle/a.png")], "out")
    assert [job.target.name for job in jobs] == ["a_x4.png"]


@pytest.mark.parametrize("output", ["in", "in/out", "in/b"])
def test_outputs_inside_the_input_folder_do_not_become_inputs(tmp_path, output):
    make_png(tmp_path / "in/a.png")
    make_png(tmp_path / "in/c/d.png")
    for options in ({}, {"format": "jpg"}, {"outscale": 2.5}, {}):
        assert upscale_files(nearest, [str(tmp_path / "in")], tmp_path / output, **options) == 0
    results = [f"{stem}{end}" for stem in ("a", "c/d") for end in ("_x2.5.png", ".png_x4.jpg", "_x4.png")]
    found = set(names_in(tmp_path / output)) - {"a.png", "c/d.png"}
    assert found == set(results)


def test_bad_files_are_reported_at_the_end_and_do_not_stop_the_others(tmp_path, capfd):
    make_png(tmp_path / "in/a.png")
    (tmp_path / "in/b.png").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    (tmp_path / "in/c.png").write_bytes((tmp_path / "in/a.png").read_bytes()[:80])
    make_png(tmp_path / "in/d.png", width=7)
    make_png(tmp_path / "in/e.png")
    (tmp_path / "in/f.jpg").touch()
    (tmp_path / "out/e_x4.png").mkdir(parents=True)

    def upscale(pixels, progress):
        if pixels.shape[1] == 7:
            raise UserError("not enough memory for the smallest tile")
        return nearest(pixels, progress)

    inputs = [str(tmp_path / "in")]
    assert upscale_files(upscale, inputs, tmp_path / "out", overwrite=True) == 1
    assert names_in(tmp_path / "out") == ["a_x4.png"]
    printed = capfd.readouterr()
    assert "1 of 6 images upscaled" in printed.out
    assert "5 failed" in printed.out
    report = [line for line in printed.err.splitlines() if line.startswith("  ")]
    assert len(report) == 5
    inside = tmp_path / "in"
    assert any(f"cannot read {inside}/b.png: it is a Git LFS pointer" in line for line in report)
    assert any(f"cannot read {inside}/c.png: it is damaged" in line for line in report)
    memory = f"  cannot upscale {inside}/d.png: not enough memory for the smallest tile"
    assert memory in report
    assert any(f"cannot write {tmp_path}/out/e_x4.png: Is a directory" in line for line in report)
    assert any(f"cannot read {inside}/f.jpg: it is not an image" in line for line in report)


def test_results_too_large_for_their_format_fail_before_they_are_computed(tmp_path, capfd):
    write_image(tmp_path / "a.webp", ImageData(np.zeros((1, 4096), np.uint8)))
    code = upscale_files(lambda *_: pytest.fail("computed"), [str(tmp_path / "a.webp")], tmp_path)
    assert code == 1
    assert "WEBP holds at most 16383 pixels a side" in capfd.readouterr().err


def test_what_exists_is_left_and_counted_unless_overwriting_is_asked_for(tmp_path, capfd):
    make_png(tmp_path / "in/a.png")
    make_png(tmp_path / "in/b.png")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a_x4.png").write_text("mine")
    assert upscale_files(nearest, [str(tmp_path / "in")], out) == 0
    assert (out / "a_x4.png").read_text() == "mine"
    message = f"1 of 2 images upscaled to {out}, 1 already there (--overwrite makes them again)"
    assert message in capfd.readouterr().out
    assert upscale_files(nearest, [str(tmp_path / "in")], out, overwrite=True) == 0
    assert read_image(out / "a_x4.png").pixels.shape == (20, 24, 3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("outscale", [0.5, 1, 2, 3.5, 5.3, 16])
def test_any_final_factor_gives_the_rounded_size(tmp_path, dtype, outscale):
    pixels = random_samples(dtype, 5, 7, 3)
    alpha = random_samples(dtype, 5, 7)
    write_image(tmp_path / "a.png", ImageData(pixels, alpha))
    assert upscale_files(nearest, [str(tmp_path)], tmp_path / "out", outscale=outscale) == 0
    sr = read_image(tmp_path / "out" / f"a_x{outscale:g}.png")
    assert sr.pixels.shape[:2] == sr.alpha.shape == (round(5 * outscale), round(7 * outscale))
    assert sr.pixels.dtype == sr.alpha.dtype == dtype


def test_another_network_factor_is_resized_to_the_final_one(tmp_path):
    make_png(tmp_path / "a.png")
    twice = lambda pixels, progress: pixels.repeat(2, axis=0).repeat(2, axis=1)  # noqa: E731
    assert upscale_files(twice, [str(tmp_path)], tmp_path / "out", scale=2) == 0
    assert read_image(tmp_path / "out/a_x4.png").pixels.shape == (20, 24, 3)


def test_16_bit_resizing_equals_8_bit_resizing_and_does_not_overflow():
    y, x = np.mgrid[:40, :30]
    pixels = np.dstack([60 + 3 * y, 200 - 4 * x, 50 + x + y]).astype(np.uint8)
    small = resize(pixels, 23, 17, Image.Resampling.LANCZOS)
    deep = resize(pixels.astype(np.uint16) * 257, 23, 17, Image.Resampling.LANCZOS)
    assert np.abs(deep / 257 - small).max() <= 1  # 8-bit images are rounded between the passes
    for value in (0, 1, 32767, 65535):
        flat = np.full((9, 11), value, np.uint16)
        assert (resize(flat, 31, 6, Image.Resampling.LANCZOS) == value).all()
    pixels[10:20], pixels[20:30] = 255, 0
    large = resize(pixels.astype(np.uint16) * 257, 400, 300, Image.Resampling.LANCZOS)
    assert large[170, 5].min() > 60000
    assert large[230, 5].max() < 5000


def test_reading_computing_and_writing_overlap_but_stay_bounded(tmp_path, monkeypatch):
    source = make_pngs(tmp_path / "in", 6)
    begun, computed, seen_read, seen_behind = [], [], [], []
    read, write = Source.read, images_module.write_image

    def slow_write(path, image):
        time.sleep(0.05)
        write(path, image)
        begun.append("written")

    def counted_read(source):
        begun.append("read")
        return read(source)

    def upscale(pixels, progress):
        time.sleep(0.03)
        computed.append(1)
        seen_read.append(begun.count("read") - len(computed))
        seen_behind.append(len(computed) - 1 - begun.count("written"))
        return nearest(pixels, progress)

    monkeypatch.setattr(Source, "read", counted_read)
    monkeypatch.setattr(images_module, "write_image", slow_write)
    assert upscale_files(upscale, source, tmp_path / "out") == 0
    assert len(names_in(tmp_path / "out")) == 6
    assert max(seen_read) == 1  # the next one is read while this one is computed, no more
    assert max(seen_behind) == 1  # and the last one written


def test_interruptions_pass_and_leave_no_thread_and_no_half_file(tmp_path):
    source = make_pngs(tmp_path / "in", 4)
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        upscale_files(failing_at(3, KeyboardInterrupt), source, tmp_path / "out")
    assert threading.active_count() == threads
    assert names_in(tmp_path / "out") == ["0_x4.png", "1_x4.png"]
    assert upscale_files(nearest, [str(tmp_path / "in")], tmp_path / "out") == 0
    assert len(names_in(tmp_path / "out")) == 4


def failing_at(call, error):
    """An upscaler that raises in one of its calls."""
    calls = []

    def upscale(pixels, progress):
        calls.append(1)
        if len(calls) == call:
            raise error
        return nearest(pixels, progress)

    return upscale


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), MemoryError(), OSError(5, "Input error")])
def test_whatever_goes_wrong_with_an_image_is_that_images_failure(tmp_path, capfd, error):
    source = make_pngs(tmp_path / "in", 4)
    assert upscale_files(failing_at(2, error), source, tmp_path / "out") == 1
    assert names_in(tmp_path / "out") == ["0_x4.png", "2_x4.png", "3_x4.png"]
    assert f"cannot upscale {tmp_path}/in/1.png: {type(error).__name__}" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("boom"), "in/1.png: RuntimeError boom"),
        (MemoryError(), "1_x4.png: there is not enough memory"),
        (UserError("cannot write 1_x4.png: No space left on device"), "  cannot write 1_x4.png: No space"),
    ],
)
def test_failures_of_the_writer_are_those_of_its_image(tmp_path, capfd, monkeypatch, error, says):
    write = images_module.write_image

    def failing_write(path, image):
        if path.name == "1_x4.png":
            raise error
        write(path, image)

    monkeypatch.setattr(images_module, "write_image", failing_write)
    assert upscale_files(nearest, make_pngs(tmp_path / "in", 3), tmp_path / "out") == 1
    assert names_in(tmp_path / "out") == ["0_x4.png", "2_x4.png"]
    assert says in capfd.readouterr().err


def test_results_that_memory_cannot_hold_are_refused_by_their_size(tmp_path, capfd, monkeypatch):
    make_png(tmp_path / "in/a.png", 20, 20)
    make_png(tmp_path / "in/b.png", 10, 10)
    monkeypatch.setattr(images_module, "memory_limit", lambda: 12 * 16 * 20 * 20 - 1)
    assert upscale_files(nearest, [str(tmp_path / "in")], tmp_path / "out") == 1
    assert names_in(tmp_path / "out") == ["b_x4.png"]
    assert "a.png: 20 x 20 px become 80 x 80, which takes about" in capfd.readouterr().err


@pytest.mark.parametrize("options", [{}, {"format": "png"}, {"format": "jpg"}, {"compare": True}])
def test_names_of_results_do_not_depend_on_their_neighbours(tmp_path, options):
    names = ["x.jpg", "x.png", "x.tif", "x.tiff", "x.webp", "x.gif", "x.jpeg", "y.png"]
    for name in names:
        Image.new("RGB", (6, 5)).save(tmp_path / name)
    jobs = plan_outputs([str(tmp_path)], tmp_path / "out", **options)
    files = [file for job in jobs for file in (job.target, job.sheet) if file]
    assert len(set(files)) == len(files) == len(names) * (2 if options.get("compare") else 1)
    for job in jobs:
        assert plan_outputs([str(job.source)], tmp_path / "out", **options) == [job]


def test_a_source_added_later_does_not_disturb_what_is_done(tmp_path, capfd):
    make_png(tmp_path / "in/photo.png")
    inputs, out = [str(tmp_path / "in")], tmp_path / "out"
    assert upscale_files(nearest, inputs, out, format="png") == 0
    Image.new("RGB", (8, 8)).save(tmp_path / "in/photo.jpg")
    assert upscale_files(nearest, inputs, out, format="png") == 0
    assert "1 of 2 images upscaled" in capfd.readouterr().out
    assert names_in(out) == ["photo.jpg_x4.png", "photo_x4.png"]
    assert read_image(out / "photo_x4.png").pixels.shape == (20, 24, 3)


def test_results_of_other_weights_are_not_taken_for_done(tmp_path):
    one, two = (str(make_png(tmp_path / f"{name}.png")) for name in ("one", "two"))
    out = tmp_path / "out"
    assert upscale_files(nearest, [one], out, made_with="A") == 0
    assert upscale_files(nearest, [two], out, made_with="B") == 0
    assert upscale_files(nearest, [one], out, made_with="A") == 0  # its own
    with pytest.raises(UserError, match=r"1 results such as .*one_x4.png' were made with other weights"):
        upscale_files(nearest, [one, two], out, made_with="B")
    assert upscale_files(nearest, [one, two], out, made_with="B", overwrite=True) == 0
    assert upscale_files(nearest, [one, two], out, made_with="B") == 0


@pytest.mark.parametrize("name", ["a.png", "a.bmp"])
def test_a_source_that_changed_is_done_again(tmp_path, capfd, name):
    source = tmp_path / name
    for value in (0, 255):  # of the same size, in BMP also in bytes
        write_image(source, ImageData(np.full((5, 6, 3), value, np.uint8)))
        assert upscale_files(nearest, [str(source)], tmp_path / "out") == 0
        assert (read_image(tmp_path / "out" / name.replace(".", "_x4.")).pixels == value).all()
    assert "1 of them again, as their sources have changed" in capfd.readouterr().out
    assert upscale_files(lambda *_: pytest.fail("again"), [str(source)], tmp_path / "out") == 0


def test_a_comparison_that_others_made_is_left(tmp_path):
    source, sheet = make_png(tmp_path / "a.png"), tmp_path / "out/a_x4.png_compare.png"
    sheet.parent.mkdir()
    sheet.write_text("somebody's")
    assert upscale_files(nearest, [str(source)], tmp_path / "out", compare=True) == 1
    assert sheet.read_text() == "somebody's"


def test_results_of_an_earlier_command_are_no_input(tmp_path):
    make_png(tmp_path / "pics/a.png")
    make_png(tmp_path / "pics/holiday_x4.png")  # a name that only looks so
    assert upscale_files(nearest, [str(tmp_path / "pics/a.png")], tmp_path / "pics/x4", compare=True) == 0
    jobs = plan_outputs([str(tmp_path / "pics")], tmp_path / "elsewhere")
    assert [job.source.name for job in jobs] == ["a.png", "holiday_x4.png"]
    jobs = plan_outputs([str(tmp_path / "pics/x4/a_x4.png")], tmp_path / "elsewhere")  # unless named
    assert len(jobs) == 1
    jobs = plan_outputs([str(tmp_path / "pics/x4")], tmp_path / "elsewhere")
    assert len(jobs) == 2


def test_a_damaged_note_is_no_note(tmp_path):
    (tmp_path / NOTES_FILE).write_text('{"name": "a.png", "made\n[]\n3\n{"name": "b.png"}\n')
    assert notes_of(tmp_path) == {}


def test_the_output_may_be_a_file_for_one_image(tmp_path):
    source = str(make_png(tmp_path / "a.png"))
    assert upscale_files(nearest, [source], tmp_path / "out/big.jpg") == 0
    assert names_in(tmp_path / "out") == ["big.jpg"]
    for inputs, options in (([source, source], {}), ([str(tmp_path)], {}), ([source], {"format": "png"})):
        with pytest.raises(UserError, match=r"big\.jpg' (names a file|is no png file)"):
            plan_outputs(inputs, tmp_path / "out/big.jpg", **options)
    (tmp_path / "folder.png").mkdir()
    (job,) = plan_outputs([source], tmp_path / "folder.png")
    assert job.target == tmp_path / "folder.png/a_x4.png"


def test_names_too_long_are_refused_before_the_work(tmp_path, capfd):
    source = str(make_png(tmp_path / f"{'x' * 249}.png"))
    assert upscale_files(lambda *_: pytest.fail("computed"), [source], tmp_path / "out") == 1
    assert "is too long" in capfd.readouterr().err
    source = str(make_png(tmp_path / f"{'y' * 248}.png"))
    assert upscale_files(nearest, [source], tmp_path / "out") == 0


def test_kinds_that_are_not_read_are_counted(tmp_path, caplog):
    make_png(tmp_path / "a.png")
    for name in ("b.jxl", "c.psd", "d.PSD", "notes.txt", "e.svg"):
        (tmp_path / name).touch()
    for name in ("f.jfif", "g.jpe", "h.tga", "i.ppm", "j.heic", "k.jp2"):
        (tmp_path / name).touch()
    assert len(plan_outputs([str(tmp_path)], tmp_path / "out")) == 6
    assert "kinds that are not read: .heic (1), .jxl (1), .psd (2), .svg (1)" in caplog.text


SLOW_RUN = """
import signal, sys, time
from upscaling.images import upscale_files

def stop(number, frame):
    raise KeyboardInterrupt

signal.signal(signal.SIGTERM, stop)

def upscale(pixels, progress):
    time.sleep(0.15)
    return pixels.repeat(4, axis=0).repeat(4, axis=1)

upscale_files(upscale, [sys.argv[1]], sys.argv[2], scale=4)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on_where_it_stopped(tmp_path, number):
    for index in range(6):
        make_png(tmp_path / f"in/{index}.png", 300, 300, seed=index)
    upscale_files(nearest, [str(tmp_path / "in")], tmp_path / "whole")
    out = tmp_path / "out"
    command = [sys.executable, "-c", SLOW_RUN, str(tmp_path / "in"), str(out)]
    root = str(Path(images_module.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not (out / "1_x4.png").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(10) != 0
    done = [path for path in out.iterdir() if not path.name.startswith(".")]
    assert 2 <= len(done) < 6
    for path in done:  # complete, each of them
        assert path.read_bytes() == (tmp_path / "whole" / path.name).read_bytes()
    if number == signal.SIGTERM:
        assert len(names_in(out)) == len(done)
    calls = []
    upscale_files(lambda x, progress: calls.append(1) or nearest(x, progress), [str(tmp_path / "in")], out)
    assert len(calls) == 6 - len(done)
    for name in names_in(tmp_path / "whole"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_leftover_of_a_killed_write_is_replaced(tmp_path):
    source = make_png(tmp_path / "in/a.png")
    with atomic(tmp_path / "in/a_x4.png") as part:
        part.touch()
    (tmp_path / "in/a_x4.png").rename(part)  # as a killed process leaves it
    assert upscale_files(nearest, [str(source.parent)], tmp_path / "in") == 0
    assert names_in(tmp_path / "in") == ["a.png", "a_x4.png"]


# --- Many machines


def test_shards_do_every_image_once_and_are_balanced_by_pixels(tmp_path):
    sides = [40, 4, 4, 30, 8, 20, 20, 12, 36, 4]
    for number, side in enumerate(sides):
        make_png(tmp_path / f"in/{number}.png", side, side)
    whole = plan_outputs([str(tmp_path / "in")], tmp_path / "out")
    parts = [part_of(whole, part, 3) for part in (1, 2, 3)]
    assert sorted(job.source for jobs in parts for job in jobs) == [job.source for job in whole]
    loads = [sum(sides[int(job.source.stem)] ** 2 for job in jobs) for jobs in parts]
    assert max(loads) - min(loads) <= 400  # no more than a image of the middle
    assert part_of(whole, 1, 1) == whole


def test_shards_together_make_what_one_run_makes(tmp_path):
    for number in range(5):
        make_png(tmp_path / f"in/{number}.png", 3 + number, 4, seed=number)
    source = [str(tmp_path / "in")]
    assert upscale_files(nearest, source, tmp_path / "whole", made_with="x") == 0
    for part in (2, 1):
        assert upscale_files(nearest, source, tmp_path / "parts", made_with="x", shard=(part, 2)) == 0
    for name in names_in(tmp_path / "whole"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert names_in(tmp_path / "parts") == names_in(tmp_path / "whole")


def test_more_shards_than_images_leave_some_without_work(tmp_path, capfd):
    source = str(make_png(tmp_path / "a.png"))
    assert upscale_files(nearest, [source], tmp_path / "out", shard=(2, 2)) == 0
    assert "0 of 0 images" in capfd.readouterr().out


# --- Before and after


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_comparison_shows_bicubic_beside_the_result_at_its_size(tmp_path, dtype):
    write_image(tmp_path / "in/a.png", ImageData(random_samples(dtype, 30, 40)))
    assert upscale_files(nearest, [str(tmp_path / "in")], tmp_path / "in", compare=True) == 0
    assert names_in(tmp_path / "in") == ["a.png", "a_x4.png", "a_x4.png_compare.png"]
    sheet = read_image(tmp_path / "in/a_x4.png_compare.png").pixels
    result = read_image(tmp_path / "in/a_x4.png").pixels
    shown = (result / 257).round() if dtype == np.uint16 else result
    assert sheet.dtype == np.uint8 and (sheet[-120:, -160:, 0] == shown).all()
    assert not (sheet[-120:, :160, 0] == shown).all()
    # and neither is taken for a image to enlarge
    assert [job.source.name for job in plan_outputs([str(tmp_path / "in")], tmp_path / "in")] == ["a.png"]


def test_of_a_large_image_the_middle_is_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(images_module, "COMPARED_PX", 160)
    pixels = np.zeros((80, 80, 3), np.uint8)
    pixels[20:60, 20:60] = 200
    write_image(tmp_path / "a.png", ImageData(pixels))
    upscale_files(nearest, [str(tmp_path / "a.png")], tmp_path / "out", compare=True)
    assert (read_image(tmp_path / "out/a_x4.png_compare.png").pixels[-160:, -160:] == 200).all()


def test_names_that_the_output_cannot_show_do_not_end_the_summary(tmp_path):
    make_png(tmp_path / "in/\u65e5\u672c.png")
    (tmp_path / "in/\u8a9e.png").write_bytes(b"broken")
    weights = write_weights(tmp_path / "w.npz", NETWORKS["tensorlayer"])
    command = [sys.executable, "main.py", "--mode=evaluate", "--weights", str(weights), "--input"]
    command += [str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    root = Path(images_module.__file__).parents[1]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "1 of 2 images upscaled" in done.stdout
    assert "\\u8a9e.png: it is not an image" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("name", "says"), [("a.jpg", 1), ("a.JFIF", 1), ("a.png", 0)])
def test_jpeg_input_is_told_once_of_the_weights_for_it(tmp_path, caplog, name, says):
    for folder in ("in", "in/b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / folder / name, "png" if says == 0 else "jpeg")
    caplog.set_level("INFO")
    upscale_files(nearest, [str(tmp_path / "in")], tmp_path / "out", suggest_photo=True)
    assert caplog.text.count("--weights photo") == says
    upscale_files(nearest, [str(tmp_path / "in")], tmp_path / "out2")
    assert caplog.text.count("--weights photo") == says
