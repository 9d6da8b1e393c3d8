"""What a run loses to faults of the disk, the pictures, the numbers and its users: nothing that is done."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from conftest import VGG_FILE
from test_run import arrays_of, assert_same_bits, log_lines, no_plots, run_training, tiny  # noqa: F401

from common import files as common_files
from common.errors import UserError
from images import bicubic, files
from images.photos import sample_photos
from tf1 import checkpoints, layers, runtime
from training import continuation, graph, report, run, state
from training.schedule import Schedule
from upscaling.upscaler import Upscaler, load_generator

ROOT = str(Path(__file__).parents[2])
SHORT = ("TRAIN.n_epoch=0",)  # six steps of pretraining in two epochs


@pytest.fixture(scope="module")
def short_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("short")
    run_training(folder, tiny(*SHORT))
    return folder


def stop_after_an_epoch(folder, cfg):
    """Runs as if a stop were asked for at the end of the first epoch."""

    def stop(run_, report, epoch=run.Run._end_epoch):
        epoch(run_, report)
        raise SystemExit(143)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.Run, "_end_epoch", stop)
        with pytest.raises(SystemExit):
            run_training(folder, cfg)


@pytest.fixture(scope="module")
def stopped_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    stop_after_an_epoch(folder, tiny(*SHORT))
    return folder


@pytest.fixture
def stopped(stopped_run, tmp_path):
    """A run of SHORT in `tmp_path` that was stopped after its first epoch."""
    return Path(shutil.copytree(stopped_run, tmp_path, dirs_exist_ok=True))


def run_log(folder):
    return (folder / "checkpoint/run.log").read_text()


# --- The disk


def test_state_is_saved_before_anything_that_may_fail(tmp_path, monkeypatch):
    """A run that ends between an epoch's state and its samples, weights and log line leaves them later."""
    whole = tmp_path / "whole"
    run_training(whole, tiny(*SHORT))
    monkeypatch.setattr(report.Report, "write", lambda self: sys.exit(9))
    with pytest.raises(SystemExit):
        run_training(tmp_path, tiny(*SHORT))
    assert checkpoints.read_meta(tmp_path / "checkpoint/srgan_state.npz")["step"] == 3
    assert not (tmp_path / "checkpoint/g_srgan_init.npz").exists()
    monkeypatch.undo()
    run_training(tmp_path, tiny(*SHORT))
    assert_same_bits(arrays_of(whole), arrays_of(tmp_path))
    lines = log_lines(whole), log_lines(tmp_path)
    assert [line["mse_loss"] for line in lines[0]] == [line["mse_loss"] for line in lines[1]]
    first = [files.read_rgb(folder / "samples/srgan_ginit/train_1.png") for folder in (whole, tmp_path)]
    np.testing.assert_array_equal(*first)


@pytest.mark.parametrize("broken", ["samples", "weights", "log", "plot"])
def test_what_a_run_shows_may_fail_and_is_tried_again(short_run, tmp_path, monkeypatch, caplog, broken):
    caplog.set_level("INFO")
    failures = [OSError(28, "No space left on device")]

    def failing_once(function):
        def fail_once(*args, **kwargs):
            if failures:
                raise failures.pop()
            return function(*args, **kwargs)

        return fail_once

    target, name = {
        "samples": (run.Sampler, "sample"),
        "weights": (state.RunState, "save_weights"),
        "log": (report.TrainingLog, "_write_to_tensorboard"),
        "plot": (report.TrainingLog, "plot"),
    }[broken]
    monkeypatch.setattr(target, name, failing_once(getattr(target, name)))
    run_training(tmp_path, tiny(*SHORT))
    assert "No space left on device); training goes on" in caplog.text
    assert "WARNING: no " in run_log(tmp_path)
    ours, expected = arrays_of(tmp_path), arrays_of(short_run)
    ours, expected = (
        {key: value for key, value in arrays.items() if "best" not in key} for arrays in (ours, expected)
    )
    assert_same_bits(expected, ours)
    assert [line["step"] for line in log_lines(tmp_path)] == [3, 6]


def test_weights_that_could_never_be_written_are_an_error_and_come_with_the_next_start(
    short_run, tmp_path, monkeypatch
):
    def refuse(*_):
        raise UserError("cannot write g_srgan_init.npz: No space left on device")

    monkeypatch.setattr(state.RunState, "save_weights", refuse)
    with pytest.raises(UserError, match="weights could not be written"):
        run_training(tmp_path, tiny(*SHORT))
    monkeypatch.undo()
    run_training(tmp_path, tiny(*SHORT))
    name = "g_srgan_init.npz:SRGAN_g/out/filters"
    np.testing.assert_array_equal(arrays_of(tmp_path)[name], arrays_of(short_run)[name])


def test_a_run_whose_state_cannot_be_saved_ends_and_keeps_the_state_before(stopped, monkeypatch):
    before = (stopped / "checkpoint/srgan_state.npz").read_bytes()

    def full_disk(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(UserError, match=r"cannot write .*No space left on device"):
        run_training(stopped, tiny(*SHORT))
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


def fill(folder):
    """Leaves no byte free."""
    with open(folder / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1024))


def test_a_disk_that_is_full_ends_the_run_and_loses_nothing(small_disk, short_run, monkeypatch):
    full, real_epoch = [], run.Run._end_epoch

    def end_epoch(run_, report):
        if not full and run_.state.step == 6:
            full.append(fill(small_disk))
        real_epoch(run_, report)

    monkeypatch.setattr(run.Run, "_end_epoch", end_epoch)
    with pytest.raises(UserError, match=r"cannot write .*srgan_state.*No space left on device"):
        run_training(small_disk, tiny(*SHORT))
    assert checkpoints.read_meta(small_disk / "checkpoint/srgan_state.npz")["step"] == 3
    with pytest.raises(UserError, match="No space left on device"):
        run_training(small_disk, tiny(*SHORT))
    (small_disk / "filler").unlink()
    run_training(small_disk, tiny(*SHORT))
    assert_same_bits(arrays_of(short_run), arrays_of(small_disk))


def test_a_read_only_disk_is_refused_before_work_begins(small_disk):
    stop_after_an_epoch(small_disk, tiny(*SHORT))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(UserError, match=r"--checkpoint-dir.*Read-only file system"):
        run_training(small_disk, tiny(*SHORT))
    assert checkpoints.read_meta(small_disk / "checkpoint/srgan_state.npz")["step"] == 3


def test_an_error_in_the_middle_of_a_step_keeps_the_state_before(tmp_path, monkeypatch):
    """Some of the variables may be of the step, some of the one before."""
    real_step = run.Run._step

    def step(self, phase, bar):
        if self.state.step == 2:
            self.graph.steps[phase] = tf.debugging.Assert(False, ["boom"])
        return real_step(self, phase, bar)

    monkeypatch.setenv("GRAPH_OF_ITS_OWN", "1")
    monkeypatch.setattr(run.Run, "_step", step)
    with pytest.raises(tf.errors.InvalidArgumentError, match="boom"):
        run_training(tmp_path, tiny(*SHORT))
    assert checkpoints.read_meta(tmp_path / "checkpoint/srgan_state.npz")["step"] == 0
    assert "step 2: InvalidArgumentError" in run_log(tmp_path)


def test_any_other_error_is_preceded_by_a_save(tmp_path, monkeypatch):
    real_step = run.Run._step

    def step(self, phase, bar):
        if self.state.step == 2:
            raise ZeroDivisionError("boom")
        return real_step(self, phase, bar)

    monkeypatch.setattr(run.Run, "_step", step)
    with pytest.raises(ZeroDivisionError):
        run_training(tmp_path, tiny(*SHORT))
    assert checkpoints.read_meta(tmp_path / "checkpoint/srgan_state.npz")["step"] == 2
    assert "ZeroDivisionError: boom" in run_log(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "zeros", "gone"])
def test_a_damaged_state_is_set_aside_and_the_one_before_is_used(stopped, short_run, caplog, damage):
    path = stopped / "checkpoint/srgan_state.npz"
    data = path.read_bytes()
    if damage == "gone":  # as between the two renames of a save
        path.unlink()
    else:
        path.write_bytes(data[:-100] if damage == "truncated" else bytes(len(data)))
    run_training(stopped, tiny(*SHORT))
    aside = stopped / "checkpoint/srgan_state_damaged.npz"
    assert aside.exists() == (damage != "gone") == ("stands in" in caplog.text)
    aside.unlink(missing_ok=True)
    assert_same_bits(arrays_of(short_run), arrays_of(stopped))
    assert [line["step"] for line in log_lines(stopped)] == [3, 6]


def test_damaged_states_alone_are_refused_and_kept(stopped):
    for name in ("srgan_state.npz", "srgan_state_previous.npz"):
        (stopped / "checkpoint" / name).write_bytes(b"PK")
    with pytest.raises(UserError, match=r"srgan_state.npz is damaged"):
        run_training(stopped, tiny(*SHORT))
    assert (stopped / "checkpoint/srgan_state.npz").read_bytes() == b"PK"


def test_lines_that_a_loss_of_power_left_in_the_log_are_dropped(stopped):
    path = stopped / "checkpoint/train_log.jsonl"
    path.write_bytes(path.read_bytes() + bytes(40) + b"\n" + b'{"step": 3')
    run_training(stopped, tiny(*SHORT))
    assert [line["step"] for line in log_lines(stopped)] == [3, 6]


def test_renames_are_synced_with_their_folder(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(common_files.os, "replace", lambda *_: events.append("rename"))
    monkeypatch.setattr(common_files.os, "fsync", lambda number: events.append("sync"))
    with common_files.atomic(tmp_path / "a") as path:
        path.write_text("x")
    assert events == ["sync", "rename", "sync"]


# --- What a run was made from


@pytest.fixture
def photos_folder(tmp_path):
    folder = tmp_path / "photos"
    for name, image in list(sample_photos().items())[:4]:
        files.write_rgb(folder / "below" / f"{name}.png", image[:80, :90])
    return folder


def on(folder, *settings):
    return tiny(*SHORT, f"TRAIN.hr_img_path={folder}", *settings)


@pytest.mark.parametrize(
    ("change", "words"),
    [("added", "1 more: new.png"), ("removed", "1 fewer: below/"), ("other", "1 changed")],
)
def test_other_pictures_are_refused_by_name(tmp_path, photos_folder, change, words):
    run_training(tmp_path, on(photos_folder))
    first = sorted(photos_folder.rglob("*.png"))[0]
    if change == "added":
        shutil.copy(first, photos_folder / "new.png")
    elif change == "removed":
        first.unlink()
    else:
        files.write_rgb(first, np.zeros((80, 90, 3), np.uint8))
    with pytest.raises(UserError, match=f"made from other pictures .{words}"):
        run_training(tmp_path, on(photos_folder, "TRAIN.n_epoch_init=3"))


def test_the_same_pictures_may_lie_elsewhere(tmp_path, photos_folder, monkeypatch):
    run_training(tmp_path, on(photos_folder))
    shutil.move(photos_folder, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "moved", "moved", "./moved/"):
        run_training(tmp_path, on(path))


def test_another_vgg_file_precision_or_device_is_refused_or_told_of(tmp_path, monkeypatch, caplog):
    settings = ("TRAIN.n_epoch_init=0", "TRAIN.n_epoch=1")
    run_training(tmp_path, tiny(*settings))
    with np.load(VGG_FILE) as file:
        arrays = dict(file)
    arrays["block1_conv1/bias"][0] += 1
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(UserError, match=r"used conv1_1 .* VGG19 features"):
        run_training(tmp_path, tiny(*settings, f"VGG.weights={tmp_path / 'other.npz'}"))
    shutil.copy(VGG_FILE, tmp_path / "copy.npz")  # the same weights by another name
    run_training(tmp_path, tiny(*settings, f"VGG.weights={tmp_path / 'copy.npz'}"))
    with pytest.raises(UserError, match=r"computed in float32.*add --set RUNTIME.precision=float32"):
        run_training(tmp_path, tiny(*settings, "RUNTIME.precision=bfloat16"))
    monkeypatch.setattr(run.runtime, "describe_device", lambda: "GPU (some)")
    run_training(tmp_path, tiny(*settings))
    assert "made on CPU and goes on on GPU (some)" in caplog.text


def test_a_state_from_before_a_setting_was_there_goes_on_with_its_default(stopped, caplog):
    path = stopped / "checkpoint/srgan_state.npz"
    arrays, meta = checkpoints.read_npz(path)
    del meta["config"]["TRAIN"]["exposures"], meta["pictures"], meta["precision"], meta["device"]
    checkpoints.write_npz(path, arrays, meta)
    with pytest.raises(UserError, match=r"TRAIN.exposures was 0.0, is 0.5"):
        run_training(stopped, tiny(*SHORT, "TRAIN.exposures=0.5"))
    caplog.set_level("INFO")
    run_training(stopped, tiny(*SHORT))
    assert "older than the setting TRAIN.exposures: it goes on with 0.0" in caplog.text


def test_other_networks_are_refused_by_what_differs(short_run, tmp_path):
    path = short_run / "checkpoint/g_srgan_init.npz"
    for setting, words in (
        ("MODEL.generator.num_blocks=2", "num_blocks is 1 there and 2 here"),
        ("MODEL.generator.output_activation=linear", "output_activation is tanh there and linear here"),
    ):
        with pytest.raises(UserError, match=words):
            run_training(tmp_path, tiny(*SHORT, f"TRAIN.init_weights={path}", setting))
    for drop, add, words in (
        ("out/biases", None, "lacks SRGAN_g/out/biases"),
        (None, "SRGAN_g/x", "has SRGAN_g/x"),
    ):
        arrays, meta = checkpoints.read_npz(path)
        arrays = {name: array for name, array in arrays.items() if not drop or not name.endswith(drop)}
        arrays |= {add: np.zeros(3, np.float32)} if add else {}
        checkpoints.write_npz(tmp_path / "other.npz", arrays, meta)
        with pytest.raises(UserError, match=words):
            run_training(tmp_path, tiny(*SHORT, f"TRAIN.init_weights={tmp_path / 'other.npz'}"))


# --- Its users


def test_weights_without_a_run_are_not_replaced_silently(short_run, tmp_path):
    shutil.copytree(short_run, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "checkpoint").glob("srgan_state*"):
        path.unlink()
    before = (tmp_path / "checkpoint/g_srgan_init.npz").read_bytes()
    with pytest.raises(UserError, match=r"holds g_srgan_init.npz, but no run.*--restart"):
        run_training(tmp_path, tiny(*SHORT))
    run_training(tmp_path, tiny(*SHORT, "TRAIN.seed=1"), restart=True)
    assert (tmp_path / "checkpoint/replaced/g_srgan_init.npz").read_bytes() == before


def test_restart_sets_the_whole_run_aside(short_run, tmp_path):
    shutil.copytree(short_run, tmp_path, dirs_exist_ok=True)
    old = (tmp_path / "checkpoint/train_log.jsonl").read_bytes()
    for seed in (1, 2):
        run_training(
            tmp_path, tiny("TRAIN.n_epoch=0", "TRAIN.n_epoch_init=1", f"TRAIN.seed={seed}"), restart=True
        )
        assert [line["step"] for line in log_lines(tmp_path)] == [3]
        aside = tmp_path / "checkpoint/replaced"
        assert ((aside / "train_log.jsonl").read_bytes() == old) == (seed == 1)  # one run is kept, the last
    assert checkpoints.read_meta(aside / "srgan_state.npz")["config"]["TRAIN"]["seed"] == 1


def test_two_runs_do_not_share_a_folder(tmp_path):
    script = (
        "import sys, time, pathlib; sys.path.insert(0, sys.argv[2])\n"
        "from common.files import held\n"
        "with held(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", script, folder, ROOT], stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(UserError, match="another run is training in"):
            run_training(tmp_path, tiny(*SHORT))
        other.send_signal(signal.SIGKILL)
        other.wait()
    run_training(tmp_path, tiny(*SHORT, "TRAIN.n_epoch_init=1"))  # a killed run leaves no lock


def test_numbered_weights_are_kept_and_the_best_ones(tmp_path):
    run_training(tmp_path, tiny("TRAIN.n_epoch=0", "TRAIN.n_epoch_init=4", "TRAIN.keep_weights=2"))
    names = {path.name for path in (tmp_path / "checkpoint").glob("g_srgan*")}
    expected = {f"g_srgan_init{end}.npz" for end in ("", "_2", "_4", "_best")}
    assert names == expected
    best = max(log_lines(tmp_path), key=lambda line: line["psnr_db"])
    assert checkpoints.read_meta(tmp_path / "checkpoint/g_srgan_init_best.npz")["step"] == best["step"]


# --- The numbers


def test_gradients_that_are_not_finite_change_nothing(session):
    x = tf.compat.v1.placeholder(tf.float32, [])
    weight = tf.compat.v1.get_variable("w", initializer=np.float32([1, 2]))
    update, finite = graph._minimize(
        tf.compat.v1.train.AdamOptimizer(0.1), tf.reduce_sum(weight) * x, [weight]
    )
    session.run(tf.compat.v1.global_variables_initializer())
    for value in (np.nan, np.inf):
        assert not session.run([update, finite], {x: value})[1]
        assert session.run(weight).tolist() == [1, 2]
    assert session.run([update, finite], {x: 1.0})[1]
    assert (session.run(weight) < [1, 2]).all()


def test_batch_statistics_that_are_not_finite_move_no_average(session):
    x = tf.compat.v1.placeholder(tf.float32, [2, 1, 1, 2])
    norm = layers.BatchNorm(True, name="norm")
    norm(x)
    moves = norm.moving_average_updates()
    session.run(tf.compat.v1.global_variables_initializer())
    session.run(moves, {x: np.float32([[[[np.nan, 1]]], [[[0, 3]]]])})
    mean = session.run(norm.moving_mean)
    np.testing.assert_allclose(mean, [0, 0.2], rtol=1e-6)


def test_skipped_steps_are_counted_and_the_run_goes_on(tmp_path, monkeypatch):
    real_run = tf.compat.v1.Session.run
    calls = []

    def run_with_a_bad_step(self, fetches, *args, **kwargs):
        result = real_run(self, fetches, *args, **kwargs)
        if isinstance(fetches, tuple) and len(fetches) == 4:
            calls.append(1)
            if len(calls) == 2:
                return result[0], {"mse_loss": np.float32(np.nan)}, *result[2:]
        return result

    monkeypatch.setattr(tf.compat.v1.Session, "run", run_with_a_bad_step)
    run_training(tmp_path, tiny(*SHORT))
    lines = log_lines(tmp_path)
    assert [line.get("skipped_steps") for line in lines] == [1, None]
    assert np.isfinite(lines[0]["mse_loss"])
    assert "step 2 skipped" in run_log(tmp_path)


def test_a_run_that_explodes_goes_back_once_with_a_lower_rate(tmp_path, monkeypatch, caplog):
    """At 1e30 the second epoch is lost; at 1e-33 of that it is not."""
    rate = Schedule.learning_rate
    monkeypatch.setattr(
        Schedule, "learning_rate", lambda self, step: rate(self, step) * (1e33 if step > 3 else 1)
    )
    monkeypatch.setattr(run, "LOWER_RATE", 1e-33)
    monkeypatch.setattr(run, "MOST_SKIPS", 2)
    caplog.set_level("INFO")
    settings = ("TRAIN.n_epoch_init=4", "MODEL.generator.output_activation=linear")
    run_training(tmp_path, tiny(*SHORT, *settings))
    assert "back to step 3, with 1e-33 of the learning rate" in caplog.text
    assert [line["step"] for line in log_lines(tmp_path)] == [3, 6, 9, 12]
    meta = checkpoints.read_meta(tmp_path / "checkpoint/srgan_state.npz")
    assert (meta["step"], meta["rate_factor"]) == (12, 1e-33)


def test_a_collapsed_discriminator_is_told_of(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(report, "COLLAPSED_LOSS", 1e9)
    monkeypatch.setattr(report, "COLLAPSED_EPOCHS", 2)
    caplog.set_level("INFO")
    run_training(tmp_path, tiny("TRAIN.n_epoch_init=1"))
    assert caplog.text.count("the discriminator's loss is below") == 1


def test_a_step_that_cannot_fit_is_refused_before_anything_else(tmp_path):
    with pytest.raises(UserError, match=r"a training step takes .* GB at least"):
        run_training(tmp_path, tiny("TRAIN.batch_size=65536", "TRAIN.hr_patch_size=8192"))
    assert not (tmp_path / "checkpoint").exists()


def test_a_large_validation_picture_is_looked_at_in_its_middle(monkeypatch, caplog):
    from training import samples

    monkeypatch.setattr(samples, "MOST_VALID_SIDE", 32)
    caplog.set_level("INFO", "srgan")
    hr = np.random.default_rng(0).integers(0, 256, (60, 24, 3), dtype=np.uint8)
    lr = hr[::4, ::4]
    middle_hr, middle_lr = samples.within_memory(hr, lr)
    assert middle_hr.shape == (32, 24, 3) and middle_lr.shape == (8, 6, 3)
    np.testing.assert_array_equal(middle_hr[::4, ::4], middle_lr)
    np.testing.assert_array_equal(middle_lr, lr[3:11])
    assert "looks at the middle 32 px only" in caplog.text
    assert samples.within_memory(hr[:32], lr[:8])[0].shape == (32, 24, 3)


def test_a_second_stop_ends_at_once(monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)  # which neither waits nor cleans up
    with runtime.StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT and not ended
        signal.raise_signal(signal.SIGTERM)
    assert ended == [143]


def test_fingerprints_tell_pictures_apart_but_not_folders_or_times():
    listing = {"a.png": (10, 111, 4, 5), "b.png": (20, 222, 6, 7)}
    same = {"b.png": (20, 0, 6, 7), "a.png": (10, 0, 4, 5)}
    assert continuation.fingerprint(listing) == continuation.fingerprint(same)
    for name, entry in (("c.png", (20, 0, 6, 7)), ("b.png", (21, 0, 6, 7)), ("b.png", (20, 0, 7, 6))):
        other = {"a.png": listing["a.png"], name: entry}
        assert continuation.fingerprint(listing) != continuation.fingerprint(other)


# --- What training was made of


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Starts a run and returns it without a step."""

    def start(cfg):
        runs = []
        with monkeypatch.context() as patch:
            patch.setattr(run.Run, "loop", lambda self: runs.append(self) or looked(self))
            run_training(tmp_path, cfg)
        return seen.pop()

    seen = []

    def looked(run_):
        seen.append(run_.session.run(run_.graph.vgg_params))

    return start


def test_the_vgg_file_is_what_features_are_made_with(started):
    values = started(tiny())
    with np.load(VGG_FILE) as file:
        np.testing.assert_array_equal(values[0], file["block1_conv1/kernel"])
        np.testing.assert_array_equal(values[1], file["block1_conv1/bias"])


def test_samples_are_made_by_the_weights_for_use(tmp_path):
    """By the moving average, where there is one: with the rate at 0.1, it is far from the weights."""
    settings = ("TRAIN.ema_decay=0.999", "TRAIN.lr_init=0.1", "TRAIN.n_epoch_init=1")
    run_training(tmp_path, tiny(*SHORT, *settings))
    arrays, meta = load_generator(tmp_path / "checkpoint/g_srgan_init.npz")
    lr = files.read_rgb(tmp_path / "samples/srgan_ginit/_train_sample_96.png")[:, :4]
    with Upscaler(arrays, meta["arguments"], tiny().RUNTIME) as upscaler:
        sr = upscaler(lr).astype(int)
    sheet = files.read_rgb(tmp_path / "samples/srgan_ginit/train_1.png")[24:40].astype(int)
    matches = [np.abs(sheet[:, left : left + 16] - sr).max() for left in range(sheet.shape[1] - 15)]
    assert min(matches) <= 1


def test_state_is_saved_every_so_many_minutes(tmp_path):
    run_training(tmp_path, tiny(*SHORT, "TRAIN.save_minutes=0.0"))
    saved = [line.split()[-2] for line in run_log(tmp_path).splitlines() if line.endswith(" saved")]
    assert saved == ["0", "0", "1", "2", "3", "3", "4", "5", "6"]


def test_the_notes_input_size_trains(tmp_path):
    run_training(tmp_path, tiny("VGG.input_size=224", "TRAIN.n_epoch_init=0", "TRAIN.n_epoch=1"))
    assert log_lines(tmp_path)[0]["vgg_loss"] > 0


def test_bfloat16_trains_and_continues_with_the_same_bits(tmp_path):
    settings = (*SHORT, "RUNTIME.precision=bfloat16")
    whole = tmp_path / "whole"
    run_training(whole, tiny(*settings))

    stop_after_an_epoch(tmp_path, tiny(*settings))
    run_training(tmp_path, tiny(*settings))
    assert checkpoints.read_meta(tmp_path / "checkpoint/srgan_state.npz")["precision"] == "bfloat16"
    assert_same_bits(arrays_of(whole), arrays_of(tmp_path))


def test_both_placeholders_may_be_fed_as_in_the_note():
    """LR that is fed counts, and LR by bicubic is what is made where none is."""
    hr = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    lr = np.stack([bicubic.downsample(image) for image in hr])
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        made = graph.build_training_graph(tiny(*SHORT), tf.float32)
        session.run(tf.compat.v1.global_variables_initializer())
        loss = made.losses["pretrain"]["mse_loss"]
        without, same, other = (
            session.run(loss, {made.t_target_image: hr, **feed})
            for feed in ({}, {made.t_image: lr}, {made.t_image: 255 - lr})
        )
    assert without == same != other
