"""Reports a training run: a line per epoch on the screen, as JSON and for TensorBoard; sample images."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from tqdm import tqdm

from common.errors import UserError
from common.files import atomic
from images import bicubic, metrics
from images.files import write_rgb
from images.pixels import enlarge, side_by_side

log = logging.getLogger("srgan")

SAMPLE_PATCHES = 4
MAX_VALID_SIDE = 1024  # px of HR; the image is upscaled without tiles, which takes about 1 kB per pixel
COLLAPSED_LOSS, COLLAPSED_EPOCHS = 0.01, 3  # warn if d_loss stays below this for so many epochs
FOLDERS = {"pretrain": ("srgan_ginit", "SRResNet"), "adversarial": ("srgan_gan", "SRGAN")}
Point = tf.compat.v1.Summary.Value  # for TensorBoard


def within_memory(hr: np.ndarray, lr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the validation pair, cropped to its centre if it is large."""
    scale = hr.shape[0] // lr.shape[0]
    side = MAX_VALID_SIDE // scale
    if max(lr.shape[:2]) <= side:
        return hr, lr
    top, left = (max(0, (length - side) // 2) for length in lr.shape[:2])
    log.info("Training validates with the middle %d px of the validation image", MAX_VALID_SIDE)
    lr = lr[top : top + side, left : left + side]
    hr = hr[scale * top :, scale * left :][: scale * lr.shape[0], : scale * lr.shape[1]]
    return hr, lr


class Report:
    """Writes the reports of a run to its folders. Failures are logged and never stop training."""

    def __init__(
        self,
        folder: Path,
        samples_dir: Path,
        step: int,
        upscale: Callable,
        fixed_patches: Callable,
        valid: tuple[np.ndarray, np.ndarray],
    ):
        """Continues the log after `step`; removes later lines, whose steps will be repeated.

        upscale: uint8 LR [N, h, w, 3] -> SR; fixed_patches(count) -> (LR, HR); valid: (HR, LR).
        """
        self._upscale, self._fixed_patches, self._valid = upscale, fixed_patches, valid
        self.folder, self.samples_dir, self._start = folder, samples_dir, step
        self._log = folder / "train_log.jsonl"
        self._unwritten = ""  # lines that could not be written yet
        self._tensorboard: tf.compat.v1.summary.FileWriter | None = None
        self._collapsed_epochs = 0
        with self.tolerated("no earlier lines of the log"):
            text = self._log.read_text(errors="replace") if self._log.exists() else ""
            kept = "".join(json.dumps(line) + "\n" for line in _lines(text) if line["step"] <= step)
            if kept != text:
                with atomic(self._log) as path:
                    path.write_text(kept)

    def close(self) -> None:
        if self._tensorboard:
            self._tensorboard.close()

    def record(self, sentence: str) -> None:
        """Appends a line with the time to run.log."""
        with contextlib.suppress(OSError), open(self.folder / "run.log", "a", encoding="utf-8") as file:
            text = " ".join(sentence.split()).encode("utf-8", "replace").decode()
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    @contextlib.contextmanager
    def tolerated(self, missing: str) -> Iterator[None]:
        """Logs a failure of the block and continues."""
        try:
            yield
        except (UserError, OSError, MemoryError, ValueError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            sentence = f"WARNING: {missing} ({reason}); training continues"
            log.info("%s", sentence)
            self.record(sentence)

    def samples(self, phase: str, epoch: int, step: int) -> dict[str, float]:
        """Writes LR | bicubic | SR | HR of fixed patches; returns {'psnr_db': of the validation image}."""
        name, network = FOLDERS[phase]
        folder, (valid_hr, valid_lr) = self.samples_dir / name, self._valid
        with self.tolerated(f"no samples of step {step}"):
            lr, hr = self._fixed_patches(SAMPLE_PATCHES)
            sr, scale = self._upscale(lr), hr.shape[1] // lr.shape[1]
            # a batch of two: for one image, oneDNN without AVX-512 uses a kernel that is ten times slower
            valid_sr = self._upscale(np.stack([valid_lr, valid_lr]))[0]
            # the names are the note's, although the recipe may use other patch sizes
            write_rgb(folder / "_train_sample_96.png", np.hstack(lr))
            write_rgb(folder / "_train_sample_384.png", np.hstack(hr))
            columns = [
                np.vstack([enlarge(low, scale) for low in lr]),
                np.vstack([bicubic.upsample(low, scale) for low in lr]),
                np.vstack(sr),
                np.vstack(hr),
            ]
            sheet = side_by_side(columns, ["LR", "bicubic", network, "HR"])
            path = folder / f"train_{epoch}.png"
            write_rgb(path, sheet)
            image = {"height": sheet.shape[0], "width": sheet.shape[1]}
            image["encoded_image_string"] = path.read_bytes()
            self._add_points([Point(tag=f"{phase}/samples", image=image)], step)
            return {"psnr_db": metrics.psnr_y(valid_sr, valid_hr, border=scale)}
        return {}

    def log_epoch(self, line: dict, steps: int, steps_left: int) -> None:
        """Logs an epoch of `steps` steps. line: phase, epoch, step, losses, seconds, PSNR if measured."""
        log.info("%s", _describe(line, steps, steps_left * line["seconds"] / steps))
        self._unwritten += json.dumps(line) + "\n"
        with self.tolerated(f"no line of step {line['step']} in the log"):
            with open(self._log, "a") as file:
                file.write(self._unwritten)
            self._unwritten = ""
            floats = {name: value for name, value in line.items() if isinstance(value, float)}
            points = [Point(tag=f"{line['phase']}/{name}", simple_value=floats[name]) for name in floats]
            self._add_points(points, line["step"])
            if "psnr_db" in line:
                self._plot(self.samples_dir / "learning_curve.png")
        is_collapsed = line.get("d_loss", np.inf) < COLLAPSED_LOSS
        self._collapsed_epochs = self._collapsed_epochs + 1 if is_collapsed else 0
        if self._collapsed_epochs == COLLAPSED_EPOCHS:
            log.info(
                "WARNING: the discriminator's loss is below %g for %d epochs, so the generator learns little "
                "from it; try a smaller MODEL.discriminator, a higher LOSS.adversarial, or fewer "
                "TRAIN.n_epoch_d",
                *(COLLAPSED_LOSS, COLLAPSED_EPOCHS),
            )

    def _add_points(self, points: list[Point], step: int) -> None:
        if self._tensorboard is None:
            self._tensorboard = tf.compat.v1.summary.FileWriter(str(self.folder / "tensorboard"))
            start = tf.compat.v1.SessionLog(status=tf.compat.v1.SessionLog.START)
            self._tensorboard.add_session_log(start, self._start)  # TensorBoard drops points after this step
        self._tensorboard.add_summary(tf.compat.v1.Summary(value=points), step)
        self._tensorboard.flush()

    def _plot(self, path: Path) -> None:
        """Plots the losses and the validation image's PSNR over all steps so far."""
        lines = _lines(self._log.read_text())
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
    """Parses the valid lines of a log and skips the others."""
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
