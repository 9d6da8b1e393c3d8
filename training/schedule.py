"""Which phase, epoch and learning rate belong to a step of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass

PRETRAIN, DISCRIMINATOR, ADVERSARIAL = "pretrain", "discriminator", "adversarial"


@dataclass(frozen=True)
class Schedule:
    """The phases as one row of steps: MSE pretraining, D alone, adversarial training."""

    train: dict  # config.TRAIN
    steps_per_epoch: int

    @property
    def epochs(self) -> dict[str, int]:
        """Epochs of each phase, in order; D learns alone only for an adversarial phase to follow."""
        n_epoch_d = self.train.n_epoch_d if self.train.n_epoch else 0
        return {PRETRAIN: self.train.n_epoch_init, DISCRIMINATOR: n_epoch_d, ADVERSARIAL: self.train.n_epoch}

    @property
    def total_steps(self) -> int:
        return self.phase_end(ADVERSARIAL)

    def phase_end(self, phase: str) -> int:
        """The step at which a phase ends."""
        epochs = list(self.epochs.values())
        return sum(epochs[: list(self.epochs).index(phase) + 1]) * self.steps_per_epoch

    def position(self, step: int) -> tuple[str, int, int]:
        """(phase, epoch within the phase, step within the epoch), all from 0."""
        epoch, epoch_step = divmod(step, self.steps_per_epoch)
        for phase, epochs in self.epochs.items():
            if epoch < epochs or phase == ADVERSARIAL:
                return phase, epoch, epoch_step
            epoch -= epochs

    def leaves_weights(self, step: int) -> bool:
        """Whether the epoch that ends with `step` steps done is one to leave samples, weights and state."""
        phase, epoch, _ = self.position(step - 1)
        return (epoch + 1) % self.train.save_every == 0 or step == self.phase_end(phase)

    def learning_rate(self, step: int) -> float:
        phase, epoch, epoch_step = self.position(step)
        train = self.train
        if phase == DISCRIMINATOR:
            return train.lr_init
        if phase == PRETRAIN:
            every, decay = train.decay_every_init, train.lr_decay_init
        else:
            every, decay = train.decay_every, train.lr_decay
        epochs = self.epochs[phase]
        phase_step = epoch * self.steps_per_epoch + epoch_step
        if train.lr_schedule == "cosine":
            progress = phase_step / (epochs * self.steps_per_epoch)
            rate = train.lr_init * 0.5 * (1.0 + math.cos(math.pi * progress))
        else:
            rate = train.lr_init * decay ** (epoch // (every or max(1, epochs // 2)))
        return rate * min(1.0, (phase_step + 1) / (train.warmup_steps or 1))

    def agrees(self, other: Schedule, steps: int) -> bool:
        """Whether a run could have done its first `steps` steps by either.

        Phase and rate change in the same way within an epoch, but for the warm-up, so that the first and
        the last step of each epoch tell.
        """
        if bool(self.train.n_epoch) != bool(other.train.n_epoch):
            return False
        if steps and self.train.warmup_steps != other.train.warmup_steps:
            return False
        starts = range(0, steps, self.steps_per_epoch)
        return all(
            self.position(step) == other.position(step)
            and self.learning_rate(step) == other.learning_rate(step)
            for step in sorted({*starts, *(start - 1 for start in starts if start), max(0, steps - 1)})
        )
