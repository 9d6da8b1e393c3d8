"""The phase, epoch and learning rate of each step of a training run."""

from __future__ import annotations

import math
from typing import NamedTuple

PRETRAIN, DISCRIMINATOR, ADVERSARIAL = "pretrain", "discriminator", "adversarial"


class Position(NamedTuple):
    phase: str
    epoch: int  # within the phase, from 0
    epoch_step: int  # within the epoch, from 0


class Schedule:
    """Numbers the steps of all phases in sequence: MSE pretraining, D alone, adversarial training."""

    def __init__(self, train, steps_per_epoch: int):
        """train: config.TRAIN."""
        self.train, self.steps_per_epoch = train, steps_per_epoch
        n_epoch_d = train.n_epoch_d if train.n_epoch else 0
        self.epochs = {PRETRAIN: train.n_epoch_init, DISCRIMINATOR: n_epoch_d, ADVERSARIAL: train.n_epoch}
        self.total_steps = sum(self.epochs.values()) * steps_per_epoch

    def position(self, step: int) -> Position:
        epoch, epoch_step = divmod(step, self.steps_per_epoch)
        for phase, epochs in self.epochs.items():
            if epoch < epochs or phase == ADVERSARIAL:
                return Position(phase, epoch, epoch_step)
            epoch -= epochs

    def phase_end(self, phase: str) -> int:
        """Returns the number of steps up to the end of a phase."""
        names = list(self.epochs)
        return sum(self.epochs[name] for name in names[: names.index(phase) + 1]) * self.steps_per_epoch

    def learning_rate(self, step: int) -> float:
        """Returns a step's learning rate: warm-up, times TRAIN.lr_schedule; lr_init while D trains alone.

        'step' decays the rate only in the adversarial phase, as the note does; 'cosine' decreases it to zero
        in each of the two phases that train G.
        """
        train, (phase, epoch, epoch_step) = self.train, self.position(step)
        if phase == DISCRIMINATOR:
            return train.lr_init
        phase_step, rate = epoch * self.steps_per_epoch + epoch_step, train.lr_init
        if train.lr_schedule == "cosine":
            progress = phase_step / (self.epochs[phase] * self.steps_per_epoch)
            rate *= 0.5 * (1.0 + math.cos(math.pi * progress))
        elif phase == ADVERSARIAL:
            rate *= train.lr_decay ** (epoch // (train.decay_every or max(1, self.epochs[phase] // 2)))
        return rate * min(1.0, (phase_step + 1) / (train.warmup_steps or 1))
