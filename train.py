"""Training: MSE pretraining, then adversarial training; samples, log, checkpoints, exact resume."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.python.client import timeline
from tqdm import tqdm

import bicubic
import checkpointing
import metrics
import runtime
import vgg19
from config import log_config
from dataset import Dataset, validation_image
from graph import build_training_graph
from model import SCALE
from schedule import ADVERSARIAL, DISCRIMINATOR, PRETRAIN, Schedule
from training_log import TrainingLog
from utils import UserError, image_grid, write_image

log = logging.getLogger("srgan")

STATE_FILE = "srgan_state.npz"
SAMPLE_PATCHES = 4


def train(config, checkpoint_dir: Path, samples_dir: Path, *, recipe: str, restart: bool) -> None:
    """Trains by `config`; files in, files out. Continues what is in `checkpoint_dir` unless `restart`."""
    log.info("Loading training pictures")
    dataset = Dataset(
        config.TRAIN.hr_img_path,
        patch_size=config.TRAIN.hr_patch_size,
        batch_size=config.TRAIN.batch_size,
        seed=config.TRAIN.seed,
        crops_per_image=config.TRAIN.crops_per_image or "auto",
        augment=config.TRAIN.augment,
        exposures=config.TRAIN.exposures,
        cache_mb=config.TRAIN.cache_mb,
    )
    valid_hr = validation_image(config.VALID.hr_img_path)
    vgg_weights = _vgg_weights(config)
    vgg_features = (config.VGG.layer if vgg_weights else "random") if config.TRAIN.n_epoch else "none"
    checkpoint_dir = Path(checkpoint_dir)
    state = checkpoint_dir / STATE_FILE
    if state.exists() and not restart:
        checkpointing.check_continuation(state, config, dataset.steps_per_epoch, vgg_features)
    try:
        checkpoint_dir.mkdir(parents=True, exist_ok=True)
        log_config(checkpoint_dir / "config.json", config)
    except OSError as error:
        raise UserError(f"--checkpoint-dir {checkpoint_dir} cannot be written: {error}") from None
    with tf.Graph().as_default():
        tf.compat.v1.set_random_seed(config.TRAIN.seed)
        log.info("Building graph")
        dtype = runtime.compute_dtype(config.RUNTIME.precision)
        graph = build_training_graph(config, dtype)
        with tf.compat.v1.Session(config=runtime.session_config(config.RUNTIME)) as session:
            folders = checkpoint_dir, Path(samples_dir)
            run = Run(config, recipe, graph, session, dataset, valid_hr, folders, vgg_features)
            run.start(vgg_weights, restart)
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

    def __init__(self, config, recipe, graph, session, dataset, valid_hr, folders, vgg_features):
        self.config, self.recipe = config, recipe
        self.graph, self.session, self.dataset = graph, session, dataset
        self.checkpoint_dir, self.samples_dir = folders
        steps_per_epoch = config.TRAIN.steps_per_epoch or dataset.steps_per_epoch
        self.schedule = Schedule(config.TRAIN, steps_per_epoch)
        self.valid_hr, self.valid_lr = valid_hr, bicubic.downsample(valid_hr)
        self.state_path = self.checkpoint_dir / STATE_FILE
        self.step = 0
        self.sums: dict[str, float] = {}  # of this epoch's losses and seconds, so far
        self.vgg_features = vgg_features  # the layer, 'random', or 'none' without adversarial training
        self.state_variables = [v for v in tf.compat.v1.global_variables() if v not in set(graph.vgg_params)]
        self.saver = tf.compat.v1.train.Saver(self.state_variables) if config.RUNTIME.saver else None
        self.saved_at = time.monotonic()
        self.traces_left = config.RUNTIME.trace_steps

    # -- start and continue

    def start(self, vgg_weights: dict[str, np.ndarray], restart: bool) -> None:
        """Initialises every variable, then restores the run in `checkpoint_dir` if there is one."""
        random = self.state_variables if vgg_weights else tf.compat.v1.global_variables()
        self.session.run(tf.compat.v1.variables_initializer(random))
        if vgg_weights:
            arrays = {f"VGG19/{name}": array for name, array in vgg_weights.items()}
            checkpointing.assign(self.session, self.graph.vgg_params, arrays, "the VGG19 file")
        saver_path = tf.train.latest_checkpoint(str(self.checkpoint_dir / "saver"))
        if restart:
            self.state_path.unlink(missing_ok=True)  # or a stop before the first save would revive it
            log.info("Starting anew (--restart)")
        elif self.state_path.exists():
            self._restore()
        elif self.saver and saver_path:
            self._restore_saver(saver_path)
        elif self.config.TRAIN.init_weights:
            path = self.config.TRAIN.init_weights
            if path == "pretrained":
                path = checkpointing.PRETRAINED_DIR / "g_srresnet.npz"
            arrays, _ = checkpointing.read_npz(path)
            checkpointing.assign(self.session, self.graph.g_params, arrays, path)
            log.info("Generator starts from %s", path)

    def _restore(self) -> None:
        arrays, meta = checkpointing.read_npz(self.state_path)
        checkpointing.assign(self.session, self.state_variables, arrays, self.state_path)
        self.step, self.sums = meta["step"], meta["sums"]
        self._say_continued(self.state_path)

    def _restore_saver(self, path: str) -> None:
        try:
            self.saver.restore(self.session, path)
        except (tf.errors.OpError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} does not fit this network: {reason}") from None
        self.step = int(self.session.run(self.graph.global_step))
        self._say_continued(path)

    def _say_continued(self, path) -> None:
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
        fetches = [self.graph.steps[phase], self.graph.losses[phase]]
        rates = None
        with bar:
            for _ in range(done, total):
                if time.monotonic() - self.saved_at > 60 * self.config.TRAIN.save_minutes:
                    self.save_state()
                started = time.perf_counter()
                if rates != (now := self.schedule.learning_rates(self.step)):
                    rates = now
                    variables = self.graph.lr_v, self.graph.d_lr_v
                    checkpointing.load(self.session, dict(zip(variables, rates)))
                _, values = self._run(fetches, {self.graph.t_target_image: next(batches)})
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
            "learning_rate": self.schedule.learning_rates(self.step - 1)[0],
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

    def _run(self, fetches, feed):
        """session.run; the first RUNTIME.trace_steps steps after three warm ones are traced."""
        if not self.traces_left or self.step < 3:
            return self.session.run(fetches, feed)
        self.traces_left -= 1
        metadata = tf.compat.v1.RunMetadata()
        options = tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE)
        values = self.session.run(fetches, feed, options, metadata)
        path = self.checkpoint_dir / f"timeline_{self.step}.json"
        path.write_text(timeline.Timeline(metadata.step_stats).generate_chrome_trace_format())
        log.info("Wrote %s: open it in chrome://tracing", path)
        return values

    # -- what a run leaves behind

    def upscale(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, h, w, 3] -> [N, 4h, 4w, 3] by the generator as it is now, in inference mode."""
        # Two pictures at least: for one, oneDNN without AVX-512 falls to a kernel ten times as slow.
        batch = images if len(images) > 1 else np.repeat(images, 2, axis=0)
        return self.session.run(self.graph.t_test_output, {self.graph.t_test_image: batch})[: len(images)]

    def sample(self, phase: str, epoch: int) -> float:
        """Writes LR | bicubic | SR | HR of fixed patches; returns the validation picture's PSNR, dB."""
        folder = self.samples_dir / ("srgan_ginit" if phase == PRETRAIN else "srgan_gan")
        weights = checkpointing.fetch(self.session, self.graph.g_params)
        self._load_weights(self._average_weights())
        hr = self.dataset.fixed_patches(SAMPLE_PATCHES)
        lr = np.stack([bicubic.downsample(patch) for patch in hr])
        # named after the note's patch sizes, whatever the recipe's
        write_image(folder / "_train_sample_96.png", image_grid(lr, columns=len(lr)))
        write_image(folder / "_train_sample_384.png", image_grid(hr, columns=len(hr)))
        rows = zip(lr, self.upscale(lr), hr)
        sheet = [
            picture
            for low, sr, high in rows
            for picture in (low.repeat(SCALE, 0).repeat(SCALE, 1), bicubic.upsample(low), sr, high)
        ]
        write_image(folder / f"train_{epoch}.png", image_grid(np.stack(sheet), columns=4))
        valid_sr = self.upscale(self.valid_lr[None])[0]
        self._load_weights(weights)
        return metrics.psnr_y(valid_sr, self.valid_hr)

    def _average_weights(self) -> dict[str, np.ndarray]:
        """The generator's weights for use: their moving average if TRAIN.ema_decay asks for one."""
        if self.graph.g_average:
            return self.session.run(self.graph.g_average)
        return checkpointing.fetch(self.session, self.graph.g_params)

    def _load_weights(self, arrays: dict[str, np.ndarray]) -> None:
        checkpointing.assign(self.session, self.graph.g_params, arrays, "the moving average")

    def _weights_path(self, phase: str) -> Path:
        name = "g_srgan_init.npz" if phase == PRETRAIN else "g_srgan.npz"
        return self.checkpoint_dir / name

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
        checkpointing.require_finite(arrays)
        meta = {**self._meta(), "network": "SRGAN_g", "arguments": self.config.MODEL.generator}
        checkpointing.write_npz(self._weights_path(phase), arrays, meta)
        if phase == ADVERSARIAL:
            arrays = checkpointing.fetch(self.session, self.graph.d_params)
            meta = {
                **self._meta(),
                "network": "SRGAN_d",
                "arguments": self.config.MODEL.discriminator,
            }
            checkpointing.write_npz(self.checkpoint_dir / "d_srgan.npz", arrays, meta)

    def save_state(self) -> None:
        """Writes all that a continued run needs to end with the same bits as an uninterrupted one."""
        arrays = checkpointing.fetch(self.session, self.state_variables)
        checkpointing.require_finite(arrays)
        checkpointing.write_npz(self.state_path, arrays, {**self._meta(), "sums": self.sums})
        if self.saver:
            prefix = str(self.checkpoint_dir / "saver" / "model.ckpt")
            self.saver.save(self.session, prefix, self.step, write_meta_graph=False)
        self.saved_at = time.monotonic()
