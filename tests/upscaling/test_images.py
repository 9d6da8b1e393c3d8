import functools
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from examples import random_image, read_image, write_weights
from PIL import Image

from common.errors import UserError
from common.files import atomic
from images.files import ImageData, Source, write_image, write_rgb
from images.listing import list_images
from images.pixels import enlarge
from upscaling import images as images_module
from upscaling import jobs as jobs_module
from upscaling.images import resize
from upscaling.jobs import NOTES_FILE, notes_of, part_of

plan_outputs = functools.partial(jobs_module.plan_outputs, outscale=4)
ROOT = Path(images_module.__file__).parents[1]


def upscale_files(upscale, *args, **options):
    """As if this upscaler took no time to load."""
    return images_module.upscale_files(nullcontext(upscale), *args, **{"scale": 4, "outscale": 4, **options})


def nearest(pixels, _progress):
    """Stands in for the network."""
    assert pixels.ndim == 3 and pixels.shape[2] == 3
    return enlarge(pixels, 4)


def not_called(*_):
    """Stands in for the network where nothing should be computed."""
    pytest.fail("computed")


def random_samples(dtype, *shape):
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def make_png(path, height=5, width=6, seed=0):
    write_rgb(path, random_image(height, width, seed))
    return path


def make_pngs(folder, count):
    """As many small images; the folder as an input."""
    for index in range(count):
        make_png(folder / f"{index}.png", seed=index)
    return [str(folder)]


def upscaled(folder, *image, upscale=nearest, outscale=4, **options):
    """The result of one PNG of this image: pixels, alpha, metadata."""
    write_image(folder / "a.png", ImageData(*image))
    assert upscale_files(upscale, [str(folder / "a.png")], folder / "out", outscale=outscale, **options) == 0
    return read_image(folder / f"out/a_x{outscale:g}.png")


def names_in(folder):
    """All files but the notes of what results were made from."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != NOTES_FILE)
    return sorted(str(path.relative_to(folder)) for path in files)


@pytest.mark.parametrize("opacity", [None, 0, 1])
@pytest.mark.parametrize("channels", [(), (3,)], ids=["gray", "colour"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["8bit", "16bit"])
def test_every_kind_of_image_passes_through_exactly(tmp_path, dtype, channels, opacity):
    pixels = random_samples(dtype, 5, 6, *channels) % 200  # 16 bits are not recognised by the brightest pixel
    alpha = None if opacity is None else np.full((5, 6), opacity * np.iinfo(dtype).max, dtype)
    upscale = Mock(side_effect=nearest)
    image = upscaled(tmp_path, pixels, alpha, {"png-comment-0-Author": "A"}, upscale=upscale)
    np.testing.assert_array_equal(upscale.call_args[0][0], pixels if channels else np.dstack([pixels] * 3))
    np.testing.assert_array_equal(image.pixels, enlarge(pixels, 4), strict=True)
    np.testing.assert_array_equal(image.alpha, alpha if alpha is None else enlarge(alpha, 4), strict=True)
    assert image.metadata["png-comment-0-Author"] == "A"


@pytest.mark.parametrize(("tint", "mean"), [(2, 65534), (1, 65533)])  # 65533 and 2/3, 65533 and 1/3
def test_gray_is_the_rounded_mean_of_the_three_channels(tmp_path, tint, mean):
    upscale = lambda x, progress: nearest(x, progress) + np.array([0, 0, tint], np.uint16)  # noqa: E731
    sr = upscaled(tmp_path, np.full((2, 2), 65533, np.uint16), upscale=upscale)
    assert (sr.pixels == mean).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_alpha_edges_stay_in_range_and_colour_does_not_bleed_from_under_them(tmp_path, dtype):
    most = np.iinfo(dtype).max
    alpha = np.zeros((8, 12), dtype)
    alpha[:, 6:] = most
    pixels = np.zeros((8, 12, 3), dtype)
    pixels[:, 6:] = most // 2
    sr = upscaled(tmp_path, pixels, alpha)
    assert (sr.pixels == most // 2).all()
    assert (sr.alpha[:, :18] == 0).all()
    assert (sr.alpha[:, 30:] == most).all()
    assert (np.diff(sr.alpha.astype(int), axis=1) >= 0).all()


def test_folders_are_searched_and_their_structure_is_kept(tmp_path, capfd):
    inside, out, single = tmp_path / "in", tmp_path / "out", make_png(tmp_path / "single.png")
    for name in ("b/d/e.PNG", "b/c.png", "a.png", ".hidden/f.png", "._a.png"):
        make_png(inside / name)
    (inside / "notes.txt").write_text("no image")
    assert upscale_files(nearest, [str(inside), str(single)], out) == 0
    assert names_in(out) == ["a_x4.png", "b/c_x4.png", "b/d/e_x4.PNG", "single_x4.png"]
    printed = capfd.readouterr()
    assert f"4 of 4 images upscaled to {out}\n" in printed.out
    sources = inside / "a.png", inside / "b/c.png", inside / "b/d/e.PNG", single
    assert printed.err.splitlines() == [f"[{i}/4] {source}" for i, source in enumerate(sources, 1)]


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


@pytest.mark.parametrize(
    ("inputs", "output", "sentence"),
    [
        (["nowhere.png"], "out", "--input: there is no file or folder 'nowhere.png'"),
        (["empty"], "out", "no images in"),
        (["in/a.png"], "file", "--output: cannot write to 'file'"),
        (["in/a.png"], "file/below", "--output: cannot write to 'file/below'"),
        (["in/a.png", "other"], "out", "would both become"),
        (["in/a.png", "in/a_x4.png"], "in", "would overwrite the input"),
    ],
)
def test_mistakes_are_refused_before_any_work(tmp_path, monkeypatch, inputs, output, sentence):
    for name in ("in/a.png", "in/a_x4.png", "other/a.png"):
        make_png(tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        upscale_files(not_called, inputs, output)
    assert sentence in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.glob("out/*"))


def test_an_image_named_twice_or_behind_a_circular_link_is_done_once(tmp_path):
    source = make_png(tmp_path / "in/a.png")
    (tmp_path / "in/circle").symlink_to(tmp_path / "in")
    jobs = plan_outputs([str(source), str(tmp_path / "in"), str(tmp_path / "in/circle/a.png")], "out")
    assert [job.target.name for job in jobs] == ["a_x4.png"]
    assert list_images(tmp_path / "in", "--input") == [source]


def test_failures_are_reported_at_the_end_and_do_not_stop_the_others(tmp_path, capfd, monkeypatch):
    inside, out, write = tmp_path / "in", tmp_path / "out", images_module.write_image
    computing = {  # by the width of the image
        11: UserError("not enough memory for the smallest tile"),
        12: ZeroDivisionError("by zero"),
        13: MemoryError(),
    }
    for width in (10, *computing, 20, 21, 22, 30):
        make_png(inside / f"{width}.png", width=width)
    (inside / "31.png").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    (out / "22_x4.png").mkdir(parents=True)

    def upscale(pixels, progress):
        if error := computing.get(pixels.shape[1]):
            raise error
        return nearest(pixels, progress)

    def write_image(path, image):
        if path.name == "21_x4.png":
            raise MemoryError
        write(path, image)

    monkeypatch.setattr(images_module, "write_image", write_image)
    assert upscale_files(upscale, [str(inside)], out, overwrite=True) == 1
    assert names_in(out) == ["10_x4.png", "20_x4.png", "30_x4.png"]
    printed = capfd.readouterr()
    assert "3 of 9 images upscaled" in printed.out and "6 failed" in printed.out
    assert [line for line in printed.err.splitlines() if line.startswith("  ")] == [
        f"  cannot upscale {inside}/11.png: not enough memory for the smallest tile",
        f"  cannot upscale {inside}/12.png: ZeroDivisionError by zero",
        f"  cannot upscale {inside}/13.png: MemoryError",
        f"  cannot write {out}/21_x4.png: there is not enough memory",
        f"  cannot write {out}/22_x4.png: Is a directory",
        f"  cannot read {inside}/31.png: it is a Git LFS pointer; fetch the image with 'git lfs pull'",
    ]


def test_results_that_cannot_be_written_or_held_fail_before_they_are_computed(tmp_path, capfd, monkeypatch):
    write_image(tmp_path / "in/a.webp", ImageData(np.zeros((1, 4096), np.uint8)))
    make_png(tmp_path / "in/b.png", 70, 20)
    make_png(tmp_path / f"in/{'x' * 249}.png")
    monkeypatch.setattr(images_module, "memory_limit", lambda: 12 * 16 * 70 * 20 - 1)
    assert upscale_files(not_called, [str(tmp_path / "in")], tmp_path / "out") == 1
    report = capfd.readouterr().err
    assert "WEBP holds at most 16383 pixels per side" in report
    assert "b.png: 20 x 70 px become 80 x 280, which takes about" in report
    assert f"{'x' * 249}_x4.png, is too long" in report
    make_png(tmp_path / "fits/b.png", 69, 20)
    make_png(tmp_path / f"fits/{'x' * 248}.png")
    assert upscale_files(nearest, [str(tmp_path / "fits")], tmp_path / "out") == 0


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
@pytest.mark.parametrize(("scale", "outscale"), [(4, 0.5), (4, 1), (4, 3.5), (4, 5.3), (4, 16), (2, 4)])
def test_any_final_factor_gives_the_rounded_size(tmp_path, dtype, scale, outscale):
    options = {"upscale": lambda pixels, _: enlarge(pixels, scale), "scale": scale, "outscale": outscale}
    sr = upscaled(tmp_path, random_samples(dtype, 5, 7, 3), random_samples(dtype, 5, 7), **options)
    assert sr.pixels.shape[:2] == sr.alpha.shape == (round(5 * outscale), round(7 * outscale))
    assert sr.pixels.dtype == sr.alpha.dtype == dtype


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
    done, ahead = [], []
    read, write = Source.read, images_module.write_image

    def slow_write(path, image):
        time.sleep(0.05)
        write(path, image)
        done.append("write")

    def upscale(pixels, progress):
        time.sleep(0.03)
        ahead.append((done.count("read") - len(ahead) - 1, len(ahead) - done.count("write")))
        return nearest(pixels, progress)

    monkeypatch.setattr(Source, "read", lambda source: done.append("read") or read(source))
    monkeypatch.setattr(images_module, "write_image", slow_write)
    assert upscale_files(upscale, make_pngs(tmp_path / "in", 6), tmp_path / "out") == 0
    assert len(names_in(tmp_path / "out")) == 6
    # the next one is read while this one is computed, and the last one written, no more
    assert np.max(ahead, axis=0).tolist() == [1, 1]


def test_interruptions_pass_and_leave_no_thread_and_no_half_file(tmp_path):
    source, sr = make_pngs(tmp_path / "in", 4), random_image(20, 24)
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        upscale_files(Mock(side_effect=[sr, sr, KeyboardInterrupt]), source, tmp_path / "out")
    assert threading.active_count() == threads
    assert names_in(tmp_path / "out") == ["0_x4.png", "1_x4.png"]
    assert upscale_files(nearest, source, tmp_path / "out") == 0
    assert len(names_in(tmp_path / "out")) == 4


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
    assert upscale_files(not_called, [str(source)], tmp_path / "out") == 0


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
    for named, count in (("pics/x4/a_x4.png", 1), ("pics/x4", 2)):  # unless named
        assert len(plan_outputs([str(tmp_path / named)], tmp_path / "elsewhere")) == count
    make_png(tmp_path / "pics/x4/own.png")  # nothing in the output folder is an input
    assert len(plan_outputs([str(tmp_path / "pics")], tmp_path / "pics/x4")) == 2


def test_a_damaged_note_is_no_note(tmp_path):
    (tmp_path / NOTES_FILE).write_text('{"name": "a.png", "made\n[]\n3\n{"name": "b.png"}\n')
    assert notes_of(tmp_path) == {}


def test_the_output_may_be_a_file_for_one_image(tmp_path):
    source = str(make_png(tmp_path / "a.png"))
    assert upscale_files(nearest, [source], tmp_path / "out/big.jpg") == 0
    assert names_in(tmp_path / "out") == ["big.jpg"]
    for inputs, options in (([source, source], {}), ([str(tmp_path)], {}), ([source], {"format": "png"})):
        with pytest.raises(UserError, match=r"big\.jpg' is (a file name|not a png file)"):
            plan_outputs(inputs, tmp_path / "out/big.jpg", **options)
    (tmp_path / "folder.png").mkdir()
    (job,) = plan_outputs([source], tmp_path / "folder.png")
    assert job.target == tmp_path / "folder.png/a_x4.png"


def test_kinds_that_are_not_read_are_counted(tmp_path, caplog):
    make_png(tmp_path / "a.png")
    unread = ("b.jxl", "c.psd", "d.PSD", "notes.txt", "e.svg", "j.heic")
    for name in (*unread, "f.jfif", "g.jpe", "h.tga", "i.ppm", "k.jp2"):
        (tmp_path / name).touch()
    assert len(plan_outputs([str(tmp_path)], tmp_path / "out")) == 6
    assert "skipped images in unsupported formats: .heic (1), .jxl (1), .psd (2), .svg (1)" in caplog.text


KILLED_RUN = """
import itertools, os, signal, sys
from contextlib import nullcontext
from images.pixels import enlarge
from upscaling.images import upscale_files

def upscale(pixels, progress):
    if next(calls) == 3:  # the third result is being written
        os.kill(os.getpid(), signal.SIGKILL)
    return enlarge(pixels, 4)

calls = itertools.count()
upscale_files(nullcontext(upscale), [sys.argv[1]], sys.argv[2], scale=4)
"""


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    for index in range(6):
        make_png(tmp_path / f"in/{index}.png", 300, 300, seed=index)
    out, whole = tmp_path / "out", tmp_path / "whole"
    upscale_files(nearest, [str(tmp_path / "in")], whole)
    command = [sys.executable, "-c", KILLED_RUN, str(tmp_path / "in"), str(out)]
    assert subprocess.run(command, cwd=ROOT, stderr=subprocess.DEVNULL).returncode == -signal.SIGKILL
    done = [path for path in out.iterdir() if not path.name.startswith(".")]
    assert 2 <= len(done) <= 3
    for path in done:  # complete, each of them
        assert path.read_bytes() == (whole / path.name).read_bytes()
    upscale = Mock(side_effect=nearest)
    upscale_files(upscale, [str(tmp_path / "in")], out)
    assert upscale.call_count == 6 - len(done)
    for name in names_in(whole):
        assert (out / name).read_bytes() == (whole / name).read_bytes()


def test_a_leftover_of_a_killed_write_is_replaced(tmp_path):
    source = make_png(tmp_path / "in/a.png")
    with atomic(tmp_path / "in/a_x4.png") as part:
        part.touch()
    (tmp_path / "in/a_x4.png").rename(part)  # as a killed process leaves it
    assert upscale_files(nearest, [str(source.parent)], tmp_path / "in") == 0
    assert names_in(tmp_path / "in") == ["a.png", "a_x4.png"]


# --- Many machines


def test_shards_do_every_image_once_and_are_balanced_by_pixels(tmp_path, capfd):
    sides = [40, 4, 4, 30, 8, 20, 20, 12, 36, 4]
    for number, side in enumerate(sides):
        make_png(tmp_path / f"in/{number}.png", side, side)
    whole = plan_outputs([str(tmp_path / "in")], tmp_path / "out")
    parts = [part_of(whole, part, 3) for part in (1, 2, 3)]
    assert sorted(job.source for jobs in parts for job in jobs) == [job.source for job in whole]
    loads = [sum(sides[int(job.source.stem)] ** 2 for job in jobs) for jobs in parts]
    assert max(loads) - min(loads) <= 400  # no more than an image of the middle
    assert part_of(whole, 1, 1) == whole
    # one image leaves the second of two machines without work
    assert upscale_files(not_called, [str(whole[0].source)], tmp_path / "out", shard=(2, 2)) == 0
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


def test_of_a_large_image_the_middle_is_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(images_module, "COMPARED_PX", 160)
    pixels = np.zeros((80, 80, 3), np.uint8)
    pixels[20:60, 20:60] = 200
    upscaled(tmp_path, pixels, compare=True)
    assert (read_image(tmp_path / "out/a_x4.png_compare.png").pixels[-160:, -160:] == 200).all()


def test_names_that_the_output_cannot_show_do_not_end_the_summary(tmp_path):
    make_png(tmp_path / "in/\u65e5\u672c.png")
    (tmp_path / "in/\u8a9e.png").write_bytes(b"broken")
    weights = write_weights(tmp_path / "w.npz")
    command = [sys.executable, "main.py", "--mode=evaluate", "--weights", str(weights), "--input"]
    command += [str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
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
