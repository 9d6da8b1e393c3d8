"""What a training run says of itself: a line per epoch on the screen, as JSON and for TensorBoard; events."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import tensorflow as tf
from matplotlib.figure import Figure
from tqdm import tqdm

from common.files import atomic

log = logging.getLogger("srgan")

# makes TensorBoard forget the points after its step
_FORGET = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)


class Events:
    """`run.log`: one line for each thing that happens to a run, with its time. Never stops a run."""

    def __init__(self, folder: Path):
        self.path = folder / "run.log"

    def __call__(self, event: str) -> None:
        try:
            with open(self.path, "a", encoding="utf-8", errors="replace") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(event.split())}\n")
        except OSError:
            pass  # whatever it is, the screen says it too


class TrainingLog:
    """`train_log.jsonl` and `tensorboard/` in a run's folder. Raises OSError."""

    def __init__(self, folder: Path, step: int):
        """Goes on after `step`: what an interrupted run wrote past it is dropped."""
        self.path = folder / "train_log.jsonl"
        self._unwritten = ""  # lines that the disk refused
        self._tensorboard = str(folder / "tensorboard")
        self._writer: tf.compat.v1.summary.FileWriter | None = None
        self.go_back(step)

    def close(self) -> None:
        if self._writer:
            self._writer.close()

    def go_back(self, step: int) -> None:
        """Drops what was written past `step`, and lines that a loss of power left unreadable."""
        text = self.path.read_text(errors="replace") if self.path.exists() else ""
        kept = [line for line in _lines(text) if line["step"] <= step]
        self.last_step = kept[-1]["step"] if kept else 0
        kept_text = "".join(json.dumps(line) + "\n" for line in kept)
        if kept_text != text:
            with atomic(self.path) as path:
                path.write_text(kept_text)
        self._unwritten, self._start = "", step
        if self._writer:
            self._writer.add_session_log(_FORGET, step)

    def write(self, line: dict, steps: int, steps_left: int) -> None:
        """An epoch of `steps` steps: phase, epoch, step, losses, seconds, PSNR if it was measured."""
        log.info("%s", _describe(line, steps, steps_left * line["seconds"] / steps))
        self._unwritten += json.dumps(line) + "\n"
        self.last_step = line["step"]
        with open(self.path, "a") as file:
            file.write(self._unwritten)
        self._unwritten = ""
        self._write_to_tensorboard(line)

    def _write_to_tensorboard(self, line: dict) -> None:
        if self._writer is None:
            self._writer = tf.compat.v1.summary.FileWriter(self._tensorboard)
            self._writer.add_session_log(_FORGET, self._start)
        for name, value in line.items():
            if isinstance(value, float):
                point = tf.compat.v1.Summary.Value(tag=f"{line['phase']}/{name}", simple_value=value)
                self._writer.add_summary(tf.compat.v1.Summary(value=[point]), line["step"])
        self._writer.flush()

    def plot(self, path: Path) -> None:
        """Losses, and the validation picture's PSNR, over all steps so far."""
        lines = _lines(self.path.read_text())
        figure = Figure(figsize=(9, 6))
        figure.subplots_adjust(left=0.1, right=0.98, top=0.98, bottom=0.08, hspace=0.06)
        losses, psnr = figure.subplots(2, 1, sharex=True)
        names = dict.fromkeys(name for line in lines for name in line if _is_loss(name))
        for axes, keys in ((losses, names), (psnr, ["psnr_db"])):
            for key in keys:
                points = [(line["step"], line[key]) for line in lines if key in line]
                if points:
                    axes.plot(*zip(*points), marker=".", label=key)
            axes.grid(alpha=0.3)
        losses.set(yscale="log", ylabel="loss, mean of an epoch")
        if names:
            losses.legend()
        psnr.set(xlabel="step", ylabel="validation PSNR on Y, dB")
        with atomic(path) as part:
            figure.savefig(part, dpi=100)


def _lines(text: str) -> list[dict]:
    """The whole lines of a log."""
    lines = []
    for line in text.splitlines(keepends=True):
        try:
            values = json.loads(line)
            if line.endswith("\n") and isinstance(values["step"], int):
                lines.append(values)
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return lines


def _is_loss(name: str) -> bool:
    return name.endswith(("loss", "loss1", "loss2"))


def _describe(line: dict, steps: int, seconds_left: float) -> str:
    words = [f"{line['phase']} epoch {line['epoch']}"]
    words += [f"{name} {line[name]:.4g}" for name in line if _is_loss(name)]
    words.append(f"{steps / line['seconds']:.2f} steps/s")
    if "skipped_steps" in line:
        words.append(f"{line['skipped_steps']} steps skipped")
    if "psnr_db" in line:
        words.append(f"validation {line['psnr_db']:.2f} dB")
    words.append(f"{tqdm.format_interval(seconds_left)} left in this phase")
    return ", ".join(words)
