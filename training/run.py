"""Training: MSE pretraining, then adversarial training, to the end or to a stop that loses nothing."""

from __future__ import annotations

import logging
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from common.errors import UserError
from common.files import held, require_writable
from common.settings import log_config
from images import photos
from tf1 import checkpoints, distribution, runtime
from training import continuation
from training.dataset import Dataset
from training.graph import TrainingGraph, build_training_graph, least_memory
from training.preparation import init_weights, require_memory, vgg_features
from training.report import Report
from training.samples import Sampler, within_memory
from training.schedule import Schedule
from training.state import RunState

log = logging.getLogger("srgan")

MOST_SKIPS = 10  # steps in a row whose losses or gradients are not finite
LOWER_RATE = 0.25  # factor on the learning rate after so many
SETTLED_STEP = 4  # from 0; the first ones optimise the graph
WORDS_EVERY_SECONDS = 60  # where there is no progress bar


def train(config, checkpoint_dir: Path, samples_dir: Path, *, recipe: str, restart: bool) -> None:
    """Trains by `config`; files in, files out. Continues what is in `checkpoint_dir` unless `restart`."""
    checkpoint_dir, samples_dir = Path(checkpoint_dir), Path(samples_dir)
    require_memory(least_memory(config.TRAIN, config.MODEL.generator))
    valid = within_memory(*photos.validation_pair(**config.VALID))
    vgg_weights, features = vgg_features(config)
    start_weights = init_weights(config)
    log.info("Loading training pictures")
    cluster = distribution.connect(config.RUNTIME, runtime.session_config(config.RUNTIME))
    _require_divisible(config.TRAIN.batch_size, cluster.replicas)
    known = continuation.read_listing(checkpoint_dir)
    dataset = Dataset(
        config.TRAIN.hr_img_path,
        patch_size=config.TRAIN.hr_patch_size,
        batch_size=config.TRAIN.batch_size,
        seed=config.TRAIN.seed,
        augment=config.TRAIN.augment,
        exposures=config.TRAIN.exposures,
        degradation=config.TRAIN.degradation,
        max_bad_images=config.TRAIN.max_bad_images,
        known=known,
        skip=(checkpoint_dir, samples_dir),
    )
    dtype = runtime.compute_dtype(config.RUNTIME.precision)
    made_with = {
        "vgg_features": features,
        "precision": dtype.name,
        "device": runtime.describe_device(),
        "pictures": continuation.fingerprint(dataset.listing),
    }
    if cluster.is_chief:
        require_writable(checkpoint_dir, "--checkpoint-dir")
        require_writable(samples_dir, "--samples-dir")
    with held(checkpoint_dir) if cluster.is_chief else nullcontext():
        saved = None if restart or not cluster.is_chief else continuation.saved_run(checkpoint_dir)
        if saved:
            continuation.check_continuation(
                saved, config, dataset.steps_per_epoch, dataset.listing, known, made_with
            )
        elif cluster.is_chief and not restart:
            continuation.require_no_weights(checkpoint_dir)
        log.info("Building graph")
        graph = new_graph(config, dtype, cluster)
        with (
            graph.t_image.graph.as_default(),
            cluster.strategy.scope(),
            tf.compat.v1.Session(cluster.target, config=cluster.config) as session,
        ):
            if cluster.hosts > 1:
                cluster.require_agreement(session, continuation.facts(config, made_with, cluster.replicas))
            sampler = Sampler(graph, session, dataset, valid, samples_dir)
            schedule = Schedule(config.TRAIN, config.TRAIN.steps_per_epoch or dataset.steps_per_epoch)
            state = RunState(config, recipe, graph, session, schedule, checkpoint_dir, made_with, cluster)
            state.start(vgg_weights, start_weights, saved)
            if cluster.is_chief:
                if restart:  # only now, when nothing is left that could refuse the new run
                    continuation.set_aside_run(checkpoint_dir)
                log_config(checkpoint_dir / "config.json", config, recipe)
                continuation.write_listing(checkpoint_dir, dataset.listing)
            Run(config, graph, session, dataset, sampler, state, restart).loop()


def new_graph(config, dtype: tf.DType, cluster: distribution.Cluster) -> TrainingGraph:
    """The training step of `config` in a graph of its own."""
    with tf.Graph().as_default(), cluster.strategy.scope():
        tf.compat.v1.set_random_seed(config.TRAIN.seed)
        return build_training_graph(config, dtype, cluster)


def _require_divisible(batch_size: int, replicas: int) -> None:
    if batch_size % replicas:
        raise UserError(
            f"TRAIN.batch_size={batch_size} cannot be shared among {replicas} devices: use a multiple of "
            f"{replicas}, or fewer devices (RUNTIME.devices)"
        )


class Run:
    """One training run: a session, its files, and where it is."""

    def __init__(self, config, graph, session, dataset, sampler, state: RunState, restarted: bool):
        self.config, self.graph, self.session = config, graph, session
        self.dataset, self.sampler, self.state = dataset, sampler, state
        self.schedule, self.restarted = state.schedule, restarted
        self.cluster = state.cluster
        self.steps_of_phase: dict[str, int] = {}  # that this process has done
        self.stop = 0  # the signal that all hosts know of
        self.in_step = False

    # -- the loop

    def loop(self) -> None:
        """Runs to the end of the schedule, or saves and exits with 128 + signal on Ctrl-C or SIGTERM.

        Whatever ends it, the state is saved if it is of use.
        """
        self._say_start()
        report = Report(self.state, self.sampler) if self.cluster.is_chief else None
        with runtime.StopSignal() as self.signals, report or nullcontext():
            if self.state.saved_step < 0:
                self.state.save()  # so that there is always a state to go back to, and the disk is tried
            elif report and report.is_lacking():
                report.write()
            self.batches = self._batches()
            try:
                while self.state.step < self.schedule.total_steps:
                    if not self._epoch():
                        self._go_back(report)
                    elif self.schedule.position(self.state.step)[2] == 0:
                        self._end_epoch(report)
                    if self._is_asked_to_stop() and not self.state.has_gone_wrong:
                        self.state.save()
                        if report:
                            report.write_weights()
                        but = ", without --restart" if self.restarted else ""
                        self.state.say(f"Stopped and saved; the same command continues{but}")
                        raise SystemExit(128 + self.stop)
            except Exception as error:
                self._save_after(error)
                if self.in_step and self.cluster.hosts > 1 and isinstance(error, tf.errors.OpError):
                    raise UserError(
                        "another host has stopped or cannot be reached: start all of them again, and the "
                        f"run goes on from step {self.state.saved_step}"
                    ) from error
                raise
            finally:
                self.batches.close()
            if report and report.owed:
                raise UserError(
                    "the run is finished, but its weights could not be written: make room, repeat"
                )
        self.state.say("Finished")

    def _say_start(self) -> None:
        epochs = ", ".join(f"{epochs} {phase}" for phase, epochs in self.schedule.epochs.items() if epochs)
        self.state.say(
            f"Training on {self.state.made_with['device']} in {self.state.made_with['precision']}: "
            f"{self.dataset.num_images} pictures, {self.schedule.steps_per_epoch} steps per epoch, "
            f"{self.schedule.total_steps} steps in all ({epochs} epochs)"
        )

    def _is_asked_to_stop(self) -> bool:
        """Of several hosts all stop after the same step, in which each has told the others."""
        if self.cluster.hosts == 1:
            self.stop = self.signals.signal
        return bool(self.stop)

    def _batches(self):
        """This host's part of the batches from the current step on; passes follow each other without end."""
        data_pass, first = divmod(self.state.step, self.dataset.steps_per_epoch)
        part = self.cluster.host, self.cluster.hosts
        while True:
            yield from self.dataset.batches(data_pass, first, part)
            data_pass, first = data_pass + 1, 0

    def _epoch(self) -> bool:
        """Steps to the end of the epoch, or to a stop; False if the run has to go back instead."""
        phase, epoch, done = self.schedule.position(self.state.step)
        total = self.schedule.steps_per_epoch
        if done == 0:
            self.state.sums = {}
        name, said_at = f"{phase} epoch {epoch + 1} of {self.schedule.epochs[phase]}", time.monotonic()
        has_bar = self.cluster.is_chief and sys.stderr.isatty()
        rate, form = None, {"unit": "step", "leave": False, "dynamic_ncols": True}
        with tqdm(total=total, initial=done, desc=name, disable=not has_bar, **form) as bar:
            for step in range(done, total):
                if time.monotonic() - self.state.saved_at > 60 * self.config.TRAIN.save_minutes:
                    self.state.save()
                if not has_bar and time.monotonic() - said_at > WORDS_EVERY_SECONDS:
                    said_at = time.monotonic()
                    log.info("%s: step %d of %d", name, step, total)
                if rate != (now := self.state.rate_factor * self.schedule.learning_rate(self.state.step)):
                    rate = now
                    checkpoints.load(self.session, {self.graph.lr_v: rate})
                if not self._step(phase, bar):
                    return False
                if self._is_asked_to_stop() and not self.state.has_gone_wrong:
                    break
        return True

    def _step(self, phase: str, bar: tqdm) -> bool:
        """One step; False if the run has to go back."""
        started = time.perf_counter()
        graph, (lr, hr) = self.graph, next(self.batches)
        fetches = graph.steps[phase], graph.losses[phase], graph.finite[phase], graph.stops
        feed = {graph.t_image: lr, graph.t_target_image: hr}
        feed = {**feed, graph.t_stop: float(bool(self.signals.signal))}
        self.in_step = True
        _, values, finite, stops = self.session.run(fetches, feed)
        self.in_step = False
        self.stop = (self.signals.signal or signal.SIGTERM) if stops else 0
        self.state.step += 1
        self.state.sums["seconds"] = self.state.sums.get("seconds", 0.0) + time.perf_counter() - started
        if all(finite) and np.isfinite(list(values.values())).all():
            self.state.skips_in_row = 0
            for name, value in {**values, "counted": 1}.items():
                self.state.sums[name] = self.state.sums.get(name, 0.0) + float(value)
        else:
            self.state.skips_in_row += 1
            self.state.event(
                f"step {self.state.step} skipped: its losses or gradients are not finite ({values})"
            )
            is_last = self.state.step == self.schedule.total_steps
            if self.state.skips_in_row >= MOST_SKIPS or is_last:
                return False
        self._say_duration(phase, time.perf_counter() - started)
        bar.update()
        bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()})
        return True

    def _say_duration(self, phase: str, seconds: float) -> None:
        """Once in each phase, by a step that no longer prepares anything."""
        left = self.schedule.phase_end(phase) - self.state.step
        if self.steps_of_phase.setdefault(phase, 0) == SETTLED_STEP and left * seconds > 60:
            log.info(
                "About %.2g s a step: %s ends in %s", seconds, phase, tqdm.format_interval(left * seconds)
            )
        self.steps_of_phase[phase] += 1

    def _end_epoch(self, report: Report | None) -> None:
        if self.schedule.leaves_weights(self.state.step):
            self.state.save()
        if report:
            report.write()

    def _go_back(self, report: Report | None) -> None:
        """To the last saved state, once, with a lower rate; then such steps end the run."""
        if self.state.rate_factor < 1:
            rate = self.config.TRAIN.lr_init / 10
            raise UserError(
                f"the last {self.state.skips_in_row} steps were not finite, at {LOWER_RATE:g} of the "
                f"learning rate too: begin anew with --restart --set TRAIN.lr_init={rate:g}; what was "
                "saved will be kept in "
                f"{self.state.folder / continuation.REPLACED_DIR}"
            )
        skipped_at = self.state.step
        self.state.restore(continuation.saved_run(self.state.folder) if report else None)
        self.state.rate_factor, self.state.skips_in_row = LOWER_RATE, 0
        self.state.say(
            f"WARNING: the last steps up to step {skipped_at} were not finite: "
            f"back to step {self.state.step}, with {LOWER_RATE:g} of the learning rate"
        )
        if report:
            report.log.go_back(self.state.step)
        self.state.save()
        self.batches.close()
        self.batches = self._batches()

    def _save_after(self, error: Exception) -> None:
        """Keeps what was done before an error that ends the run, unless it may have left half a step."""
        self.state.event(f"step {self.state.step}: {type(error).__name__}: {error}")
        if self.state.saved_step < self.state.step and not self.state.has_gone_wrong and not self.in_step:
            try:
                self.state.save()
                self.state.say(f"Saved step {self.state.step}")
            except Exception as second:
                kept = f"step {self.state.saved_step} is kept"
                self.state.say(f"Step {self.state.step} could not be saved ({second}); {kept}")
