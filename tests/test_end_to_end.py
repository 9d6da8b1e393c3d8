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

import main
from tf1 import checkpoints

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = (*TINY, "VALID.hr_img_path=sample")  # as evaluation takes it
TRAIN = ["--mode=srgan", *(argument for setting in SETTINGS for argument in ("--set", setting))]
EPOCH = re.compile(r"(pretrain|adversarial) epoch \d+, ")
CHECKPOINTS = ("g_srgan_init.npz", "g_srgan.npz", "d_srgan.npz", "srgan_state.npz")


def start(folder, arguments):
    """Runs the command line in `folder`, in an environment that says nothing to TensorFlow."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TF_")}
    options = {"cwd": folder, "env": environment, "text": True}
    command = [sys.executable, ROOT / "main.py", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def finish(process, signal_number=None):
    """The output of a command; it is sent the signal, if one is given, after its first epoch."""
    lines = []
    with process:
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if signal_number and EPOCH.match(line):
                process.send_signal(signal_number)
                signal_number = None
        stderr = process.stderr.read()
    return SimpleNamespace(code=process.returncode, lines=lines, stderr=stderr)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A whole run, which is then evaluated, and one that is stopped."""
    runs = SimpleNamespace(whole=tmp_path_factory.mktemp("whole"), stopped=tmp_path_factory.mktemp("stopped"))
    training, terminating = start(runs.whole, TRAIN), start(runs.stopped, TRAIN)
    runs.terminated = finish(terminating, signal.SIGTERM)
    runs.trained = finish(training)
    runs.evaluated = finish(start(runs.whole, ["--mode=evaluate"]))
    return runs


def contents(folder):
    """{path: bytes} of all files but those to which every start adds something."""
    growing = {"tensorboard", "run.log"}
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and not growing & set(path.parts))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


# --- Training


def test_commands_exit_as_documented_and_write_nothing_to_stderr(runs):
    assert [runs.trained.code, runs.evaluated.code, runs.terminated.code] == [0, 0, 128 + signal.SIGTERM]
    assert [run.stderr for run in (runs.trained, runs.evaluated, runs.terminated)] == ["", "", ""]
    last = runs.terminated.lines[-1]
    assert last == "Stopped and saved; the same command, without --restart, continues"


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


def test_the_same_command_again_logs_finished_and_changes_nothing(runs, monkeypatch, caplog):
    before = contents(runs.whole)
    monkeypatch.chdir(runs.whole)
    assert main.main(TRAIN) == 0
    assert not any(map(EPOCH.match, caplog.messages))
    assert any("is finished" in message and "--restart" in message for message in caplog.messages)
    assert contents(runs.whole) == before


# --- Evaluation


def test_evaluation_names_its_weights_and_agrees_with_training(runs):
    assert "Weights checkpoint/g_srgan.npz (recipe tensorlayer, 12 steps)" in runs.evaluated.lines
    # training measured the same weights on the same image, without folding batch norm
    (printed,) = re.findall(r"SRGAN +([\d.]+) dB", "\n".join(runs.evaluated.lines))
    last = (runs.whole / "checkpoint/train_log.jsonl").read_text().splitlines()[-1]
    assert float(printed) == pytest.approx(json.loads(last)["psnr_db"], abs=0.02)


# --- Stopping and continuing


def test_a_stopped_run_continues_and_ends_with_the_same_bits(runs, monkeypatch, caplog):
    before = checkpoints.read_meta(runs.stopped / "checkpoint/srgan_state.npz")["step"]
    assert 3 <= before < 12  # three steps an epoch, two epochs of each phase
    monkeypatch.chdir(runs.stopped)
    assert main.main(TRAIN) == 0
    phase, first = ("pretrain", 0) if before < 6 else ("adversarial", 6)
    epoch, epoch_step = divmod(before - first, 3)
    sentence = f"Continuing checkpoint/srgan_state.npz: {phase} epoch {epoch + 1}, step {epoch_step}"
    assert sentence in caplog.messages
    for name in CHECKPOINTS:
        arrays, meta = checkpoints.read_npz(runs.whole / "checkpoint" / name)
        others, other_meta = checkpoints.read_npz(runs.stopped / "checkpoint" / name)
        np.testing.assert_equal(others, arrays, err_msg=name)
        for either in (meta, other_meta):
            either.get("sums", {}).pop("seconds", None)
        assert meta == other_meta
    for phase in ("srgan_ginit", "srgan_gan"):
        assert contents(runs.stopped / "samples" / phase) == contents(runs.whole / "samples" / phase)
