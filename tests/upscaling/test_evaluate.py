"""Validation picture, benchmark, and which weights are used."""

import csv
import json
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
    np.testing.assert_array_equal(files["lr"], bicubic.downsample(hr))
    np.testing.assert_array_equal(files["bicubic"], bicubic.upsample(files["lr"]))
    assert files["gen"].shape == hr.shape
    assert files["compare"].shape[1] >= 4 * hr.shape[1]
    for picture in (files["bicubic"], files["gen"]):
        assert f"{metrics.psnr_y(picture, hr):.2f} dB" in output
        assert f"{metrics.ssim_y(picture, hr):.4f}" in output
    assert "checkpoint/g_srgan.npz (recipe test, 1 steps)" in output


def test_benchmark_writes_the_table_it_prints(folder, caplog):
    weights = write_weights(folder / "weights.npz", NETWORKS["paper"])
    photo = validation_photo()
    for name, size in (("a", (40, 48)), ("b", (35, 42))):  # b is cropped to 32 x 40
        write_rgb(folder / f"plain/{name}.png", photo[: size[0], : size[1]])
    hr = photo[100:148, 100:140]
    write_rgb(folder / "paired/HR/c.png", hr)
    write_rgb(folder / "paired/LR_bicubic_x4/c.png", bicubic.downsample(hr, border="clamp"))
    arguments = ["--mode=benchmark", "--input", "plain", "paired", "--output", "out"]
    assert main.main([*arguments, "--weights", str(weights)]) == 0
    printed = caplog.text
    report = json.loads((folder / "out/benchmark.json").read_text())
    with open(folder / "out/benchmark.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["picture"] for row in rows] == ["a", "b", "c", "mean of 2", "mean of 1"]
    assert evaluate.PROTOCOL in printed
    assert report["protocol"] == evaluate.PROTOCOL
    for row, (name, expected) in zip(
        report["pictures"], (("plain/a", photo[:40, :48]), ("plain/b", photo[:32, :40]))
    ):
        sr = read_rgb(folder / f"out/{name}_x4.png")
        assert row["psnr_db"] == pytest.approx(metrics.psnr_y(sr, expected))
        cubic = bicubic.upsample(bicubic.downsample(expected))
        assert row["bicubic_psnr_db"] == pytest.approx(metrics.psnr_y(cubic, expected))
    mean = report["means"][0]
    assert mean["ssim"] == pytest.approx(np.mean([row["ssim"] for row in report["pictures"][:2]]))
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
    assert "not a quarter" in capfd.readouterr().err


def test_own_pictures_go_through_the_network(folder):
    weights = write_weights(folder / "weights.npz", NETWORKS["tensorlayer"])
    photo = validation_photo()[:21, :33]
    write_rgb(folder / "in/deep/a.png", photo)
    arguments = ["--mode=evaluate", "--input", "in", "--output", "out", "--weights", str(weights)]
    assert main.main(arguments) == 0
    assert read_rgb(folder / "out/deep/a_x4.png").shape == (84, 132, 3)
    assert main.main([*arguments, "--outscale", "2", "--self-ensemble"]) == 0
    assert read_rgb(folder / "out/deep/a_x2.png").shape == (42, 66, 3)
