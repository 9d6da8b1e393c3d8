"""Validation image, benchmark, and which weights are used."""

import csv
import json
import os
import re
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from examples import NETWORKS, SCALED, random_image, write_weights

import main
from common.errors import UserError
from images import bicubic, metrics
from images.files import read_rgb, write_rgb
from images.photos import validation_photo
from images.pixels import enlarge
from tf1 import checkpoints
from upscaling import evaluate


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoint").mkdir()
    return tmp_path


def test_weights_are_the_named_then_the_runs_then_the_programs(folder, monkeypatch):
    monkeypatch.setattr(checkpoints, "PRETRAINED_DIR", folder / "pretrained")
    with pytest.raises(UserError, match=r"--mode=srgan first"):
        evaluate.find_weights(None, None)
    (folder / "pretrained").mkdir()
    paths = ("pretrained/g_srresnet", "pretrained/g_srgan", "checkpoint/g_srgan_init", "checkpoint/g_srgan")
    for path in paths:
        (folder / f"{path}.npz").touch()
        assert evaluate.find_weights(None, None).resolve() == folder / f"{path}.npz"
    assert str(evaluate.find_weights("named.npz", folder / "checkpoint")) == "named.npz"
    with pytest.raises(UserError, match="there are no weights in chekpoint"):  # the program's do not stand in
        evaluate.find_weights(None, Path("chekpoint"))


@pytest.mark.parametrize(("phase", "label"), [("pretrain", "SRResNet"), ("adversarial", "SRGAN")])
def test_validation_images_and_scores(folder, caplog, phase, label):
    write_weights(folder / "checkpoint/g_srgan.npz", phase=phase)
    assert main.main(["--mode=evaluate"]) == 0
    names = ("gen", "lr", "hr", "bicubic", "compare")
    files = {name: read_rgb(folder / f"samples/evaluate/valid_{name}.png") for name in names}
    hr, lr = validation_photo(), files["lr"]
    np.testing.assert_array_equal(files["hr"], hr)
    np.testing.assert_array_equal(lr, bicubic.downsample(hr, 4))
    np.testing.assert_array_equal(files["bicubic"], bicubic.upsample(lr, 4))
    assert files["gen"].shape == hr.shape == (512, 512, 3)
    compare = files["compare"]  # captions above four images
    for i, image in enumerate((lr.repeat(4, 0).repeat(4, 1), files["bicubic"], files["gen"], hr)):
        np.testing.assert_array_equal(compare[-512:, 516 * i : 516 * i + 512], image)
    for name, image in (("bicubic", files["bicubic"]), (label, files["gen"])):
        scores = rf"{metrics.psnr_y(image, hr, 4):.2f} dB +SSIM {metrics.ssim_y(image, hr, 4):.4f}"
        assert re.search(rf"  {name} +{scores}$", caplog.text, re.MULTILINE)
    assert "checkpoint/g_srgan.npz (recipe test, 1 steps)" in caplog.text
    assert "Upscaling on CPU" in caplog.text


def test_benchmark_writes_the_table_it_prints(folder, caplog):
    write_weights(folder / "weights.npz", NETWORKS["paper"])
    photo = validation_photo()
    for name, size in (("a", (40, 48)), ("b", (35, 42))):  # b is cropped to 32 x 40
        write_rgb(folder / f"plain/{name}.png", photo[: size[0], : size[1]])
    make_set(folder / "paired", 1)
    arguments = ["--mode=benchmark", "--input", "plain", "paired", "--output", "out"]
    assert main.main([*arguments, "--weights", "weights.npz"]) == 0
    report = table(folder / "out")
    rows = csv.DictReader((folder / "out/benchmark.csv").read_text().splitlines())
    assert [row["image"] for row in rows] == ["a", "b", "0", "mean of 2", "mean of 1"]
    assert report["protocol"] == evaluate.PROTOCOL.format(4) and report["protocol"] in caplog.text
    for row, expected in zip(report["images"], (photo[:40, :48], photo[:32, :40])):
        sr = read_rgb(folder / f"out/plain/{row['image']}_x4.png")
        assert row["psnr_db"] == pytest.approx(metrics.psnr_y(sr, expected, 4))
        cubic = bicubic.upsample(bicubic.downsample(expected, 4), 4)
        assert row["bicubic_psnr_db"] == pytest.approx(metrics.psnr_y(cubic, expected, 4))
    mean = report["means"][0]
    assert mean["ssim"] == pytest.approx(np.mean([row["ssim"] for row in report["images"][:2]]))
    assert re.search(rf"plain +mean of 2 +{mean['bicubic_psnr_db']:.2f} ", caplog.text)


def test_benchmark_refuses_pairs_that_do_not_match(folder, refusal):
    write_weights(folder / "weights.npz")
    write_rgb(folder / "set/HR/a.png", np.zeros((32, 32, 3), np.uint8))
    (folder / "set/LR_bicubic_x4").mkdir()
    arguments = ["--mode=benchmark", "--input", "set", "--weights", "weights.npz"]
    assert "has a.png, but" in refusal(*arguments)
    write_rgb(folder / "set/LR_bicubic_x4/a.png", np.zeros((9, 8, 3), np.uint8))
    assert "does not have 1/4 of the sides" in refusal(*arguments)


@pytest.mark.parametrize(("name", "published_db"), [("x2", 33.66), ("x3", 30.39)])
def test_bicubic_rows_of_other_scales_are_the_published_ones(shared, tmp_path, name, published_db):
    """Set5 (Lim et al. 2017, table 2). Theirs resize the rounded Y; RGB gives up to 0.05 dB more."""
    scale = int(name[1])
    upscaling = nullcontext(partial(enlarge, scale=scale))
    evaluate.benchmark(upscaling, scale, [shared / "data/benchmark/Set5"], tmp_path)
    (mean,) = table(tmp_path)["means"]
    assert published_db - 0.02 < mean["bicubic_psnr_db"] < published_db + 0.05
    assert (tmp_path / f"Set5/baby_{name}.png").is_file()


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_the_scale_comes_from_the_weights(folder, scale, caplog):
    write_weights(folder / "checkpoint/g_srgan.npz", SCALED[f"x{scale}"])
    write_rgb(folder / "set/a.png", random_image(48, 72))
    assert main.main(["--mode=benchmark", "--input", "set", "--output", "out"]) == 0
    assert f" {scale} px border removed" in caplog.text
    assert read_rgb(folder / f"out/set/a_x{scale}.png").shape == (48, 72, 3)
    assert main.main(["--mode=evaluate", "--input", "set", "--output", "large"]) == 0
    assert read_rgb(folder / f"large/a_x{scale}.png").shape == (scale * 48, scale * 72, 3)
    assert main.main(["--mode=evaluate"]) == 0
    valid = [read_rgb(folder / f"samples/evaluate/valid_{name}.png") for name in ("lr", "gen", "hr")]
    assert valid[0].shape[0] * scale == valid[1].shape[0] == valid[2].shape[0] == 512 // scale * scale
    np.testing.assert_array_equal(valid[0], bicubic.downsample(valid[2], scale))


# --- Benchmark sets


nearest = partial(enlarge, scale=4)


def make_set(folder, count=2, seed=0):
    for number in range(count):
        hr = random_image(24, 28, seed + number)
        write_rgb(folder / f"HR/{number}.png", hr)
        write_rgb(folder / f"LR_bicubic_x4/{number}.png", bicubic.downsample(hr, 4))


def table(output):
    return json.loads((output / "benchmark.json").read_text())


def benchmark(folder, *sets, output="out", upscale=nearest, code=0):
    """The rows of the benchmark of sets in a folder, by default of the one called "set"."""
    sets = [folder / name for name in sets or ["set"]]
    assert evaluate.benchmark(nullcontext(upscale), 4, sets, folder / output) == code
    return table(folder / output)["images"]


def test_a_folder_of_sets_is_its_sets_and_one_image_is_a_set(tmp_path):
    make_set(tmp_path / "sets/A")
    make_set(tmp_path / "sets/B", seed=5)
    rows = benchmark(tmp_path, "sets")
    assert [(row["set"], row["image"]) for row in rows] == [("A", "0"), ("A", "1"), ("B", "0"), ("B", "1")]
    hr = random_image(24, 28, 5)
    expected = metrics.psnr_y(nearest(bicubic.downsample(hr, 4)), hr, 4)
    assert rows[2]["psnr_db"] == pytest.approx(expected)
    write_rgb(tmp_path / "a.png", hr)
    assert [row["psnr_db"] for row in benchmark(tmp_path, "a.png")] == pytest.approx([expected])
    with pytest.raises(UserError, match="there is no file or folder"):
        benchmark(tmp_path, "b.png")


def test_hr_and_lr_of_one_folder_are_pairs_by_their_names(tmp_path):
    lr = random_image(6, 7, 3)
    write_rgb(tmp_path / "set/a_HR.png", random_image(24, 28))
    write_rgb(tmp_path / "set/a_LR.png", lr)
    write_rgb(tmp_path / "set/b_LR.png", random_image(24, 28))  # without its HR it is an image like others
    pairs = evaluate.pairs(tmp_path / "set", 4, tmp_path / "out")
    assert {name: lr and lr.name for name, _, lr in pairs} == {"a_HR": "a_LR.png", "b_LR": None}


def test_results_within_the_set_are_not_scored_in_the_next_run(tmp_path):
    write_rgb(tmp_path / "set/a.png", random_image(24, 28))
    for _ in range(2):
        assert [row["image"] for row in benchmark(tmp_path, output="set/out")] == ["a"]


def test_images_of_similar_names_have_separate_results(tmp_path):
    names = ("a.png", "a.bmp", "below/a.png", "below_a.png")
    for seed, name in enumerate(names):
        write_rgb(tmp_path / "set" / name, random_image(24, 28, seed))
    assert len({row["image"] for row in benchmark(tmp_path)}) == len(names)
    for seed, name in enumerate(("a", "a.bmp", "below/a", "below_a")):
        expected = nearest(bicubic.downsample(random_image(24, 28, seed), 4))
        np.testing.assert_array_equal(read_rgb(tmp_path / f"out/set/{name}_x4.png"), expected)


def test_lr_may_be_called_as_in_div2k_and_have_sides_rounded_up(tmp_path):
    hr = random_image(26, 29)
    write_rgb(tmp_path / "set/HR/0801.png", hr)
    lr = bicubic.resize(hr, (7, 8))
    write_rgb(tmp_path / "set/LR_bicubic_x4/0801x4.png", lr)
    (row,) = benchmark(tmp_path)
    sr = nearest(lr)[:26, :29]
    np.testing.assert_array_equal(read_rgb(tmp_path / "out/set/0801_x4.png"), sr)
    assert row["psnr_db"] == pytest.approx(metrics.psnr_y(sr, hr, 4))


def test_sets_of_one_name_are_refused_and_a_parent_has_its_own_name(tmp_path, monkeypatch):
    make_set(tmp_path / "one/Set5")
    make_set(tmp_path / "two/Set5")
    with pytest.raises(UserError, match="two sets are called Set5"):
        benchmark(tmp_path, "one/Set5", "two/Set5")
    monkeypatch.chdir(tmp_path / "one/Set5/HR")
    evaluate.benchmark(nullcontext(nearest), 4, [Path("..")], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["Set5"]


def test_broken_and_small_images_are_left_out_and_do_not_stop_the_others(tmp_path, caplog):
    for name, size in (("a", (18, 28)), ("b", (24, 28)), ("c", (3, 3))):
        write_rgb(tmp_path / f"set/{name}.png", random_image(*size))
    (tmp_path / "set/d.png").write_bytes(b"broken")
    assert [row["image"] for row in benchmark(tmp_path, code=1)] == ["b"]
    assert all(f"{name}.png has sides below 19 px" in caplog.text for name in "ac")
    assert f"left out: cannot read {tmp_path}/set/d.png" in caplog.text
    (tmp_path / "set/b.png").unlink()
    with pytest.raises(UserError, match=r"no image could be scored .*sides below 19 px"):
        benchmark(tmp_path)


def test_infinite_psnr_is_null_in_json(tmp_path):
    write_rgb(tmp_path / "set/a.png", np.full((24, 28, 3), 7, np.uint8))
    assert benchmark(tmp_path)[0]["psnr_db"] is None
    assert "Infinity" not in (tmp_path / "out/benchmark.json").read_text()
    assert ",inf," in (tmp_path / "out/benchmark.csv").read_text()


def test_names_that_are_not_utf8_are_scored(tmp_path):
    write_rgb(tmp_path / "set/a.png", random_image(24, 28))
    (tmp_path / "set/a.png").rename(tmp_path / "set" / os.fsdecode(b"caf\xe9.png"))
    assert benchmark(tmp_path)[0]["image"] == "caf\N{REPLACEMENT CHARACTER}"


def test_a_stopped_benchmark_keeps_its_rows(tmp_path):
    make_set(tmp_path / "set", 3)
    lr = nearest(random_image(6, 7))
    with pytest.raises(KeyboardInterrupt):
        benchmark(tmp_path, upscale=Mock(side_effect=[lr, lr, KeyboardInterrupt]))
    assert len(table(tmp_path / "out")["images"]) == 2


def test_images_of_a_folder_are_upscaled_as_the_options_say(folder):
    write_weights(folder / "checkpoint/g_srgan.npz")
    write_rgb(folder / "in/deep/a.png", random_image(5, 6))
    arguments = ["--mode=evaluate", "--input", "in", "--output", "out", "--format=bmp", "--outscale=0.5"]
    arguments += ["--self-ensemble"]
    assert main.main(arguments) == 0
    result = folder / "out/deep/a.png_x0.5.bmp"
    assert read_rgb(result).shape == (2, 3, 3) and result.read_bytes()[:2] == b"BM"
    result.write_bytes(b"old")
    assert main.main(arguments) == 0 and result.read_bytes() == b"old"
    assert main.main([*arguments, "--overwrite"]) == 0 and read_rgb(result).shape == (2, 3, 3)


def test_results_of_other_weights_or_options_are_refused(folder, refusal):
    for seed in (0, 1):
        write_weights(folder / f"{seed}.npz", seed=seed)
    write_rgb(folder / "a.png", random_image(5, 6))
    arguments = ["--mode=evaluate", "--input", "a.png", "--output", "out", "--weights"]
    assert main.main([*arguments, "0.npz"]) == 0
    for others in (["0.npz", "--self-ensemble"], ["1.npz"]):
        assert "made with other weights or options" in refusal(*arguments, *others)
    assert main.main([*arguments, "0.npz"]) == 0
