"""What a run leaves at the end of an epoch or at a stop: weights, samples, a line in the log, warnings."""

from __future__ import annotations

import contextlib

import tensorflow as tf

from common.errors import UserError
from training import gallery
from training.log import TrainingLog
from training.samples import Sampler
from training.schedule import DISCRIMINATOR, PRETRAIN
from training.state import RunState

COLLAPSED_LOSS, COLLAPSED_EPOCHS = 0.01, 3  # of the discriminator: it is always right


class Report:
    """The reports of one run, in its order; a context manager. What fails of one is told and tried again.

    Training is worth more than what it shows.
    """

    def __init__(self, state: RunState, sampler: Sampler):
        self.state, self.sampler = state, sampler
        self.log = TrainingLog(state.folder, state.step)
        self.owed = False  # whether the weights of an epoch could not be written
        self.collapsed_epochs = 0

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *_) -> None:
        self.log.close()

    def is_lacking(self) -> bool:
        """Whether the run was stopped between saving the state of an epoch's end and all that follows."""
        state, schedule = self.state, self.state.schedule
        if not state.sums or schedule.position(state.step)[2]:
            return False
        phase = schedule.position(state.step - 1)[0]
        if self.log.last_step < state.step:
            return True
        if phase == DISCRIMINATOR or not schedule.leaves_weights(state.step):
            return False
        return not state.has_weights_of_now(phase)

    def write(self) -> None:
        """Of the epoch that has ended."""
        state, schedule = self.state, self.state.schedule
        phase, epoch, _ = schedule.position(state.step - 1)
        sums = dict(state.sums)
        seconds, counted = sums.pop("seconds"), int(sums.pop("counted", 0))
        line = {
            "phase": phase,
            "epoch": epoch + 1,
            "step": state.step,
            "learning_rate": state.rate_factor * schedule.learning_rate(state.step - 1),
            **{name: total / counted for name, total in sums.items()},
            "seconds": seconds,
        }
        steps = schedule.steps_per_epoch
        if counted < steps:
            line["skipped_steps"] = steps - counted
        if (schedule.leaves_weights(state.step) or self.owed) and phase != DISCRIMINATOR:
            weights, self.owed = state.weights_for_use(), True
            with self._tolerated("no sample pictures"):
                line["psnr_db"] = self.sampler.sample(phase, epoch + 1, weights)
            with self._tolerated("no weights"):
                state.save_weights(phase, weights, line.get("psnr_db"), epoch + 1)
                self.owed = False
        with self._tolerated("no line in the log"):
            self.log.write(line, steps, schedule.phase_end(phase) - state.step)
            if "psnr_db" in line:
                self.log.plot(self.sampler.samples_dir / "learning_curve.png")
                gallery.write_animation(self.sampler.samples_dir)
                gallery.write_index(self.sampler.samples_dir, line)
        self._watch_discriminator(line)

    def write_weights(self) -> None:
        """Of the step at which the run is stopped, to be used at once.

        At an epoch's end `write` has left them, or owes them, and what comes with them, to the next start.
        """
        state, schedule = self.state, self.state.schedule
        phase = schedule.position(max(0, state.step - 1))[0]
        is_written = schedule.position(state.step)[2] == 0 and schedule.leaves_weights(state.step)
        if state.step and phase != DISCRIMINATOR and not is_written:
            with self._tolerated("no weights", "the state has them"):
                state.save_weights(phase, state.weights_for_use())

    @contextlib.contextmanager
    def _tolerated(self, loss: str, comfort: str = "training goes on"):
        try:
            yield
        except (UserError, OSError, MemoryError, ValueError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            self.state.say(f"WARNING: {loss} of step {self.state.step} ({reason}); {comfort}")

    def _watch_discriminator(self, line: dict) -> None:
        if line["phase"] == PRETRAIN or "d_loss" not in line:
            return
        self.collapsed_epochs = self.collapsed_epochs + 1 if line["d_loss"] < COLLAPSED_LOSS else 0
        if self.collapsed_epochs == COLLAPSED_EPOCHS:
            self.state.say(
                f"WARNING: the discriminator's loss is below {COLLAPSED_LOSS} for {COLLAPSED_EPOCHS} epochs: "
                "it tells all pictures apart and teaches nothing; try a smaller MODEL.discriminator, "
                "a higher LOSS.adversarial, or fewer TRAIN.n_epoch_d"
            )
