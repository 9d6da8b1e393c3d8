"""Validation picture, benchmark, and which weights are used."""

import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from test_upscaler import NETWORKS, write_weights

import main
from common.errors import UserError
from images import bicubic, metrics
from images.files import read_rgb, write_rgb
from images.photos import validation_photo
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
    order = [
        folder / "pretrained/g_srresnet.npz",
        folder / "pretrained/g_srgan.npz",
        folder / "checkpoint/g_srgan_init.npz",
        folder / "checkpoint/g_srgan.npz",
    ]
    (folder / "pretrained").mkdir()
    for path in order:
        path.touch()
        assert evaluate.find_weights(None, None).resolve() == path
    assert str(evaluate.find_weights("named.npz", folder / "checkpoint")) == "named.npz"


def test_a_run_that_was_named_is_not_replaced_by_the_programs_weights(folder):
    with pytest.raises(UserError, match="there are no weights in chekpoint"):
        evaluate.find_weights(None, Path("chekpoint"))


def test_validation_pictures_and_scores(folder, caplog):
    write_weights(folder / "checkpoint/g_srgan.npz", NETWORKS["tensorlayer"])
    assert main.main(["--mode=evaluate"]) == 0
    output = caplog.text
    names = ("gen", "lr", "hr", "bicubic", "compare")
    files = {name: read_rgb(folder / f"samples/evaluate/valid_{name}.png") for name in names}
    hr = validation_photo()
    np.testing.assert_array_equal(files["hr"], hr)
    np.testing.assert_array_equal(files["lr"], bicubic.downsample(hr, 4))
    np.testing.assert_array_equal(files["bicubic"], bicubic.upsample(files["lr"], 4))
    assert files["gen"].shape == hr.shape
    assert files["compare"].shape[1] >= 4 * hr.shape[1]
    for picture in (files["bicubic"], files["gen"]):
        assert f"{metrics.psnr_y(picture, hr, 4):.2f} dB" in output
        assert f"{metrics.ssim_y(picture, hr, 4):.4f}" in output
    assert "checkpoint/g_srgan.npz (recipe test, 1 steps)" in output


def test_benchmark_writes_the_table_it_prints(folder, caplog):
    weights = write_weights(folder / "weights.npz", NETWORKS["paper"])
    photo = validation_photo()
    for name, size in (("a", (40, 48)), ("b", (35, 42))):  # b is cropped to 32 x 40
        write_rgb(folder / f"plain/{name}.png", photo[: size[0], : size[1]])
    hr = photo[100:148, 100:140]
    write_rgb(folder / "paired/HR/c.png", hr)
    write_rgb(folder / "paired/LR_bicubic_x4/c.png", bicubic.downsample(hr, 4, border="clamp"))
    arguments = ["--mode=benchmark", "--input", "plain", "paired", "--output", "out"]
    assert main.main([*arguments, "--weights", str(weights)]) == 0
    printed = caplog.text
    report = json.loads((folder / "out/benchmark.json").read_text())
    with open(folder / "out/benchmark.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == ["a", "b", "c", "mean of 2", "mean of 1"]
    assert evaluate.PROTOCOL.format(4) in printed
    assert report["protocol"] == evaluate.PROTOCOL.format(4)
    for row, (name, expected) in zip(
        report["images"], (("plain/a", photo[:40, :48]), ("plain/b", photo[:32, :40]))
    ):
        sr = read_rgb(folder / f"out/{name}_x4.png")
        assert row["psnr_db"] == pytest.approx(metrics.psnr_y(sr, expected, 4))
        cubic = bicubic.upsample(bicubic.downsample(expected, 4), 4)
        assert row["bicubic_psnr_db"] == pytest.approx(metrics.psnr_y(cubic, expected, 4))
    mean = report["means"][0]
    assert mean["ssim"] == pytest.approx(np.mean([row["ssim"] for row in report["images"][:2]]))
    assert re.search(rf"plain +mean of 2 +{mean['bicubic_psnr_db']:.2f} ", printed)


def test_benchmark_refuses_pairs_that_do_not_match(folder, capfd):
    weights = write_weights(folder / "weights.npz", NETWORKS["tensorlayer"])
    write_rgb(folder / "set/HR/a.png", np.zeros((32, 32, 3), np.uint8))
    (folder / "set/LR_bicubic_x4").mkdir()
    arguments = ["--mode=benchmark", "--input", "set", "--weights", str(weights)]
    assert main.main(arguments) == 2
    assert "has a.png, but" in capfd.readouterr().err
    write_rgb(folder / "set/LR_bicubic_x4/a.png", np.zeros((9, 8, 3), np.uint8))
    assert main.main(arguments) == 2
    assert "does not have 1/4 of the sides" in capfd.readouterr().err


@pytest.mark.parametrize(("name", "published_db"), [("x2", 33.66), ("x3", 30.39)])
def test_bicubic_rows_of_other_scales_are_the_published_ones(shared, tmp_path, name, published_db):
    """Set5 (Lim et al. 2017, table 2). Theirs resize the rounded Y; RGB gives up to 0.05 dB more."""
    scale = int(name[1])
    evaluate.benchmark(
        lambda lr: lr.repeat(scale, 0).repeat(scale, 1), scale, [shared / "data/benchmark/Set5"], tmp_path
    )
    (mean,) = table(tmp_path)["means"]
    assert published_db - 0.02 < mean["bicubic_psnr_db"] < published_db + 0.05
    assert (tmp_path / f"Set5/baby_{name}.png").is_file()


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_the_scale_comes_from_the_weights(folder, scale, caplog):
    arguments = {**NETWORKS["tensorlayer"], "scale": scale}
    weights = str(write_weights(folder / "weights.npz", arguments))
    write_rgb(folder / "set/a.png", noise(48, 72))
    assert main.main(["--mode=benchmark", "--input", "set", "--output", "out", "--weights", weights]) == 0
    assert f" {scale} px border removed" in caplog.text
    sr = read_rgb(folder / f"out/set/a_x{scale}.png")
    assert sr.shape == (48, 72, 3)
    assert main.main(["--mode=evaluate", "--input", "set", "--output", "large", "--weights", weights]) == 0
    assert read_rgb(folder / f"large/a_x{scale}.png").shape == (scale * 48, scale * 72, 3)
    assert main.main(["--mode=evaluate", "--weights", weights]) == 0
    valid = [read_rgb(folder / f"samples/evaluate/valid_{name}.png") for name in ("lr", "gen", "hr")]
    assert valid[0].shape[0] * scale == valid[1].shape[0] == valid[2].shape[0] == 512 // scale * scale
    np.testing.assert_array_equal(valid[0], bicubic.downsample(valid[2], scale))


def test_own_pictures_go_through_the_network(folder):
    weights = write_weights(folder / "weights.npz", NETWORKS["tensorlayer"])
    photo = validation_photo()[:21, :33]
    write_rgb(folder / "in/deep/a.png", photo)
    arguments = ["--mode=evaluate", "--input", "in", "--output", "out", "--weights", str(weights)]
    assert main.main(arguments) == 0
    assert read_rgb(folder / "out/deep/a_x4.png").shape == (84, 132, 3)
    assert main.main([*arguments, "--outscale", "2", "--self-ensemble"]) == 0
    assert read_rgb(folder / "out/deep/a_x2.png").shape == (42, 66, 3)


# --- Benchmark sets


def nearest(image):
    return image.repeat(4, 0).repeat(4, 1)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_set(folder, count=2, seed=0):
    for number in range(count):
        hr = noise(24, 28, seed + number)
        write_rgb(folder / f"HR/{number}.png", hr)
        write_rgb(folder / f"LR_bicubic_x4/{number}.png", bicubic.downsample(hr, 4))


def table(output):
    return json.loads((output / "benchmark.json").read_text())


def test_a_folder_of_sets_is_its_sets(tmp_path):
    make_set(tmp_path / "sets/A")
    make_set(tmp_path / "sets/B", seed=5)
    evaluate.benchmark(nearest, 4, [tmp_path / "sets"], tmp_path / "out")
    rows = table(tmp_path / "out")["images"]
    assert [(row["set"], row["image"]) for row in rows] == [("A", "0"), ("A", "1"), ("B", "0"), ("B", "1")]
    hr = noise(24, 28, 5)
    expected = metrics.psnr_y(nearest(bicubic.downsample(hr, 4)), hr, 4)
    assert rows[2]["psnr_db"] == pytest.approx(expected)


def test_hr_and_lr_of_one_folder_are_pairs_by_their_names(tmp_path):
    lr = noise(6, 7, 3)
    write_rgb(tmp_path / "set/a_HR.png", noise(24, 28))
    write_rgb(tmp_path / "set/a_LR.png", lr)
    write_rgb(tmp_path / "set/b_LR.png", noise(24, 28))  # without its HR it is a picture like others
    pairs = evaluate.pairs(tmp_path / "set", 4, tmp_path / "out")
    assert [(name, lr_path and lr_path.name) for name, _, lr_path in pairs] == [
        ("a_HR", "a_LR.png"),
        ("b_LR", None),
    ]


def test_results_beside_the_set_are_not_scored_in_the_next_run(tmp_path):
    write_rgb(tmp_path / "set/a.png", noise(24, 28))
    output = tmp_path / "set/out"
    for _ in range(2):
        evaluate.benchmark(nearest, 4, [tmp_path / "set"], output)
        assert [row["image"] for row in table(output)["images"]] == ["a"]


def test_pictures_of_one_stem_have_results_of_their_own(tmp_path):
    for name in ("a.png", "a.bmp", "below/a.png"):
        write_rgb(tmp_path / "set" / name, noise(24, 28))
    evaluate.benchmark(nearest, 4, [tmp_path / "set"], tmp_path / "out")
    assert len({row["image"] for row in table(tmp_path / "out")["images"]}) == 3
    results = [path for path in (tmp_path / "out/set").rglob("*") if path.is_file()]
    assert len(results) == 3


def test_a_name_with_a_slash_is_no_name_with_an_underscore(tmp_path):
    write_rgb(tmp_path / "set/a/b.png", noise(24, 28))
    write_rgb(tmp_path / "set/a_b.png", noise(24, 28, 1))
    evaluate.benchmark(nearest, 4, [tmp_path / "set"], tmp_path / "out")
    for name, seed in (("a/b", 0), ("a_b", 1)):
        expected = nearest(bicubic.downsample(noise(24, 28, seed), 4))
        np.testing.assert_array_equal(read_rgb(tmp_path / f"out/set/{name}_x4.png"), expected)


def test_a_broken_image_does_not_stop_the_others(tmp_path, caplog):
    make_set(tmp_path / "set")
    (tmp_path / "set/HR/0.png").write_bytes(b"broken")
    assert evaluate.benchmark(nearest, 4, [tmp_path / "set"], tmp_path / "out") == 1
    assert [row["image"] for row in table(tmp_path / "out")["images"]] == ["1"]
    assert "left out: cannot read" in caplog.text and "0.png" in caplog.text


def test_one_image_is_a_set(tmp_path):
    write_rgb(tmp_path / "a.png", noise(24, 28))
    assert evaluate.benchmark(nearest, 4, [tmp_path / "a.png"], tmp_path / "out") == 0
    assert [row["image"] for row in table(tmp_path / "out")["images"]] == ["a"]
    with pytest.raises(UserError, match="there is no file or folder"):
        evaluate.benchmark(nearest, 4, [tmp_path / "b.png"], tmp_path / "out")


def test_lr_may_be_called_as_in_div2k_and_have_sides_rounded_up(tmp_path):
    hr = noise(26, 29)
    write_rgb(tmp_path / "set/HR/0801.png", hr)
    lr = bicubic.resize(hr, 0.25)
    assert lr.shape == (7, 8, 3)
    write_rgb(tmp_path / "set/LR_bicubic_x4/0801x4.png", lr)
    assert evaluate.benchmark(nearest, 4, [tmp_path / "set"], tmp_path / "out") == 0
    sr = nearest(lr)[:26, :29]
    np.testing.assert_array_equal(read_rgb(tmp_path / "out/set/0801_x4.png"), sr)
    assert table(tmp_path / "out")["images"][0]["psnr_db"] == pytest.approx(metrics.psnr_y(sr, hr, 4))


def test_sets_of_one_name_are_refused_and_a_parent_has_its_own_name(tmp_path, monkeypatch):
    make_set(tmp_path / "one/Set5")
    make_set(tmp_path / "two/Set5")
    with pytest.raises(UserError, match="two sets are called Set5"):
        evaluate.benchmark(nearest, 4, [tmp_path / "one/Set5", tmp_path / "two/Set5"], tmp_path / "out")
    monkeypatch.chdir(tmp_path / "one/Set5/HR")
    evaluate.benchmark(nearest, 4, [Path("..")], tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == ["Set5"]


def test_small_pictures_are_left_out_and_lose_no_table(tmp_path, caplog):
    write_rgb(tmp_path / "set/a.png", noise(24, 28))
    write_rgb(tmp_path / "set/b.png", noise(18, 28))
    write_rgb(tmp_path / "set/c.png", noise(3, 3))
    evaluate.benchmark(nearest, 4, [tmp_path / "set"], tmp_path / "out")
    assert [row["image"] for row in table(tmp_path / "out")["images"]] == ["a"]
    assert all(f"{name}.png has sides below 19 px" in caplog.text for name in "bc")
    (tmp_path / "set/a.png").unlink()
    with pytest.raises(UserError, match=r"no image could be scored .*sides below 19 px"):
        evaluate.benchmark(nearest, 4, [tmp_path / "set"], tmp_path / "out")


def test_a_flat_picture_leaves_json_that_others_can_read(tmp_path):
    write_rgb(tmp_path / "set/a.png", np.full((24, 28, 3), 7, np.uint8))
    evaluate.benchmark(nearest, 4, [tmp_path / "set"], tmp_path / "out")

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / "out/benchmark.json").read_text()
    assert json.loads(text, parse_constant=refuse)["images"][0]["psnr_db"] is None
    with open(tmp_path / "out/benchmark.csv") as file:
        assert next(csv.DictReader(file))["psnr_db"] == "inf"


def test_a_name_that_is_no_utf8_loses_nothing(tmp_path):
    name = b"caf\xe9.png"
    (tmp_path / "set").mkdir()
    write_rgb(tmp_path / "a.png", noise(24, 28))
    (tmp_path / "a.png").rename(tmp_path / "set" / os.fsdecode(name))
    evaluate.benchmark(nearest, 4, [tmp_path / "set"], tmp_path / "out")
    assert table(tmp_path / "out")["images"][0]["image"] == "caf\N{REPLACEMENT CHARACTER}"


def test_rows_are_there_when_a_run_is_stopped(tmp_path):
    make_set(tmp_path / "set", 3)
    calls = []

    def upscale(image):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return nearest(image)

    with pytest.raises(KeyboardInterrupt):
        evaluate.benchmark(upscale, 4, [tmp_path / "set"], tmp_path / "out")
    assert len(table(tmp_path / "out")["images"]) == 2


def test_options_reach_the_pictures(folder):
    write_weights(folder / "checkpoint/g_srgan.npz", NETWORKS["tensorlayer"])
    write_rgb(folder / "a.png", noise(5, 6))
    arguments = ["--mode=evaluate", "--input", "a.png", "--output", "out"]
    assert main.main([*arguments, "--format", "bmp", "--outscale", "2"]) == 0
    assert read_rgb(folder / "out/a.png_x2.bmp").shape == (10, 12, 3)
    (folder / "out/a.png_x2.bmp").write_bytes(b"old")
    assert main.main([*arguments, "--format", "bmp", "--outscale", "2"]) == 0
    assert (folder / "out/a.png_x2.bmp").read_bytes() == b"old"
    assert main.main([*arguments, "--format", "bmp", "--outscale", "2", "--overwrite"]) == 0
    assert read_rgb(folder / "out/a.png_x2.bmp").shape == (10, 12, 3)


def test_other_weights_do_not_find_their_work_done(folder, capfd):
    for seed in (0, 1):
        write_weights(folder / f"{seed}.npz", NETWORKS["tensorlayer"], seed)
    write_rgb(folder / "a.png", noise(5, 6))
    arguments = ["--mode=evaluate", "--input", "a.png", "--output", "out", "--weights"]
    assert main.main([*arguments, "0.npz"]) == 0
    assert main.main([*arguments, "0.npz", "--self-ensemble"]) == 2
    assert main.main([*arguments, "1.npz"]) == 2
    assert "made with other weights or options" in capfd.readouterr().err
    assert main.main([*arguments, "0.npz"]) == 0


def test_scores_are_labelled_by_what_the_weights_are(folder, caplog):
    for phase, name in (("pretrain", "SRResNet"), ("adversarial", "SRGAN")):
        write_weights(folder / "w.npz", NETWORKS["tensorlayer"], phase=phase)
        caplog.clear()
        assert main.main(["--mode=evaluate", "--weights", "w.npz"]) == 0
        assert re.search(rf"  {name} +\d", caplog.text)
        assert "Upscaling on CPU" in caplog.text
