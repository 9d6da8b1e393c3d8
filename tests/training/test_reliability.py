"""What a run loses to faults of the disk, the images, the numbers and its users: nothing that is done."""

import os
import shutil
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import VGG_FILE
from test_run import (  # noqa: F401
    SHORT,
    arrays_of,
    assert_same_bits,
    log_lines,
    no_plots,
    pretrained_run,
    run_training,
    run_until,
    tiny,
)

from common.errors import UserError
from images import files
from images.photos import sample_photos
from tf1 import checkpoints, runtime
from training import report
from training.preparation import prepared_run
from training.report import Report
from training.run import Run
from training.schedule import Schedule
from upscaling.upscaler import Upscaler, load_generator

ROOT = str(Path(__file__).parents[2])


@pytest.fixture(scope="module")
def short_run(pretrained_run):  # noqa: F811
    """An uninterrupted run of SHORT."""
    return pretrained_run


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
    """Training in the folder goes on to the variables of an uninterrupted run."""
    run_training(folder, *SHORT)
    assert_same_bits(arrays_of(run), arrays_of(folder))
    assert steps_logged(folder) == [3, 6]


# --- The disk


@pytest.mark.parametrize(("part", "dies_in"), [(Report, "samples"), (Report, "log_epoch"), (Run, "save")])
def test_an_epoch_that_a_run_died_in_writing_is_done_again(short_run, tmp_path, monkeypatch, part, dies_in):
    """Weights, samples and the log come before the state."""
    real = getattr(part, dies_in)

    def die(self, *args):
        if part is Run and self.step_number == 0:
            return real(self)
        return sys.exit(9)

    with monkeypatch.context() as patch:
        patch.setattr(part, dies_in, die)
        with pytest.raises(SystemExit):
            run_training(tmp_path, *SHORT)
    assert saved_step(tmp_path) == 0
    assert_ends_like(short_run, tmp_path)
    undisturbed, repeated = log_lines(short_run), log_lines(tmp_path)
    assert [line["mse_loss"] for line in undisturbed] == [line["mse_loss"] for line in repeated]
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
    def refuse(path, arrays, meta, write=checkpoints.write_npz):
        if Path(path).name.startswith("g_srgan"):
            raise UserError(f"cannot write {path}: No space left on device")
        write(path, arrays, meta)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_npz", refuse)
        refused(tmp_path, "weights could not be written")
    assert_ends_like(short_run, tmp_path)


def test_a_run_whose_state_cannot_be_saved_ends_and_keeps_the_state_before(stopped, monkeypatch):
    before = (stopped / "checkpoint/srgan_state.npz").read_bytes()

    def full_disk(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    refused(stopped, "cannot write .*No space left on device")
    assert (stopped / "checkpoint/srgan_state.npz").read_bytes() == before
    assert "could not be saved" in run_log(stopped)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own of 1 MB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("needs the right to mount a disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_ends_the_run_and_loses_nothing(small_disk, short_run, monkeypatch):
    filler = small_disk / "filler"

    def end_epoch(run, epoch, end=Run.end_epoch):
        if run.step_number == 6:
            filler.write_bytes(bytes(shutil.disk_usage(small_disk).free))
        end(run, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "end_epoch", end_epoch)
        refused(small_disk, "cannot write .*srgan_state.*No space left on device")
    assert saved_step(small_disk) == 3
    refused(small_disk, "No space left on device")
    filler.unlink()
    assert_ends_like(short_run, small_disk)


@pytest.mark.parametrize(
    ("part", "where", "error", "saved"),
    [
        # within a step, when some of the variables may be of the step and some of the one before
        (Run, "end_step", tf.errors.InvalidArgumentError(None, None, "boom"), 0),
        (Schedule, "learning_rate", ZeroDivisionError("boom"), 2),
    ],
    ids=["within a step", "between steps"],
)
def test_errors_are_preceded_by_a_save_unless_they_come_within_a_step(
    tmp_path, monkeypatch, part, where, error, saved
):
    calls, real = count(1), getattr(part, where)

    def fail_at_the_third(self, *args):
        if next(calls) == 3:
            raise error
        return real(self, *args)

    monkeypatch.setattr(part, where, fail_at_the_third)
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


def test_damaged_lines_of_the_log_are_dropped(stopped):
    path = stopped / "checkpoint/train_log.jsonl"
    path.write_bytes(path.read_bytes() + bytes(40) + b"\n" + b'{"step": 3')
    run_training(stopped, *SHORT)
    assert steps_logged(stopped) == [3, 6]


# --- Images, features and settings of a run that goes on


@pytest.fixture
def photos_folder(tmp_path):
    """Four images of one size in BMP files, which then are of one size in bytes too."""
    folder = tmp_path / "photos"
    for name, image in list(sample_photos().items())[:4]:
        files.write_rgb(folder / "below" / f"{name}.bmp", image[:80, :90])
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda first, _: shutil.copy(first, first.with_stem("new")), "4 images, .*now 5 images"),
        (lambda first, _: first.unlink(), "now 3 images"),
        (lambda first, _: first.rename(first.with_stem("other")), "now 4 images"),
        (lambda first, _: files.write_rgb(first, np.zeros((90, 80, 3), np.uint8)), "now 4 images"),
        (lambda first, second: shutil.copy(second, first), "now 4 images"),
    ],
    ids=["added", "removed", "renamed", "resized", "other content"],
)
def test_other_images_are_refused(tmp_path, photos_folder, change, words):
    run_training(tmp_path, *SHORT, f"TRAIN.hr_img_path={photos_folder}")
    first, second, *_ = sorted(photos_folder.rglob("*.bmp"))
    assert first.stat().st_size == second.stat().st_size
    change(first, second)
    settings = (f"TRAIN.hr_img_path={photos_folder}", "TRAIN.n_epoch_init=3")
    refused(tmp_path, f"was made from other images .*{words}", *settings)


def test_the_same_images_may_be_moved(tmp_path, photos_folder, monkeypatch):
    run_training(tmp_path, *SHORT, f"TRAIN.hr_img_path={photos_folder}")
    shutil.move(photos_folder, tmp_path / "moved")
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
    with pytest.raises(UserError, match=r"used VGG19 features conv1_1 .*bring the same"):
        run_training(tmp_path, *settings, f"VGG.weights={tmp_path / 'other.npz'}")
    shutil.copy(VGG_FILE, tmp_path / "copy.npz")  # the same weights by another name
    run_training(tmp_path, *settings, f"VGG.weights={tmp_path / 'copy.npz'}")
    with pytest.raises(UserError, match=r"computed in float32.*add --set RUNTIME.precision=float32"):
        run_training(tmp_path, *settings, "RUNTIME.precision=bfloat16")
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


def test_each_restart_archives_the_run_before_and_none_is_lost(short_run, tmp_path):
    shutil.copytree(short_run, tmp_path, dirs_exist_ok=True)

    def content(folder):
        names = ("train_log.jsonl", "srgan_state.npz", "g_srgan_init.npz")
        return [(folder / name).read_bytes() for name in names]

    runs = [content(tmp_path / "checkpoint")]
    for seed in (1, 2, 3):
        run_training(tmp_path, *SHORT, "TRAIN.n_epoch_init=1", f"TRAIN.seed={seed}", restart=True)
        assert steps_logged(tmp_path) == [3]
        runs.append(content(tmp_path / "checkpoint"))
    archived = [content(folder) for folder in (tmp_path / "checkpoint/replaced").iterdir()]
    assert sorted(archived) == sorted(runs[:-1])


def test_two_runs_do_not_share_a_folder(tmp_path):
    script = (
        "import sys, time, pathlib; from common.files import held\n"
        "with held(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    (tmp_path / "checkpoint").mkdir()
    command = [sys.executable, "-c", script, tmp_path / "checkpoint"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        refused(tmp_path, "another run is training in")
        other.kill()
    run_training(tmp_path, *SHORT, "TRAIN.n_epoch_init=1")  # a killed run leaves no lock


def test_numbered_weights_are_kept(tmp_path):
    run_training(tmp_path, *SHORT, "TRAIN.n_epoch_init=4", "TRAIN.keep_weights=2")
    names = {path.name for path in (tmp_path / "checkpoint").glob("g_srgan*")}
    assert names == {"g_srgan_init.npz", "g_srgan_init_2.npz", "g_srgan_init_4.npz"}


# --- The numbers


def with_steps_that_are_not_finite(monkeypatch, bad):
    """The loss of the steps `bad`, from 1 on, comes out as NaN."""

    def step(self, losses, finite, real=Run.end_step):
        if self.step_number + 1 in bad:
            losses, finite = {name: np.float32(np.nan) for name in losses}, False
        real(self, losses, finite)

    monkeypatch.setattr(Run, "end_step", step)


def test_skipped_steps_are_counted_and_the_run_goes_on(tmp_path, monkeypatch):
    with_steps_that_are_not_finite(monkeypatch, {2, 4, 5, 6})
    run_training(tmp_path, *SHORT)
    lines = log_lines(tmp_path)
    assert [line["skipped_steps"] for line in lines] == [1, 3]
    assert np.isfinite(lines[0]["mse_loss"]) and "mse_loss" not in lines[1]
    assert "step 2 skipped" in run_log(tmp_path)


def test_ten_steps_in_a_row_that_are_not_finite_end_the_run(tmp_path, monkeypatch):
    with_steps_that_are_not_finite(monkeypatch, set(range(5, 100)))
    words = "the last 10 steps were not finite.*--set TRAIN.lr_init=0.0001"
    refused(tmp_path, words, "TRAIN.n_epoch_init=9")
    assert saved_step(tmp_path) == 14  # as good as step 4


def test_a_collapsed_discriminator_is_logged(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(report, "COLLAPSED_LOSS", 1e9)
    monkeypatch.setattr(report, "COLLAPSED_EPOCHS", 2)
    caplog.set_level("INFO")
    run_training(tmp_path, "TRAIN.n_epoch_init=1")
    assert caplog.text.count("the discriminator's loss is below") == 1


def test_a_step_that_cannot_fit_is_refused_before_anything_else(tmp_path):
    settings = ("TRAIN.batch_size=65536", "TRAIN.hr_patch_size=8192")
    refused(tmp_path, "a training step takes .* GB at least", *settings)
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


def test_samples_are_made_with_the_moving_average(tmp_path):
    """By the moving average, where there is one: with the rate at 0.1, it is far from the weights."""
    settings = ("TRAIN.ema_decay=0.999", "TRAIN.lr_init=0.1", "TRAIN.n_epoch_init=1")
    run_training(tmp_path, *SHORT, *settings)
    arrays, meta = load_generator(tmp_path / "checkpoint/g_srgan_init.npz")
    lr = files.read_rgb(tmp_path / "samples/srgan_ginit/_train_sample_96.png")[:, :4]
    with Upscaler(arrays, meta["arguments"], tiny().RUNTIME) as upscaler:
        sr = upscaler(lr).astype(int)
    sheet = files.read_rgb(tmp_path / "samples/srgan_ginit/train_1.png")[24:40].astype(int)
    matches = [np.abs(sheet[:, left : left + 16] - sr).max() for left in range(sheet.shape[1] - 15)]
    assert min(matches) <= 1


def test_state_is_saved_every_so_many_minutes(tmp_path):
    run_training(tmp_path, *SHORT, "TRAIN.save_minutes=0.0")
    saved = [line.split()[-2] for line in run_log(tmp_path).splitlines() if line.endswith(" saved")]
    assert saved == ["0", "0", "1", "2", "3", "3", "4", "5", "6"]


def test_the_notes_input_size_trains(tmp_path):
    run_training(tmp_path, "VGG.input_size=224", "TRAIN.n_epoch_init=0", "TRAIN.n_epoch=1")
    assert log_lines(tmp_path)[0]["vgg_loss"] > 0


def test_bfloat16_trains_and_continues_with_the_same_bits(tmp_path):
    settings = (*SHORT, "RUNTIME.precision=bfloat16")
    run_training(tmp_path / "whole", *settings)
    run_until(tmp_path, 3, *settings)
    run_training(tmp_path, *settings)
    assert checkpoints.read_meta(tmp_path / "checkpoint/srgan_state.npz")["facts"]["precision"] == "bfloat16"
    assert_same_bits(arrays_of(tmp_path / "whole"), arrays_of(tmp_path))
