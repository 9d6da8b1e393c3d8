"""Which phase, epoch and learning rate belong to a step of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass

PRETRAIN, ADVERSARIAL = "pretrain", "adversarial"


@dataclass(frozen=True)
class Schedule:
    """Both phases as one row of steps: `n_epoch_init` epochs of pretraining, then `n_epoch` adversarial."""

    train: dict  # config.TRAIN
    steps_per_epoch: int

    @property
    def pretrain_steps(self) -> int:
        return self.train.n_epoch_init * self.steps_per_epoch

    @property
    def total_steps(self) -> int:
        return self.pretrain_steps + self.train.n_epoch * self.steps_per_epoch

    def phase_end(self, phase: str) -> int:
        """The step at which a phase ends."""
        return self.pretrain_steps if phase == PRETRAIN else self.total_steps

    def position(self, step: int) -> tuple[str, int, int]:
        """(phase, epoch within the phase, step within the epoch), all from 0."""
        if step < self.pretrain_steps:
            return PRETRAIN, *divmod(step, self.steps_per_epoch)
        return ADVERSARIAL, *divmod(step - self.pretrain_steps, self.steps_per_epoch)

    def learning_rates(self, step: int) -> tuple[float, float]:
        """(G's, D's); D starts from noise at full rate, G waits for it and warms up."""
        phase, epoch, epoch_step = self.position(step)
        train = self.train
        if phase == PRETRAIN:
            epochs, every, decay, wait = train.n_epoch_init, train.decay_every_init, train.lr_decay_init, 0
        else:
            epochs, every, decay, wait = train.n_epoch, train.decay_every, train.lr_decay, train.d_first_steps
        phase_step = epoch * self.steps_per_epoch + epoch_step
        if train.lr_schedule == "cosine":
            progress = phase_step / (epochs * self.steps_per_epoch)
            rate = train.lr_init * 0.5 * (1.0 + math.cos(math.pi * progress))
        else:
            rate = train.lr_init * decay ** (epoch // (every or max(1, epochs // 2)))
        warm = min(1.0, max(0.0, phase_step + 1 - wait) / (train.warmup_steps or 1))
        return rate * warm, rate * train.d_lr_factor
