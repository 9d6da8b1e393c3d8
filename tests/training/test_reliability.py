"""What a run loses to faults of the disk, the images, the numbers and its users: nothing that is done."""

# ruff: noqa: F401, F811 (fixtures are imported, and then arguments)

import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import VGG_FILE
from test_run import (
    SHORT,
    arrays_of,
    log_lines,
    no_plots,
    run_training,
    run_until,
    short_run,
    tiny,
)

from common.errors import UserError
from common.files import held
from images import bicubic, files
from images.photos import sample_photos
from images.pixels import enlarge
from tf1 import checkpoints, runtime
from training import report
from training.preparation import prepared_run
from training.report import Report
from training.run import Run
from training.schedule import Schedule
from upscaling.upscaler import Upscaler, load_generator


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    run_until(folder, 3, *SHORT)
    return folder


@pytest.fixture
def stopped(stopped_run, tmp_path):
    """A run of SHORT in `tmp_path` that was stopped after its first epoch."""
    return Path(shutil.copytree(stopped_run, tmp_path, dirs_exist_ok=True))


def run_log(folder):
    return (folder / "checkpoint/run.log").read_text()


def steps_logged(folder):
    return [line["step"] for line in log_lines(folder)]


def saved_step(folder):
    return checkpoints.read_meta(folder / "checkpoint/srgan_state.npz")["step"]


def refused(folder, words, *settings):
    """Training in the folder by SHORT and `settings` is refused with these words."""
    with pytest.raises(UserError, match=words):
        run_training(folder, *SHORT, *settings)


def assert_ends_like(run, folder):
    """Training in the folder goes on to the variables and the log of an uninterrupted run."""
    run_training(folder, *SHORT)
    np.testing.assert_equal(arrays_of(run), arrays_of(folder))
    logs = [[(line["step"], line["mse_loss"]) for line in log_lines(each)] for each in (run, folder)]
    assert logs[0] == logs[1]


# --- The disk


def fail(monkeypatch, owner, name, calls, error):
    """Makes some calls of a function fail, counted from 1."""
    numbers, real = count(1), getattr(owner, name)

    def function(*args, **kwargs):
        if next(numbers) in calls:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, function)


@pytest.mark.parametrize(("owner", "name", "call"), [(Report, "log_epoch", 1), (Run, "save", 2)])
def test_an_epoch_that_a_run_died_in_writing_is_done_again(
    short_run, tmp_path, monkeypatch, owner, name, call
):
    """Weights, samples and the log come before the state."""
    fail(monkeypatch, owner, name, {call}, SystemExit(9))
    with pytest.raises(SystemExit):
        run_training(tmp_path, *SHORT)
    assert saved_step(tmp_path) == 0
    assert_ends_like(short_run, tmp_path)
    first = [folder / "samples/srgan_ginit/train_1.png" for folder in (short_run, tmp_path)]
    np.testing.assert_array_equal(*map(files.read_rgb, first))


@pytest.mark.parametrize(
    "blocked",
    ["samples/srgan_ginit/train_1.png", "checkpoint/train_log.jsonl", "samples/learning_curve.png"],
)
def test_reports_that_cannot_be_written_do_not_stop_training_and_are_tried_again(
    short_run, tmp_path, monkeypatch, caplog, blocked
):
    (tmp_path / blocked).mkdir(parents=True)  # a folder where the file should be

    def end_epoch(run, epoch, end=Run.end_epoch):
        end(run, epoch)
        if run.step_number == 3:
            (tmp_path / blocked).rmdir()

    monkeypatch.setattr(Run, "end_epoch", end_epoch)
    caplog.set_level("INFO")
    assert_ends_like(short_run, tmp_path)
    assert "); training continues" in caplog.text and "WARNING: no " in run_log(tmp_path)
    assert (tmp_path / blocked.replace("train_1", "train_2")).is_file()


def test_weights_that_cannot_be_written_are_an_error_and_written_at_the_next_start(
    short_run, tmp_path, monkeypatch
):
    # after the state of the start, the weights and the state of an epoch: the weights of the last, twice
    fail(monkeypatch, checkpoints, "write_npz", {4, 6}, UserError("no space"))
    refused(tmp_path, "weights could not be written")
    assert_ends_like(short_run, tmp_path)


def test_a_full_disk_ends_the_run_and_loses_nothing(stopped, short_run, monkeypatch):
    state, log = (stopped / "checkpoint" / name for name in ("srgan_state.npz", "train_log.jsonl"))
    before = state.read_bytes()
    fail(monkeypatch, np, "savez", {1, 2, 3}, OSError(28, "No space left on device"))
    refused(stopped, "cannot write .*No space left on device")
    assert state.read_bytes() == before and "could not be saved" in run_log(stopped)
    log.write_bytes(log.read_bytes() + bytes(40) + b"\n" + b'{"step": 3')  # damaged lines
    assert_ends_like(short_run, stopped)


@pytest.mark.parametrize(
    ("owner", "name", "error", "saved"),
    [
        # within a step, when some of the variables may be of the step and some of the one before
        (Run, "end_step", tf.errors.InvalidArgumentError(None, None, "boom"), 0),
        (Schedule, "learning_rate", ZeroDivisionError("boom"), 2),
    ],
    ids=["within a step", "between steps"],
)
def test_errors_are_preceded_by_a_save_unless_they_come_within_a_step(
    tmp_path, monkeypatch, owner, name, error, saved
):
    fail(monkeypatch, owner, name, {3}, error)
    with pytest.raises(type(error), match="boom"):
        run_training(tmp_path, *SHORT)
    assert saved_step(tmp_path) == saved
    assert f"step 2: {type(error).__name__}" in run_log(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "zeros", "gone"])
def test_a_damaged_state_is_renamed_and_the_one_before_is_used(stopped, short_run, caplog, damage):
    path = stopped / "checkpoint/srgan_state.npz"
    data = path.read_bytes()
    if damage == "gone":  # as between the two renames of a save
        path.unlink()
    else:
        path.write_bytes(data[:-100] if damage == "truncated" else bytes(len(data)))
    run_training(stopped, *SHORT)
    renamed = stopped / "checkpoint/srgan_state_damaged.npz"
    assert renamed.exists() == (damage != "gone") == ("is used" in caplog.text)
    renamed.unlink(missing_ok=True)
    assert_ends_like(short_run, stopped)
    for name in ("srgan_state.npz", "srgan_state_previous.npz"):  # with nothing else to go on from
        (stopped / "checkpoint" / name).write_bytes(b"PK")
    refused(stopped, "srgan_state.npz is damaged")
    assert path.read_bytes() == b"PK"


# --- Images, features and settings of a run that goes on


IMAGE_CHANGES = (
    (lambda first, _: shutil.copy(first, first.with_stem("new")), "4 images, .*now 5 images"),
    (lambda first, _: first.unlink(), "now 3 images"),
    (lambda first, _: first.rename(first.with_stem("other")), "now 4 images"),
    (lambda first, _: files.write_rgb(first, np.zeros((90, 80, 3), np.uint8)), "now 4 images"),
    (lambda first, second: shutil.copy(second, first), "now 4 images"),  # of the same size in bytes
)


def test_the_same_images_may_be_moved_and_others_are_refused(tmp_path, monkeypatch):
    photos = tmp_path / "photos"
    for name, image in list(sample_photos().items())[:4]:
        files.write_rgb(photos / "below" / f"{name}.bmp", image[:80, :90])
    run_training(tmp_path, *SHORT, f"TRAIN.hr_img_path={photos}")
    for number, (change, words) in enumerate(IMAGE_CHANGES):
        changed = shutil.copytree(photos, tmp_path / f"changed {number}")
        change(*sorted(changed.rglob("*.bmp"))[:2])
        refused(tmp_path, f"was made from other images .*{words}", f"TRAIN.hr_img_path={changed}")
    shutil.move(photos, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "moved", "moved", "./moved/"):
        run_training(tmp_path, *SHORT, f"TRAIN.hr_img_path={path}")


def test_another_vgg_file_precision_or_device_is_refused_or_logged(tmp_path, monkeypatch, caplog):
    settings = ("TRAIN.n_epoch_init=0", "TRAIN.n_epoch=1")
    run_training(tmp_path, *settings)
    with np.load(VGG_FILE) as file:
        arrays = dict(file)
    arrays["block1_conv1/bias"][0] += 1
    np.savez(tmp_path / "other.npz", **arrays)
    words = "used VGG19 features conv1_1 .*use the same ones"
    refused(tmp_path, words, *settings, f"VGG.weights={tmp_path / 'other.npz'}")
    shutil.copy(VGG_FILE, tmp_path / "copy.npz")  # the same weights by another name
    run_training(tmp_path, *settings, f"VGG.weights={tmp_path / 'copy.npz'}")
    words = "computed in float32.*add --set RUNTIME.precision=float32"
    refused(tmp_path, words, *settings, "RUNTIME.precision=bfloat16")
    monkeypatch.setattr(runtime, "describe_device", lambda: "GPU (some)")
    run_training(tmp_path, *settings)
    assert "made on CPU and continues on GPU (some)" in caplog.text


def test_a_state_older_than_a_setting_is_refused_by_its_name(stopped):
    path = stopped / "checkpoint/srgan_state.npz"
    arrays, meta = checkpoints.read_npz(path)
    del meta["config"]["TRAIN"]["exposures"]
    checkpoints.write_npz(path, arrays, meta)
    refused(stopped, "TRAIN.exposures was not there, is 0.0")


def test_files_older_than_model_generator_scale_have_scale_4(stopped, short_run):
    for file in ("srgan_state.npz", "g_srgan_init.npz"):
        arrays, meta = checkpoints.read_npz(stopped / "checkpoint" / file)
        arguments = meta["arguments"] if "arguments" in meta else meta["config"]["MODEL"]["generator"]
        del arguments["scale"]
        checkpoints.write_npz(stopped / "checkpoint" / file, arrays, meta)
    _, meta = checkpoints.read_network(stopped / "checkpoint/g_srgan_init.npz", "SRGAN_g", None)
    assert meta["arguments"]["scale"] == 4
    assert_ends_like(short_run, stopped)


def test_weights_of_other_networks_are_refused_by_what_differs(short_run, tmp_path):
    path, other = short_run / "checkpoint/g_srgan_init.npz", tmp_path / "other.npz"
    settings = (f"TRAIN.init_weights={path}", "MODEL.generator.output_activation=linear")
    refused(tmp_path, "output_activation is tanh there and linear here", *settings)
    arrays, meta = checkpoints.read_npz(path)
    del arrays["SRGAN_g/out/biases"]
    checkpoints.write_npz(other, arrays, meta)
    refused(tmp_path, "lacks SRGAN_g/out/biases", f"TRAIN.init_weights={other}")


# --- Folders in use


def test_weights_without_a_run_are_not_replaced_silently(short_run, tmp_path):
    shutil.copytree(short_run, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "checkpoint").glob("srgan_state*"):
        path.unlink()
    refused(tmp_path, "holds g_srgan_init.npz, but no run.*--restart")


def test_each_restart_archives_the_run_before_and_none_is_lost(short_run, tmp_path, monkeypatch):
    shutil.copytree(short_run, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(time, "strftime", lambda _: "now")  # both within a second

    def content(folder):
        names = ("train_log.jsonl", "srgan_state.npz", "g_srgan_init.npz")
        return [(folder / name).read_bytes() for name in names]

    runs = [content(tmp_path / "checkpoint")]
    for seed in (1, 2):
        run_training(tmp_path, *SHORT, "TRAIN.n_epoch_init=1", f"TRAIN.seed={seed}", restart=True)
        assert steps_logged(tmp_path) == [3]
        runs.append(content(tmp_path / "checkpoint"))
    archived = [content(tmp_path / "checkpoint/replaced" / name) for name in ("now", "now_2")]
    assert archived == runs[:-1]


def test_two_runs_do_not_share_a_folder(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    with held(tmp_path / "checkpoint"):
        refused(tmp_path, "another run is training in")


# --- The numbers


def test_steps_that_are_not_finite_are_counted_and_ten_in_a_row_end_the_run(tmp_path, monkeypatch):
    """The loss of step n is n, or NaN; the log has the means of the others."""
    bad = {5, 7, 8, 9, *range(11, 100)}

    def end_step(run, _, finite, end=Run.end_step):
        number = run.step_number + 1
        end(run, {"mse_loss": np.float32(np.nan if number in bad else number)}, number not in bad)

    monkeypatch.setattr(Run, "end_step", end_step)
    words = "the last 10 steps were not finite.*--set TRAIN.lr_init=0.0001"
    refused(tmp_path, words, "TRAIN.n_epoch_init=9")
    assert saved_step(tmp_path) == 20  # as good as step 10
    lines = log_lines(tmp_path)
    assert [line.get("skipped_steps") for line in lines] == [None, 1, 3, 2, 3, 3]
    assert [line.get("mse_loss") for line in lines] == [2, 5, None, 10, None, None]
    assert "step 5 skipped" in run_log(tmp_path)


def test_a_collapsed_discriminator_is_logged(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(report, "COLLAPSED_LOSS", 1e9)
    monkeypatch.setattr(report, "COLLAPSED_EPOCHS", 2)
    caplog.set_level("INFO")
    run_training(tmp_path, "TRAIN.n_epoch_init=1")
    assert caplog.text.count("the discriminator's loss is below") == 1


def test_a_step_that_cannot_fit_is_refused_before_anything_else(tmp_path):
    settings = ("TRAIN.batch_size=65536", "TRAIN.hr_patch_size=8192")
    refused(tmp_path, "a training step needs at least 96757 GB", *settings)  # 22 bytes for each HR pixel
    assert not (tmp_path / "checkpoint").exists()


def test_only_the_middle_of_a_large_validation_image_is_used(monkeypatch, caplog):
    monkeypatch.setattr(report, "MAX_VALID_SIDE", 32)
    caplog.set_level("INFO", "srgan")
    hr = np.random.default_rng(0).integers(0, 256, (60, 24, 3), dtype=np.uint8)
    lr = hr[::4, ::4]
    middle_hr, middle_lr = report.within_memory(hr, lr)
    assert middle_hr.shape == (32, 24, 3) and middle_lr.shape == (8, 6, 3)
    np.testing.assert_array_equal(middle_hr[::4, ::4], middle_lr)
    np.testing.assert_array_equal(middle_lr, lr[3:11])
    assert "validates with the middle 32 px" in caplog.text
    assert report.within_memory(hr[:32], lr[:8])[0].shape == (32, 24, 3)


def test_a_second_stop_ends_at_once(monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)  # which neither waits nor cleans up
    with runtime.StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT and not ended
        signal.raise_signal(signal.SIGTERM)
    assert ended == [143]


# --- Inputs and outputs


def test_features_are_made_with_the_vgg_file(tmp_path):
    with prepared_run(tiny(), tmp_path / "checkpoint", tmp_path / "samples", "tensorlayer", False) as run:
        kernel, bias = run.session.run(run.graph.net_vgg.all_params)
    with np.load(VGG_FILE) as file:
        np.testing.assert_array_equal(kernel, file["block1_conv1/kernel"])
        np.testing.assert_array_equal(bias, file["block1_conv1/bias"])


def test_samples_show_the_same_patches_each_time_and_the_moving_averages_sr(tmp_path):
    """LR | bicubic | SR | HR in columns. With the rate at 0.1, the average is far from the weights."""
    run_training(tmp_path, *SHORT, "TRAIN.ema_decay=0.999", "TRAIN.lr_init=0.1")
    folder = tmp_path / "samples/srgan_ginit"
    lr, hr = (files.read_rgb(folder / f"_train_sample_{px}.png") for px in (96, 384))
    assert lr.shape == (4, 4 * 4, 3)  # four patches of 16 x 16, and a quarter of that
    assert hr.shape == (16, 4 * 16, 3)
    lows, highs = np.hsplit(lr, 4), np.hsplit(hr, 4)
    np.testing.assert_array_equal(lows, [bicubic.downsample(high, 4) for high in highs])
    arrays, meta = load_generator(tmp_path / "checkpoint/g_srgan_init.npz")
    with Upscaler(arrays, meta["arguments"], tiny().RUNTIME) as upscaler:
        sr = [upscaler(low) for low in lows]
    columns = [[enlarge(low, 4) for low in lows], [bicubic.upsample(low, 4) for low in lows], sr, highs]
    for epoch in (1, 2):
        sheet = files.read_rgb(folder / f"train_{epoch}.png")[24:].astype(int)  # below the captions
        slices = [sheet[:, left : left + 16] for left in range(sheet.shape[1] - 15)]
        errors = np.array([[np.abs(part - np.vstack(column)).max() for part in slices] for column in columns])
        assert (np.diff(errors.argmin(axis=1)) >= 0).all()
        least = errors.min(axis=1)
        assert not least[[0, 1, 3]].any() and (least[2] <= 1) == (epoch == 2)


def test_state_is_saved_every_so_many_minutes(tmp_path):
    run_training(tmp_path, *SHORT, "TRAIN.save_minutes=0.0")
    saved = [line.split()[-2] for line in run_log(tmp_path).splitlines() if line.endswith(" saved")]
    assert saved == ["0", "0", "1", "2", "3", "3", "4", "5", "6"]


def test_bfloat16_trains_and_continues_with_the_same_bits(tmp_path):
    settings = (*SHORT, "RUNTIME.precision=bfloat16")
    run_training(tmp_path / "whole", *settings)
    run_until(tmp_path, 3, *settings)
    run_training(tmp_path, *settings)
    assert checkpoints.read_meta(tmp_path / "checkpoint/srgan_state.npz")["facts"]["precision"] == "bfloat16"
    np.testing.assert_equal(arrays_of(tmp_path / "whole"), arrays_of(tmp_path))
