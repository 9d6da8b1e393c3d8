"""Training: section 6.2.2 of the note. MSE pretraining, then adversarial training, each two nested loops."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path

import tensorflow as tf

from common.files import held, require_writable
from common.settings import log_config
from images.photos import validation_pair
from tf1 import distribution, runtime
from training import resume
from training.graph import build, least_memory
from training.preparation import (
    assign_weights,
    init_weights,
    require_memory,
    training_data,
    vgg_features,
)
from training.report import Report, within_memory
from training.run import Run
from training.schedule import ADVERSARIAL, DISCRIMINATOR, PRETRAIN, Schedule

log = logging.getLogger("srgan")


def train(config, checkpoint_dir: Path, samples_dir: Path, *, recipe: str, restart: bool) -> None:
    """Trains by `config`; files in, files out. Continues what is in `checkpoint_dir` unless `restart`."""
    folder, samples_dir, settings = Path(checkpoint_dir), Path(samples_dir), config.TRAIN
    require_memory(least_memory(settings, config.MODEL.generator))
    vgg_weights, features = vgg_features(config)
    cluster = distribution.connect(config.RUNTIME, runtime.session_config(config.RUNTIME))
    cluster.require_divisible(settings.batch_size)
    if cluster.is_chief:
        require_writable(folder, "--checkpoint-dir")
        require_writable(samples_dir, "--samples-dir")
    with held(folder) if cluster.is_chief else nullcontext():
        saved = resume.find_saved(folder) if cluster.is_chief and not restart else None
        if saved:
            resume.require_same_settings(saved, config)
        start_weights = {} if saved else init_weights(config)
        log.info("Loading training images")
        scale = config.MODEL.generator.scale
        data = training_data(settings, scale, skip=(folder, samples_dir))
        schedule = Schedule(settings, settings.steps_per_epoch or data.steps_per_epoch)
        dtype = runtime.compute_dtype(config.RUNTIME.precision)
        facts = {"images": resume.fingerprint(data.listing), "vgg_features": features}
        facts |= {"precision": dtype.name, "device": runtime.describe_device()}
        if saved:
            resume.require_same_facts(saved, schedule, facts)
        valid = within_memory(*validation_pair(scale, **config.VALID))

        log.info("Building graph")
        g = new_graph(config, dtype, cluster)
        with g.t_image.graph.as_default(), cluster.strategy.scope(), cluster.session() as sess:
            cluster.require_agreement(sess, {"settings": resume.numeric_settings(config), **facts})
            report = None
            if cluster.is_chief:
                if restart:  # only now, when nothing is left that could refuse the new run
                    resume.archive(folder)
                report = Report(folder, samples_dir, saved.meta["step"] if saved else 0)
                report.show(lambda lr: sess.run(g.sr_test, {g.t_test_image: lr}), data.fixed_patches, valid)
                log_config(folder / "config.json", config, recipe)
            meta = {"recipe": recipe, "config": config, "facts": facts}
            run = Run(g, sess, data, report, schedule, cluster, folder=folder, meta=meta)
            sess.run(tf.compat.v1.global_variables_initializer())
            assign_weights(sess, g, vgg_weights, start_weights, settings)
            run.restore(saved)
            run.say_start()
            loop(run, sess, g, cluster.feed)


def loop(run: Run, sess: tf.compat.v1.Session, g, feed) -> None:
    """The steps of the run that are left. feed: what to feed of a batch, (graph, LR, HR) -> dict."""
    with run:
        for _ in run.epochs(PRETRAIN):
            for b_imgs_96, b_imgs_384 in run.batches():
                fetches = [g.g_init_losses, g.g_init_finite, g.g_optim_init]
                losses, finite, _ = sess.run(fetches, feed(g, b_imgs_96, b_imgs_384))
                run.step(losses, finite)
            run.end_epoch()

        for _ in run.epochs(DISCRIMINATOR):
            for b_imgs_96, b_imgs_384 in run.batches():
                losses, finite, _ = sess.run(
                    [g.d_losses, g.d_finite, g.d_optim], feed(g, b_imgs_96, b_imgs_384)
                )
                run.step(losses, finite)
            run.end_epoch()

        for _ in run.epochs(ADVERSARIAL):
            for b_imgs_96, b_imgs_384 in run.batches():
                losses, finite, _ = sess.run(
                    [g.g_losses, g.finite, g.g_optim], feed(g, b_imgs_96, b_imgs_384)
                )
                run.step(losses, finite)
            run.end_epoch()
        run.finish()


def new_graph(config, dtype: tf.DType, cluster: distribution.Cluster):
    """The training graph of `config` in a tf.Graph of its own."""
    with tf.Graph().as_default(), cluster.strategy.scope():
        tf.compat.v1.set_random_seed(config.TRAIN.seed)
        return cluster.build(lambda: build(config, dtype))
