"""The two commands as a user runs them: train, evaluate; stop and continue."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import TINY
from examples import random_image

import main
from images import bicubic
from images.files import read_rgb, write_rgb
from images.pixels import enlarge
from tf1 import checkpoints

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = (*TINY, "VALID.hr_img_path=sample")  # as evaluation takes it
TRAIN = ["--mode=srgan", *(argument for setting in SETTINGS for argument in ("--set", setting))]
EVALUATE = ["--mode=evaluate"]
STEPS = 12  # three steps an epoch, two epochs of each phase
EPOCH = re.compile(r"(pretrain|adversarial) epoch \d+, ")
CHECKPOINTS = ("g_srgan_init.npz", "g_srgan.npz", "d_srgan.npz", "srgan_state.npz")


def start(folder, arguments):
    """Runs the command line in `folder`, in an environment that says nothing to TensorFlow."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TF_")}
    with open(folder / "stderr.txt", "w") as stderr:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "main.py"), *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )


def finish(process, folder, signal_number=None):
    """The output of a command; it is sent the signal, if one is given, after its first epoch."""
    lines = []
    with process:
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if signal_number and EPOCH.match(line):
                process.send_signal(signal_number)
                signal_number = None
    stderr = (folder / "stderr.txt").read_text()
    (folder / "stderr.txt").unlink()
    return SimpleNamespace(code=process.returncode, lines=lines, stderr=stderr)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A whole run, which is then evaluated, and one that is stopped."""
    runs = SimpleNamespace(whole=tmp_path_factory.mktemp("whole"), stopped=tmp_path_factory.mktemp("stopped"))
    training, terminating = start(runs.whole, TRAIN), start(runs.stopped, TRAIN)
    runs.terminated = finish(terminating, runs.stopped, signal.SIGTERM)
    runs.trained = finish(training, runs.whole)
    runs.evaluated = finish(start(runs.whole, EVALUATE), runs.whole)
    return runs


@pytest.fixture
def command(monkeypatch, caplog):
    """(exit code, messages) of the command line in this process; Ctrl-C after an epoch if asked."""

    def run(folder, arguments, is_interrupted=False):
        def interrupt_after_epoch(record):
            if is_interrupted and EPOCH.match(record.getMessage()):
                signal.raise_signal(signal.SIGINT)
            return True

        monkeypatch.chdir(folder)
        caplog.clear()
        main.log.addFilter(interrupt_after_epoch)
        try:
            return main.main(arguments), caplog.messages
        except SystemExit as stopped:
            return stopped.code, caplog.messages
        finally:
            main.log.removeFilter(interrupt_after_epoch)

    return run


def contents(folder):
    """{path: bytes} of all files but those to which every start adds something."""
    growing = {"tensorboard", "run.log"}
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not growing & set(path.parts))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def log_lines(folder):
    return [json.loads(line) for line in (folder / "checkpoint/train_log.jsonl").read_text().splitlines()]


# --- Training


STOPPED = "Stopped and saved; the same command, without --restart, continues"


def test_commands_exit_as_documented_and_write_nothing_to_stderr(runs):
    assert [runs.trained.code, runs.evaluated.code, runs.terminated.code] == [0, 0, 128 + signal.SIGTERM]
    assert [run.stderr for run in (runs.trained, runs.evaluated, runs.terminated)] == ["", "", ""]
    assert runs.terminated.lines[-1] == STOPPED


def test_training_writes_the_files_of_the_design_and_no_others(runs):
    files = sorted(str(path.relative_to(runs.whole)) for path in runs.whole.rglob("*") if path.is_file())
    samples = ["_train_sample_384.png", "_train_sample_96.png", "train_1.png", "train_2.png"]
    evaluation = [f"valid_{name}.png" for name in ("bicubic", "compare", "gen", "hr", "lr")]
    others = (".lock", "config.json", "run.log", "train_log.jsonl", "srgan_state_previous.npz")
    assert [name for name in files if "tensorboard" not in name] == sorted(
        [
            *(f"checkpoint/{name}" for name in (*CHECKPOINTS, *others)),
            "samples/learning_curve.png",
            *(f"samples/evaluate/{name}" for name in evaluation),
            *(f"samples/srgan_ginit/{name}" for name in samples),
            *(f"samples/srgan_gan/{name}" for name in samples),
        ]
    )
    assert any(re.match(r"checkpoint/tensorboard/events\.out\.tfevents\.", name) for name in files)


def test_stdout_lists_changed_settings_and_epochs(runs):
    lines = runs.trained.lines
    assert lines[0] == "Recipe tensorlayer"
    assert "  TRAIN.batch_size = 2" in lines
    assert "  MODEL.discriminator.convs = ((4, 2, 4), (4, 2, 8))" in lines
    assert not any("TRAIN.beta1" in line for line in lines)  # not changed
    assert any(line.startswith("VGG19 features conv1_1 from ") for line in lines)
    assert lines[-1] == "Finished"
    number = r"\d[\d.e-]*"
    end = rf"{number} steps/s, validation {number} dB, \d\d:\d\d left in this phase"
    names = ("d_loss1", "d_loss2", "d_loss", "mse_loss", "vgg_loss", "g_gan_loss", "g_loss")
    losses = ", ".join(f"{name} {number}" for name in names)
    for phase, of_phase in (("pretrain", f"mse_loss {number}"), ("adversarial", losses)):
        for epoch in (1, 2):
            pattern = rf"{phase} epoch {epoch}, {of_phase}, {end}"
            assert sum(bool(re.fullmatch(pattern, line)) for line in lines) == 1


@pytest.mark.parametrize("phase", ["srgan_ginit", "srgan_gan"])
def test_samples_show_the_same_patches_in_each_column(runs, phase):
    folder = runs.whole / "samples" / phase
    lr, hr = read_rgb(folder / "_train_sample_96.png"), read_rgb(folder / "_train_sample_384.png")
    assert lr.shape == (4, 4 * 4, 3)  # four patches of 16 x 16, and a quarter of that
    assert hr.shape == (16, 4 * 16, 3)
    lows, highs = np.hsplit(lr, 4), np.hsplit(hr, 4)
    np.testing.assert_array_equal(lows, [bicubic.downsample(high, 4) for high in highs])
    columns = (
        np.vstack([enlarge(low, 4) for low in lows]),
        np.vstack([bicubic.upsample(low, 4) for low in lows]),
        np.vstack(highs),
    )
    for epoch in (1, 2):
        sheet = read_rgb(folder / f"train_{epoch}.png")[24:]  # below the captions
        slices = [sheet[:, left : left + 16] for left in range(sheet.shape[1] - 15)]
        found = [[np.array_equal(part, column) for part in slices].index(True) for column in columns]
        assert found == sorted(found)


def test_the_same_command_again_logs_finished_and_changes_nothing(runs, command):
    before = contents(runs.whole)
    code, messages = command(runs.whole, TRAIN)
    assert code == 0 and not any(map(EPOCH.match, messages))
    assert any("is finished" in message and "--restart" in message for message in messages)
    assert contents(runs.whole) == before


# --- Evaluation


def test_evaluation_names_its_weights_and_agrees_with_training(runs):
    assert "Weights checkpoint/g_srgan.npz (recipe tensorlayer, 12 steps)" in runs.evaluated.lines
    # training measured the same weights on the same image, without folding batch norm
    (printed,) = re.findall(r"SRGAN +([\d.]+) dB", "\n".join(runs.evaluated.lines))
    assert float(printed) == pytest.approx(log_lines(runs.whole)[-1]["psnr_db"], abs=0.02)


def test_an_image_of_odd_size_becomes_exactly_four_times_as_large(runs, command, tmp_path):
    write_rgb(tmp_path / "odd.png", random_image(7, 13))
    weights = ["--weights", str(runs.whole / "checkpoint/g_srgan.npz")]
    assert command(tmp_path, [*EVALUATE, *weights, "--input", "odd.png", "--output", "results"])[0] == 0
    names = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert names == [".srgan_results.jsonl", "odd_x4.png"]
    assert read_rgb(tmp_path / "results/odd_x4.png").shape == (28, 52, 3)
    np.testing.assert_array_equal(read_rgb(tmp_path / "odd.png"), random_image(7, 13))


# --- Stopping and continuing


def test_a_run_stopped_twice_ends_with_the_same_bits(runs, command):
    state = runs.stopped / "checkpoint/srgan_state.npz"
    before = checkpoints.read_meta(state)["step"]
    assert 3 <= before < STEPS
    code, messages = command(runs.stopped, TRAIN, is_interrupted=True)
    assert code == 128 + signal.SIGINT and messages[-1] == STOPPED
    phase, first = ("pretrain", 0) if before < 6 else ("adversarial", 6)
    epoch, epoch_step = divmod(before - first, 3)
    assert f"Continuing checkpoint/srgan_state.npz: {phase} epoch {epoch + 1}, step {epoch_step}" in messages
    assert before < checkpoints.read_meta(state)["step"] <= STEPS

    assert command(runs.stopped, TRAIN)[0] == 0
    for name in CHECKPOINTS:
        arrays, meta = checkpoints.read_npz(runs.whole / "checkpoint" / name)
        others, other_meta = checkpoints.read_npz(runs.stopped / "checkpoint" / name)
        assert list(arrays) == list(others)
        for key, array in arrays.items():
            np.testing.assert_array_equal(array, others[key], err_msg=f"{name} {key}")
        for either in (meta, other_meta):
            either.get("sums", {}).pop("seconds", None)
        assert meta == other_meta
    for phase in ("srgan_ginit", "srgan_gan"):
        assert contents(runs.stopped / "samples" / phase) == contents(runs.whole / "samples" / phase)
