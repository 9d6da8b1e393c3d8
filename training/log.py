"""What a training run says of itself: a line per epoch on the screen, as JSON, and for TensorBoard."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import tensorflow as tf
from matplotlib.figure import Figure
from tqdm import tqdm

from common.files import atomic

log = logging.getLogger("srgan")


class TrainingLog:
    """`train_log.jsonl` and `tensorboard/` in a run's folder; a context manager."""

    def __init__(self, folder: Path, step: int):
        """Goes on after `step`: what an interrupted run wrote past it is dropped."""
        self.path = folder / "train_log.jsonl"
        self._drop_lines_after(step)
        self._writer = tf.compat.v1.summary.FileWriter(str(folder / "tensorboard"))
        # makes TensorBoard forget the points after this step
        start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
        self._writer.add_session_log(start, step)

    def __enter__(self) -> TrainingLog:
        return self

    def __exit__(self, *_) -> None:
        self._writer.close()

    def _drop_lines_after(self, step: int) -> None:
        if not self.path.exists():
            return
        lines = self.path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        if kept != lines:
            with atomic(self.path) as path:
                path.write_text("".join(kept))

    def write(self, line: dict, steps: int, steps_left: int) -> None:
        """An epoch of `steps` steps: phase, epoch, step, losses, seconds, PSNR if it was measured."""
        log.info("%s", _describe(line, steps, steps_left * line["seconds"] / steps))
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")
        for name, value in line.items():
            if isinstance(value, float):
                point = tf.compat.v1.Summary.Value(tag=f"{line['phase']}/{name}", simple_value=value)
                self._writer.add_summary(tf.compat.v1.Summary(value=[point]), line["step"])
        self._writer.flush()

    def plot(self, path: Path) -> None:
        """Losses, and the validation picture's PSNR, over all steps so far."""
        lines = [json.loads(text) for text in self.path.read_text().splitlines()]
        figure = Figure(figsize=(9, 6), layout="constrained")
        losses, psnr = figure.subplots(2, 1, sharex=True)
        names = dict.fromkeys(name for line in lines for name in line if _is_loss(name))
        for axes, keys in ((losses, names), (psnr, ["psnr_db"])):
            for key in keys:
                points = [(line["step"], line[key]) for line in lines if key in line]
                axes.plot(*zip(*points), marker=".", label=key)
            axes.grid(alpha=0.3)
        losses.set(yscale="log", ylabel="loss, mean of an epoch")
        losses.legend()
        psnr.set(xlabel="step", ylabel="validation PSNR on Y, dB")
        with atomic(path) as part:
            figure.savefig(part, dpi=100)


def _is_loss(name: str) -> bool:
    return name.endswith(("loss", "loss1", "loss2"))


def _describe(line: dict, steps: int, seconds_left: float) -> str:
    words = [f"{line['phase']} epoch {line['epoch']}"]
    words += [f"{name} {line[name]:.4g}" for name in line if _is_loss(name)]
    words.append(f"{steps / line['seconds']:.2f} steps/s")
    if "psnr_db" in line:
        words.append(f"validation {line['psnr_db']:.2f} dB")
    words.append(f"{tqdm.format_interval(seconds_left)} left")
    return ", ".join(words)
