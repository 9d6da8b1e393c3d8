"""Training: MSE pretraining, then adversarial training; samples, log, checkpoints, exact resume."""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

import vgg19
from common.errors import UserError
from common.files import atomic, require_writable
from common.settings import log_config
from images import bicubic, metrics, photos
from images.bicubic import SCALE
from images.files import write_rgb
from images.pixels import enlarge
from tf1 import checkpoints, runtime
from training.continuation import SAVER_DIR, STATE_FILE, check_continuation, forget_run, saved_run
from training.dataset import Dataset
from training.graph import build_training_graph
from training.log import TrainingLog
from training.schedule import ADVERSARIAL, DISCRIMINATOR, PRETRAIN, Schedule

log = logging.getLogger("srgan")

SAMPLE_PATCHES = 4


def train(config, checkpoint_dir: Path, samples_dir: Path, *, recipe: str, restart: bool) -> None:
    """Trains by `config`; files in, files out. Continues what is in `checkpoint_dir` unless `restart`."""
    log.info("Loading training pictures")
    dataset = Dataset(
        config.TRAIN.hr_img_path,
        patch_size=config.TRAIN.hr_patch_size,
        batch_size=config.TRAIN.batch_size,
        seed=config.TRAIN.seed,
        augment=config.TRAIN.augment,
        exposures=config.TRAIN.exposures,
    )
    valid_hr, valid_lr = photos.validation_pair(**config.VALID)
    vgg_weights = _vgg_weights(config)
    vgg_features = (config.VGG.layer if vgg_weights else "random") if config.TRAIN.n_epoch else "none"
    checkpoint_dir, samples_dir = Path(checkpoint_dir), Path(samples_dir)
    require_writable(checkpoint_dir, "--checkpoint-dir")
    require_writable(samples_dir, "--samples-dir")
    saved = None if restart else saved_run(checkpoint_dir)
    if saved:
        check_continuation(*saved, config, dataset.steps_per_epoch, vgg_features)
    log_config(checkpoint_dir / "config.json", config)
    with tf.Graph().as_default():
        tf.compat.v1.set_random_seed(config.TRAIN.seed)
        log.info("Building graph")
        dtype = runtime.compute_dtype(config.RUNTIME.precision)
        graph = build_training_graph(config, dtype)
        with tf.compat.v1.Session(config=runtime.session_config(config.RUNTIME)) as session:
            data, folders = (dataset, valid_hr, valid_lr), (checkpoint_dir, samples_dir)
            run = Run(config, recipe, graph, session, data, folders, vgg_features)
            run.start(vgg_weights, saved)
            if restart:  # only now, when nothing is left that could refuse the new run
                forget_run(checkpoint_dir)
                log.info("Starting anew (--restart)")
            log.info(
                "Training on %s in %s: %d pictures, %d steps per epoch",
                runtime.describe_device(),
                dtype.name,
                dataset.num_images,
                run.schedule.steps_per_epoch,
            )
            run.loop()


def _vgg_weights(config) -> dict[str, np.ndarray]:
    """VGG19 weights for the feature loss; {} where `VGG.on_missing` lets random features stand in."""
    if config.VGG.layer not in vgg19.layer_names():
        raise UserError(f"VGG.layer must be one of {', '.join(vgg19.layer_names())}")
    if not config.TRAIN.n_epoch:
        return {}
    try:
        path = vgg19.find_weights(config.VGG.weights)
    except UserError as error:
        if config.VGG.on_missing == "stop":
            raise
        log.warning("WARNING: %s", error)
        log.warning("WARNING: training against RANDOM VGG19 features (VGG.on_missing = 'random')")
        return {}
    log.info("VGG19 features %s from %s", config.VGG.layer, path)
    return vgg19.read_weights(path, config.VGG.layer)


class Run:
    """One training run: a session, its files, and where it is."""

    def __init__(self, config, recipe, graph, session, data, folders, vgg_features):
        self.config, self.recipe, self.graph, self.session = config, recipe, graph, session
        self.dataset, self.valid_hr, self.valid_lr = data
        self.checkpoint_dir, self.samples_dir = folders
        steps_per_epoch = config.TRAIN.steps_per_epoch or self.dataset.steps_per_epoch
        self.schedule = Schedule(config.TRAIN, steps_per_epoch)
        self.step = 0
        self.sums: dict[str, float] = {}  # of this epoch's losses and seconds, so far
        self.vgg_features = vgg_features  # the layer, 'random', or 'none' without adversarial training
        self.state_variables = [v for v in tf.compat.v1.global_variables() if v not in set(graph.vgg_params)]
        self.saver = tf.compat.v1.train.Saver(self.state_variables) if config.RUNTIME.saver else None
        self.saved_at = time.monotonic()

    # -- start and continue

    def start(self, vgg_weights: dict[str, np.ndarray], saved: tuple[Path, dict] | None) -> None:
        """Initialises every variable, then takes those of the saved run, or of TRAIN.init_weights."""
        self.session.run(tf.compat.v1.global_variables_initializer())
        if vgg_weights:
            checkpoints.assign(self.session, self.graph.vgg_params, vgg_weights, "the VGG19 file")
        if saved:
            self._restore(*saved)
        elif self.config.TRAIN.init_weights:
            path = self.config.TRAIN.init_weights
            if path == "pretrained":
                path = checkpoints.pretrained("g_srresnet.npz")
            arrays, _ = checkpoints.read_npz(path)
            checkpoints.assign(self.session, self.graph.g_params, arrays, path)
            averages = {average: arrays[name] for name, average in self.graph.g_average.items()}
            checkpoints.load(self.session, averages)
            log.info("Generator starts from %s", path)

    def _restore(self, path: Path, meta: dict) -> None:
        if path.name == STATE_FILE:
            checkpoints.assign(self.session, self.state_variables, checkpoints.read_npz(path)[0], path)
        else:
            try:
                tf.compat.v1.train.Saver(self.state_variables).restore(self.session, str(path))
            except (tf.errors.OpError, ValueError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"{path} does not fit this network: {reason}") from None
        self.step, self.sums = meta["step"], meta["sums"]
        if self.step >= self.schedule.total_steps:
            log.info("The run in %s is finished; --restart begins anew", path)
        else:
            phase, epoch, epoch_step = self.schedule.position(self.step)
            log.info("Continuing %s: %s epoch %d, step %d", path, phase, epoch + 1, epoch_step)

    # -- the loop

    def loop(self) -> None:
        """Runs to the end of the schedule, or saves and exits with 128 + signal on Ctrl-C or SIGTERM."""
        batches = self._batches()
        with runtime.StopSignal() as stop, TrainingLog(self.checkpoint_dir, self.step) as training_log:
            while self.step < self.schedule.total_steps:
                self._epoch(batches, stop)
                if self.schedule.position(self.step)[2] == 0:
                    self._end_epoch(training_log)
                if stop.signal:
                    self.save_state()
                    batches.close()
                    log.info("Stopped and saved; the same command continues")
                    raise SystemExit(128 + stop.signal)
        batches.close()
        log.info("Finished")

    def _batches(self):
        """HR batches from the current step on; passes over the data follow each other without end."""
        data_pass, first = divmod(self.step, self.dataset.steps_per_epoch)
        while True:
            yield from self.dataset.batches(data_pass, first)
            data_pass, first = data_pass + 1, 0

    def _epoch(self, batches, stop) -> None:
        phase, epoch, done = self.schedule.position(self.step)
        total = self.schedule.steps_per_epoch
        if done == 0:
            self.sums = {}
        bar = tqdm(
            total=total,
            initial=done,
            desc=f"{phase} {epoch + 1}/{self.schedule.epochs[phase]}",
            unit="step",
            disable=not sys.stderr.isatty(),
            leave=False,
            dynamic_ncols=True,
        )
        fetches = self.graph.steps[phase], self.graph.losses[phase]
        rate = None
        with bar:
            for _ in range(done, total):
                if time.monotonic() - self.saved_at > 60 * self.config.TRAIN.save_minutes:
                    self.save_state()
                started = time.perf_counter()
                if rate != (now := self.schedule.learning_rate(self.step)):
                    rate = now
                    checkpoints.load(self.session, {self.graph.lr_v: rate})
                feed = {self.graph.t_target_image: next(batches)}
                _, values = self.session.run(fetches, feed)
                self.step += 1
                for name, value in values.items():
                    if not np.isfinite(value):
                        raise UserError(
                            f"{name} became {value} in step {self.step}: the last good checkpoint is kept "
                            f"in {self.checkpoint_dir}; a lower TRAIN.lr_init may help"
                        )
                    self.sums[name] = self.sums.get(name, 0.0) + float(value)
                self.sums["seconds"] = self.sums.get("seconds", 0.0) + time.perf_counter() - started
                bar.update()
                bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()})
                if stop.signal:
                    return

    def _end_epoch(self, training_log: TrainingLog) -> None:
        phase, epoch, _ = self.schedule.position(self.step - 1)
        steps = self.schedule.steps_per_epoch
        means = {name: total / steps for name, total in self.sums.items()}
        line = {
            "phase": phase,
            "epoch": epoch + 1,
            "step": self.step,
            "learning_rate": self.schedule.learning_rate(self.step - 1),
            **means,
            "seconds": self.sums["seconds"],
        }
        last = self.step == self.schedule.phase_end(phase)
        due = (epoch + 1) % self.config.TRAIN.save_every == 0 or last
        if due and phase != DISCRIMINATOR:
            line["psnr_db"] = self.sample(phase, epoch + 1)
            self.save_weights(phase)
        training_log.write(line, steps, self.schedule.phase_end(phase) - self.step)
        if "psnr_db" in line:
            training_log.plot(self.samples_dir / "learning_curve.png")
        if due:
            self.save_state()

    # -- what a run leaves behind

    def upscale(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, h, w, 3] -> [N, 4h, 4w, 3] by the generator as it is now, in inference mode."""
        # Two pictures at least: for one, oneDNN without AVX-512 falls to a kernel ten times as slow.
        batch = images if len(images) > 1 else np.repeat(images, 2, axis=0)
        return self.session.run(self.graph.output_image, {self.graph.input_image: batch})[: len(images)]

    def sample(self, phase: str, epoch: int) -> float:
        """Writes LR | bicubic | SR | HR of fixed patches; returns the validation picture's PSNR, dB."""
        folder = self.samples_dir / ("srgan_ginit" if phase == PRETRAIN else "srgan_gan")
        weights = checkpoints.fetch(self.session, self.graph.g_params)
        self._load_weights(self._average_weights())
        hr = self.dataset.fixed_patches(SAMPLE_PATCHES)
        lr = np.stack([bicubic.downsample(patch) for patch in hr])
        # named after the note's patch sizes, whatever the recipe's
        write_rgb(folder / "_train_sample_96.png", np.hstack(lr))
        write_rgb(folder / "_train_sample_384.png", np.hstack(hr))
        rows = [
            np.hstack([enlarge(low, SCALE), bicubic.upsample(low), sr, high])
            for low, sr, high in zip(lr, self.upscale(lr), hr)
        ]
        write_rgb(folder / f"train_{epoch}.png", np.vstack(rows))
        valid_sr = self.upscale(self.valid_lr[None])[0]
        self._load_weights(weights)
        return metrics.psnr_y(valid_sr, self.valid_hr)

    def _average_weights(self) -> dict[str, np.ndarray]:
        """The generator's weights for use: their moving average if TRAIN.ema_decay asks for one."""
        if self.graph.g_average:
            return self.session.run(self.graph.g_average)
        return checkpoints.fetch(self.session, self.graph.g_params)

    def _load_weights(self, arrays: dict[str, np.ndarray]) -> None:
        checkpoints.assign(self.session, self.graph.g_params, arrays, "the moving average")

    def _meta(self) -> dict:
        phase, epoch, epoch_step = self.schedule.position(max(0, self.step - 1))
        return {
            "recipe": self.recipe,
            "phase": phase,
            "epoch": epoch + (epoch_step + 1) // self.schedule.steps_per_epoch,
            "step": self.step,
            "vgg_features": self.vgg_features,
            "config": self.config,
        }

    def save_weights(self, phase: str) -> None:
        """Writes the weights for users: the generator's, and in the adversarial phase D's too."""
        arrays = self._average_weights()
        checkpoints.require_finite(arrays)
        meta = {**self._meta(), "network": "SRGAN_g", "arguments": self.config.MODEL.generator}
        name = "g_srgan_init.npz" if phase == PRETRAIN else "g_srgan.npz"
        checkpoints.write_npz(self.checkpoint_dir / name, arrays, meta)
        if phase == ADVERSARIAL:
            arrays = checkpoints.fetch(self.session, self.graph.d_params)
            meta = {
                **self._meta(),
                "network": "SRGAN_d",
                "arguments": self.config.MODEL.discriminator,
            }
            checkpoints.write_npz(self.checkpoint_dir / "d_srgan.npz", arrays, meta)

    def save_state(self) -> None:
        """Writes all that a continued run needs to end with the same bits as an uninterrupted one."""
        arrays = checkpoints.fetch(self.session, self.state_variables)
        checkpoints.require_finite(arrays)
        meta = {**self._meta(), "sums": self.sums}
        checkpoints.write_npz(self.checkpoint_dir / STATE_FILE, arrays, meta)
        if self.saver:
            prefix = self.checkpoint_dir / SAVER_DIR / "model.ckpt"
            with atomic(f"{prefix}-{self.step}.json") as path:
                path.write_text(json.dumps(meta))
            self.saver.save(self.session, str(prefix), self.step, write_meta_graph=False)
        self.saved_at = time.monotonic()
