"""Prepares a run: data, VGG19's weights, initial weights, graph and session."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

import vgg19
from common.errors import UserError
from common.files import held, require_writable
from common.machine import memory_limit, usable_cores
from common.settings import log_config
from images.photos import validation_pair
from model import layout
from tf1 import checkpoints, distribution, runtime
from training import resume
from training.dataset import Dataset
from training.graph import build
from training.report import Report, within_memory
from training.run import Run
from training.schedule import Schedule

log = logging.getLogger("srgan")


@contextlib.contextmanager
def prepared_run(config, folder: Path, samples_dir: Path, recipe: str, restart: bool) -> Iterator[Run]:
    """Yields a new or continued run with its graph, session and data.

    Nothing is written before VGG19's weights are found.
    """
    require_memory(config.TRAIN, config.MODEL.generator)
    vgg_weights, features = load_vgg_weights(config)
    cluster = distribution.connect(config.RUNTIME)
    cluster.require_divisible(config.TRAIN.batch_size)
    if cluster.is_chief:
        require_writable(folder, "--checkpoint-dir")
        require_writable(samples_dir, "--samples-dir")
    with held(folder) if cluster.is_chief else contextlib.nullcontext():
        saved = resume.find_saved(folder) if cluster.is_chief and not restart else None
        if saved:
            resume.require_same_settings(saved, config)
        weights = {} if saved else init_weights(config)
        scale, dtype = config.MODEL.generator.scale, runtime.compute_dtype(config.RUNTIME.precision)
        log.info("Loading training images")
        data = training_data(config.TRAIN, scale, skip=(folder, samples_dir))
        schedule = Schedule(config.TRAIN, config.TRAIN.steps_per_epoch or data.steps_per_epoch)
        facts = {"images": resume.fingerprint(data.listing), "vgg_features": features}
        facts |= {"precision": dtype.name, "device": runtime.describe_device()}
        if saved:
            resume.require_same_facts(saved, schedule, facts)
        valid = within_memory(*validation_pair(scale, **config.VALID))

        # Section 6.2.2 of the note begins here: a session, initial weights, VGG19's weights
        log.info("Building graph")
        g = new_graph(config, dtype, cluster)
        session = tf.compat.v1.Session(cluster.target, g.t_image.graph, cluster.session_config)
        with session as sess, cluster.strategy.scope():
            cluster.require_agreement(sess, {"settings": resume.numeric_settings(config), **facts})
            report = None
            if cluster.is_chief:
                if restart:  # after all checks that could refuse the new run
                    resume.archive(folder)
                report = Report(
                    *(folder, samples_dir, saved.meta["step"] if saved else 0),
                    upscale=lambda lr: sess.run(g.sr_test, {g.t_test_image: lr}),
                    fixed_patches=data.fixed_patches,
                    valid=valid,
                )
                log_config(folder / "config.json", config, recipe)
            meta = {"recipe": recipe, "config": config, "facts": facts}
            run = Run(g, sess, data, report, schedule, cluster, folder=folder, meta=meta)
            # Later assignments override: random weights, VGG19's and TRAIN.init_weights, the saved state
            sess.run(tf.compat.v1.global_variables_initializer())
            variables = {variable.op.name: variable for variable in tf.compat.v1.global_variables()}
            weights |= vgg_weights
            checkpoints.set_variables(sess, {variables[name]: weights[name] for name in weights})
            sess.run(g.reset_average)
            run.restore(saved)
            with run:
                yield run


def new_graph(config, dtype: tf.DType, cluster: distribution.Cluster):
    """Builds the training graph of `config` in a new tf.Graph."""
    with tf.Graph().as_default(), cluster.strategy.scope():
        tf.compat.v1.set_random_seed(config.TRAIN.seed)
        return cluster.build(lambda: build(config, dtype))


def load_vgg_weights(config) -> tuple[dict[str, np.ndarray], str]:
    """Returns (VGG19 weights, their name). The name is the layer and a hash of the weights.

    Returns ({}, 'none') without adversarial training, and ({}, 'random') if there are no weights and
    `VGG.on_missing` allows random features.
    """
    if config.VGG.layer not in vgg19.layer_names():
        raise UserError(f"VGG.layer must be one of {', '.join(vgg19.layer_names())}")
    if not config.TRAIN.n_epoch:
        return {}, "none"
    try:
        path = vgg19.find_weights(config.VGG.weights)
    except vgg19.MissingWeights as error:
        if config.VGG.on_missing == "stop":
            raise
        log.warning("WARNING: %s", error)
        log.warning("WARNING: training against RANDOM VGG19 features (VGG.on_missing = 'random')")
        return {}, "random"
    weights = vgg19.read_weights(path, config.VGG.layer)
    log.info("VGG19 features %s from %s", config.VGG.layer, path)
    return weights, f"{config.VGG.layer} {checkpoints.digest(weights)}"


def init_weights(config) -> dict[str, np.ndarray]:
    """Returns the arrays of the networks named in TRAIN.init_weights and init_weights_d, by variable.

    If the generator has another scale, only arrays of matching shape are used: the trunk and some others.
    """
    train, model, weights = config.TRAIN, config.MODEL, {}
    for network, path, arguments in (
        ("SRGAN_g", train.init_weights, model.generator),
        ("SRGAN_d", train.init_weights_d if train.n_epoch else "", model.discriminator),
    ):
        if not path:
            continue
        arrays, meta = checkpoints.read_network(path, network, layout)
        scale = meta["arguments"].pop("scale", None)
        checkpoints.require_same_arguments(path, meta["arguments"], arguments)
        log.info("%s starts from %s", network, path)
        _, shapes = layout(network, arguments, train.hr_patch_size)
        if scale == arguments.get("scale"):
            checkpoints.require_shapes(arrays, shapes, path)
            weights |= arrays
        else:
            fit = {name: array for name, array in arrays.items() if array.shape == shapes.get(name)}
            log.info("  which is of scale %d: %d of its %d arrays fit", scale, len(fit), len(arrays))
            weights |= fit
    return weights


def training_data(train, scale: int, skip: Collection[Path]) -> Dataset:
    """Returns the training images of config.TRAIN; skip: subfolders to ignore."""
    names = ("batch_size", "seed", "augment", "exposures", "degradation", "max_bad_images")
    return Dataset(
        train.hr_img_path,
        patch_size=train.hr_patch_size,
        scale=scale,
        **{name: train[name] for name in names},
        skip=skip,
        processes=min(12, usable_cores() * 3 // 4) if runtime.has_gpu() else 0,
    )


def require_memory(train, generator) -> None:
    """Refuses a training step on a CPU that cannot fit into memory, before the system runs out of it.

    The lower bound is the memory of the generator's activations, which its gradients need. In measurements, a
    bfloat16 MSE step took this much, and a float32 or an adversarial step twice as much.
    """
    bytes_per_px = 2 * generator.num_filters * (generator.num_blocks / 4 + 2.5)
    least = train.batch_size * train.hr_patch_size**2 * bytes_per_px
    if not runtime.has_gpu() and least > memory_limit():
        raise UserError(
            f"a training step needs at least {least / 1e9:.0f} GB, but only {memory_limit() / 1e9:.0f} GB "
            "can be used; choose a smaller TRAIN.batch_size or TRAIN.hr_patch_size"
        )
