"""A training run: its position, how it saves and stops, and its handling of steps that are not finite."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from common.errors import UserError
from common.files import sync_folder
from tf1 import checkpoints, runtime
from training.resume import PREVIOUS_STATE_FILE, STATE_FILE, Saved
from training.schedule import ADVERSARIAL, PRETRAIN, Position

log = logging.getLogger("srgan")

WEIGHTS_FILES = {PRETRAIN: "g_srgan_init.npz", ADVERSARIAL: "g_srgan.npz"}
MAX_SKIPPED_STEPS = 10  # stop after so many steps in a row whose losses or gradients are not finite
UNTIMED_STEPS = 4  # a process's first steps of each phase are slower and are not timed
LOG_INTERVAL_S = 60  # if there is no progress bar


class Run:
    """A training run in a session, as a context manager. The loops are in training/train.py.

    The state is saved last, after the weights and the log: after a crash, the run continues from an earlier
    state and writes again whatever is missing.
    """

    def __init__(self, graph, session, dataset, report, schedule, cluster, *, folder: Path, meta: dict):
        """report: None on hosts that write no files. meta: recipe, config and facts, written to the files."""
        self.graph, self.session, self.dataset, self.report = graph, session, dataset, report
        self.schedule, self.cluster, self.folder, self.meta = schedule, cluster, folder, meta
        self.train = schedule.train
        self.step_number = self.skipped_steps = 0
        self.sums = Counter()  # over this epoch so far: losses, "seconds", number of finite steps ("counted")
        self.variables = [v for v in tf.compat.v1.global_variables() if not v.op.name.startswith("VGG19/")]
        self.saved_at, self.saved_step, self.in_step = time.monotonic(), -1, False
        self.process_steps = Counter()  # steps done by this process, by phase

    @property
    def last_position(self) -> Position:
        """Position of the last completed step; before any, of the first step."""
        return self.schedule.position(max(0, self.step_number - 1))

    # -- the loop

    def epochs(self, phase: str) -> Iterator[int]:
        """Yields the remaining epochs of a phase, counted from 0; the first one may be partly done."""
        while self.step_number < self.schedule.total_steps:
            position = self.schedule.position(self.step_number)
            if position.phase != phase:
                return
            yield position.epoch

    def batches(self, epoch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (LR, HR) for each remaining step of an epoch; sets the learning rate."""
        phase, _, done = self.schedule.position(self.step_number)
        steps, rate, said_at = self.schedule.steps_per_epoch, None, time.monotonic()
        if done == 0:
            self.sums = Counter()
        name = f"{phase} epoch {epoch + 1} of {self.schedule.epochs[phase]}"
        hidden = None if self.report else True  # None: hidden unless the error stream is a terminal
        bar = tqdm(desc=name, total=steps, initial=done, disable=hidden, leave=False, unit="step")
        with bar as self.bar:
            for epoch_step in range(done, steps):
                if time.monotonic() - self.saved_at > 60 * self.train.save_minutes:
                    self.save()
                if self.bar.disable and time.monotonic() - said_at > LOG_INTERVAL_S:
                    said_at = time.monotonic()
                    log.info("%s: step %d of %d", name, epoch_step, steps)
                new_rate = self.schedule.learning_rate(self.step_number)
                if new_rate != rate:
                    rate = new_rate
                    checkpoints.set_variables(self.session, {self.graph.lr_v: rate})
                self.started = time.perf_counter()
                batch = next(self.stream)
                self.in_step = True
                yield batch

    def end_step(self, losses: dict[str, float], finite: bool) -> None:
        """Counts a step and its losses; stops if a signal was received."""
        self.in_step = False
        self.step_number += 1
        seconds = time.perf_counter() - self.started
        self.sums.update(seconds=seconds)
        if finite and np.isfinite(list(losses.values())).all():
            self.skipped_steps = 0
            self.sums.update({name: float(value) for name, value in losses.items()}, counted=1)
        else:
            self.skipped_steps += 1
            step = self.step_number
            self._record(f"step {step} skipped: its losses or gradients are not finite ({losses})")
            if self.skipped_steps == MAX_SKIPPED_STEPS:
                raise UserError(
                    f"the last {MAX_SKIPPED_STEPS} steps were not finite and were skipped: start again with "
                    f"--restart --set TRAIN.lr_init={self.train.lr_init / 10:g}, or check the images"
                )
        self._log_duration(seconds)
        self.bar.update()
        self.bar.set_postfix({name: f"{value:.4g}" for name, value in losses.items()})
        if self.schedule.position(self.step_number).epoch_step:  # at the end of an epoch, end_epoch() does
            self._stop_if_asked()

    def end_epoch(self, epoch: int) -> None:
        """Logs the epoch. Every TRAIN.save_every epochs, and at the end of a phase, also saves the run.

        Samples and weights are written before the log line, and the state after it.
        """
        phase = self.last_position.phase
        is_checkpoint = (epoch + 1) % self.train.save_every == 0
        is_checkpoint |= self.step_number == self.schedule.phase_end(phase)
        if self.report:
            sums = dict(self.sums)
            seconds, counted = sums.pop("seconds"), int(sums.pop("counted", 0))
            line = {"phase": phase, "epoch": epoch + 1, "step": self.step_number}
            line["learning_rate"] = self.schedule.learning_rate(self.step_number - 1)
            line |= {name: total / counted for name, total in sums.items()} | {"seconds": seconds}
            if counted < self.schedule.steps_per_epoch:
                line["skipped_steps"] = self.schedule.steps_per_epoch - counted
            if is_checkpoint and phase in WEIGHTS_FILES:
                line |= self.report.samples(phase, epoch + 1, self.step_number)
                self.save_weights(epoch + 1, line.get("psnr_db"))
            steps_left = self.schedule.phase_end(phase) - self.step_number
            self.report.log_epoch(line, self.schedule.steps_per_epoch, steps_left)
        if is_checkpoint:
            self.save()
        self._stop_if_asked()

    def finish(self) -> None:
        """Ends the run; writes the final weights if they are missing."""
        is_missing = self.step_number and self._weights_step() != self.step_number
        if self.report and is_missing and not self.save_weights():
            raise UserError(
                "the run is finished, but its weights could not be written: free disk space and run the same "
                "command again"
            )
        self._announce("Finished")

    # -- stops

    def _stop_if_asked(self) -> None:
        if self.signals.signal:
            if self.saved_step < self.step_number:
                self.save_weights()
                self.save()
            self._announce("Stopped and saved; the same command, without --restart, continues")
            raise SystemExit(128 + self.signals.signal)

    def __enter__(self) -> Run:
        facts, schedule = self.meta["facts"], self.schedule
        epochs = ", ".join(f"{epochs} {phase}" for phase, epochs in schedule.epochs.items() if epochs)
        self._record(f"recipe {self.meta['recipe']}, TensorFlow {tf.__version__}, {self.meta['config']}")
        self._announce(
            f"Training on {facts['device']} in {facts['precision']}: {self.dataset.num_images} images, "
            f"{schedule.steps_per_epoch} steps per epoch, {schedule.total_steps} steps in all "
            f"({epochs} epochs)"
        )
        self.signals = runtime.StopSignal(self.cluster.is_chief).__enter__()
        passes, first = divmod(self.step_number, self.dataset.steps_per_epoch)
        part = self.cluster.host, self.cluster.hosts
        self.stream = self.dataset.stream(passes, first, part)
        if self.saved_step < 0:
            self.save()  # detects a full disk now, and there is always a state to continue from
        return self

    def __exit__(self, _, error, __) -> None:
        self.stream.close()
        self.signals.__exit__()
        try:
            if isinstance(error, Exception):
                self._save_after(error)
        finally:
            if self.report:
                self.report.close()

    def _save_after(self, error: Exception) -> None:
        """Saves the run when an error ends it."""
        self._record(f"step {self.step_number}: {type(error).__name__}: {error}")
        if self.in_step and self.cluster.hosts > 1 and isinstance(error, tf.errors.OpError):
            raise UserError(
                "another host has stopped or cannot be reached: start all hosts again, and the run will "
                f"continue from step {self.saved_step}"
            ) from error
        # not within a step, when only some of the variables may be updated
        if self.saved_step < self.step_number and not self.in_step:
            try:
                self.save()
                self._announce(f"Saved step {self.step_number}")
            except Exception as second:
                step, kept = self.step_number, self.saved_step
                self._announce(f"Step {step} could not be saved ({second}); step {kept} is kept")

    # -- files

    def save(self) -> None:
        """Writes the state from which a run resumes bit-for-bit; keeps the previous one."""
        if self.report:
            self._write_state()
        self.saved_at, self.saved_step = time.monotonic(), self.step_number

    def _write_state(self) -> None:
        arrays = checkpoints.fetch(self.session, self.variables)
        if not checkpoints.is_finite(arrays):  # unexpected: steps that are not finite change no weight
            raise UserError(f"step {self.step_number} is not finite; step {self.saved_step} is kept")
        state = self.folder / STATE_FILE
        new = state.with_stem(f"{state.stem}_new")
        checkpoints.write_npz(new, arrays, {**self._meta(), "sums": self.sums})
        try:
            if state.exists():
                os.replace(state, self.folder / PREVIOUS_STATE_FILE)
            os.replace(new, state)
        except OSError as error:
            raise UserError(f"cannot write {state}: {error.strerror}") from error
        sync_folder(self.folder)
        self._record(f"step {self.step_number} saved")

    def save_weights(self, epoch: int | None = None, psnr_db: float | None = None) -> bool:
        """Writes the weights; returns False and logs the error if that fails. epoch: the one just ended."""
        phase = self.last_position.phase
        if not self.report or phase not in WEIGHTS_FILES:
            return True
        model = self.meta["config"]["MODEL"]
        meta = {**self._meta(), "network": "SRGAN_g", "arguments": model["generator"]}
        path, keep = self.folder / WEIGHTS_FILES[phase], self.train.keep_weights
        kept = [path.with_stem(f"{path.stem}_{epoch}")] if keep and epoch and epoch % keep == 0 else []
        with self.report.tolerated(f"no weights of step {self.step_number}"):
            weights = self.session.run(self.graph.average.weights)
            for file in (path, *kept):
                checkpoints.write_npz(file, weights, {**meta, "psnr_db": psnr_db})
            if phase == ADVERSARIAL:
                arrays = checkpoints.fetch(self.session, self.graph.net_d.all_params)
                meta |= {"network": "SRGAN_d", "arguments": model["discriminator"]}
                checkpoints.write_npz(self.folder / "d_srgan.npz", arrays, meta)
            return True
        return False

    def _weights_step(self) -> int | None:
        """Returns the step of the weights in the folder."""
        try:
            return checkpoints.read_meta(self.folder / WEIGHTS_FILES[self.last_position.phase]).get("step")
        except UserError:
            return None

    def restore(self, saved: Saved | None) -> None:
        """Restores the saved state, if any; with several hosts, all take the chief's variables."""
        if saved:
            checkpoints.assign(self.session, self.variables, saved.arrays, saved.path)
            self.step_number = self.saved_step = saved.meta["step"]
            self.sums = Counter(saved.meta["sums"])
        if self.cluster.hosts > 1:
            numbers = [np.float64(self.step_number), np.float64(self.saved_step)]
            step, saved_step, *arrays = self.cluster.from_chief(self.session, numbers + self.variables)
            self.step_number, self.saved_step = int(step), int(saved_step)
            checkpoints.set_variables(self.session, dict(zip(self.variables, arrays)))
        if saved and self.step_number < self.schedule.total_steps:
            phase, epoch, epoch_step = self.schedule.position(self.step_number)
            log.info("Continuing %s: %s epoch %d, step %d", saved.path, phase, epoch + 1, epoch_step)
        elif saved:
            log.info("The run in %s is finished; --restart starts again", saved.path)

    def _meta(self) -> dict:
        phase, epoch, epoch_step = self.last_position
        epoch += (epoch_step + 1) // self.schedule.steps_per_epoch
        return {**self.meta, "phase": phase, "epoch": epoch, "step": self.step_number}

    def _announce(self, sentence: str) -> None:
        """Writes to the screen and to run.log."""
        log.info("%s", sentence)
        self._record(sentence)

    def _record(self, sentence: str) -> None:
        """Writes to run.log only."""
        if self.report:
            self.report.record(sentence)

    def _log_duration(self, seconds: float) -> None:
        """Logs the expected duration once in each phase, after the untimed steps."""
        phase = self.last_position.phase
        left = (self.schedule.phase_end(phase) - self.step_number) * seconds
        self.process_steps[phase] += 1
        if self.process_steps[phase] == UNTIMED_STEPS + 1 and left > 60:
            log.info("About %.2g s per step: %s ends in %s", seconds, phase, tqdm.format_interval(left))
