"""The state of a run: its variables and where it is, how it is saved and restored; the weights for users."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from common.errors import UserError
from common.files import atomic
from tf1 import checkpoints
from tf1.distribution import ALONE, Cluster
from training import continuation
from training.log import Events
from training.schedule import ADVERSARIAL, PRETRAIN, Schedule

log = logging.getLogger("srgan")

WEIGHTS_FILES = {PRETRAIN: "g_srgan_init.npz", ADVERSARIAL: "g_srgan.npz"}


class RunState:
    """What a session holds of a run, and the files of `folder` that keep it."""

    def __init__(
        self,
        config,
        recipe,
        graph,
        session,
        schedule: Schedule,
        folder: Path,
        made_with: dict,
        cluster: Cluster = ALONE,
    ):
        """made_with: precision, device, pictures and VGG19 features, as they are kept in the files."""
        self.config, self.recipe, self.graph, self.session = config, recipe, graph, session
        self.schedule, self.folder, self.made_with, self.cluster = schedule, folder, made_with, cluster
        self.step = 0
        self.sums: dict[str, float] = {}  # of this epoch's losses and seconds, so far
        self.rate_factor = 1.0
        self.variables = [v for v in tf.compat.v1.global_variables() if v not in set(graph.vgg_params)]
        self.saver = tf.compat.v1.train.Saver(self.variables) if config.RUNTIME.saver else None
        self.saved_at, self.saved_step = time.monotonic(), -1
        self.skips_in_row = 0  # steps whose losses or gradients were not finite
        self.event = Events(folder) if cluster.is_chief else lambda event: None

    def say(self, sentence: str) -> None:
        """On the screen and in `run.log`."""
        log.info("%s", sentence)
        self.event(sentence)

    def start(self, vgg_weights: dict, start_weights: dict, saved: continuation.Saved | None) -> None:
        """Initialises every variable, then takes those of the saved run, or the weights to start from."""
        self.event(f"recipe {self.recipe}, TensorFlow {tf.__version__}, {json.dumps(self.config)}")
        self.session.run(tf.compat.v1.global_variables_initializer())
        if vgg_weights:
            checkpoints.assign(self.session, self.graph.vgg_params, vgg_weights, "the VGG19 file")
        if not saved and start_weights:
            train = self.config.TRAIN
            sources = (("SRGAN_g", self.graph.g_params, train.init_weights),)
            sources += (("SRGAN_d", self.graph.d_params, train.init_weights_d),)
            for network, params, source in sources:
                arrays = {name: value for name, value in start_weights.items() if name.startswith(network)}
                if arrays:
                    checkpoints.assign(self.session, params, arrays, source)
            if train.init_weights:
                averages = {average: start_weights[name] for name, average in self.graph.g_average.items()}
                checkpoints.load(self.session, averages)
        self.restore(saved)
        if saved:
            if self.step >= self.schedule.total_steps:
                log.info("The run in %s is finished; --restart begins anew", saved.path)
            else:
                phase, epoch, epoch_step = self.schedule.position(self.step)
                log.info("Continuing %s: %s epoch %d, step %d", saved.path, phase, epoch + 1, epoch_step)

    def restore(self, saved: continuation.Saved | None) -> None:
        """Takes what was saved, if anything was, and then what the chief has."""
        if saved:
            self._take(saved)
        if self.cluster.hosts > 1:
            numbers = [np.float64(self.step), np.float64(self.rate_factor), np.float64(self.saved_step)]
            numbers += self.variables
            step, rate_factor, saved_step, *arrays = self.cluster.from_chief(self.session, numbers)
            self.step, self.rate_factor, self.saved_step = int(step), float(rate_factor), int(saved_step)
            checkpoints.load(self.session, dict(zip(self.variables, arrays)))

    def _take(self, saved: continuation.Saved) -> None:
        if saved.arrays is not None:
            checkpoints.assign(self.session, self.variables, saved.arrays, saved.path)
        else:
            try:
                tf.compat.v1.train.Saver(self.variables).restore(self.session, str(saved.path))
            except (tf.errors.OpError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"{saved.path} does not fit this network: {reason}") from None
        self.step, self.sums = saved.meta["step"], saved.meta["sums"]
        self.rate_factor = saved.meta.get("rate_factor", 1.0)
        self.saved_step = self.step

    @property
    def has_gone_wrong(self) -> bool:
        """Whether the last step was not finite: its weights may be, and yet be of no use."""
        return self.skips_in_row > 0

    def weights_for_use(self) -> dict[str, np.ndarray]:
        """The generator's weights: their moving average if TRAIN.ema_decay asks for one."""
        if self.graph.g_average:
            return self.session.run(self.graph.g_average)
        return checkpoints.fetch(self.session, self.graph.g_params)

    def _meta(self) -> dict:
        phase, epoch, epoch_step = self.schedule.position(max(0, self.step - 1))
        return {
            "recipe": self.recipe,
            "phase": phase,
            "epoch": epoch + (epoch_step + 1) // self.schedule.steps_per_epoch,
            "step": self.step,
            **self.made_with,
            "config": self.config,
        }

    def has_weights_of_now(self, phase: str) -> bool:
        """Whether the phase's weights for users are those of this step."""
        try:
            return checkpoints.read_meta(self.folder / WEIGHTS_FILES[phase]).get("step") == self.step
        except UserError:
            return False

    def save_weights(
        self, phase: str, weights: dict, psnr_db: float | None = None, epoch: int | None = None
    ) -> None:
        """Writes the weights for users: the generator's, and in the adversarial phase D's too.

        psnr_db: of the validation picture, if measured; epoch: the one that ends here, if one does.
        """
        if self.has_gone_wrong or not checkpoints.is_finite(weights):
            raise UserError("its last steps are not finite")
        meta = {**self._meta(), "network": "SRGAN_g", "arguments": self.config.MODEL.generator}
        meta["psnr_db"] = psnr_db
        path = self.folder / WEIGHTS_FILES[phase]
        paths = [path]
        keep = self.config.TRAIN.keep_weights
        if keep and epoch and epoch % keep == 0:
            paths.append(path.with_stem(f"{path.stem}_{epoch}"))
        best = path.with_stem(f"{path.stem}_best")
        if psnr_db is not None and psnr_db > _psnr_of(best):
            paths.append(best)
        for path in paths:
            checkpoints.write_npz(path, weights, meta)
        if phase == ADVERSARIAL:
            arrays = checkpoints.fetch(self.session, self.graph.d_params)
            meta = {**self._meta(), "network": "SRGAN_d", "arguments": self.config.MODEL.discriminator}
            checkpoints.write_npz(self.folder / "d_srgan.npz", arrays, meta)

    def save(self) -> None:
        """Writes all that a continued run needs to end with the same bits as an uninterrupted one.

        A state that has gone wrong never takes the place of a good one. Of several hosts the chief writes.
        """
        if not self.cluster.is_chief:
            self.saved_at, self.saved_step = time.monotonic(), self.step
            return
        arrays = checkpoints.fetch(self.session, self.variables)
        self.saved_at = time.monotonic()
        if self.has_gone_wrong or not checkpoints.is_finite(arrays):
            self.say(
                f"WARNING: step {self.step} is not saved: it is not finite; step {self.saved_step} is kept"
            )
            return
        meta = {**self._meta(), "sums": self.sums, "rate_factor": self.rate_factor}
        continuation.save_state(self.folder, arrays, meta)
        if self.saver:
            prefix = self.folder / continuation.SAVER_DIR / "model.ckpt"
            with atomic(f"{prefix}-{self.step}.json") as path:
                path.write_text(json.dumps(meta))
            self.saver.save(self.session, str(prefix), self.step, write_meta_graph=False)
        self.saved_step = self.step
        self.event(f"step {self.step} saved")


def _psnr_of(path: Path) -> float:
    try:
        return float(checkpoints.read_meta(path)["psnr_db"])
    except (UserError, KeyError, TypeError, ValueError):
        return -np.inf
