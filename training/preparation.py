"""Preparation of a run: data, VGG19 features, initial weights, graph and session."""

from __future__ import annotations

import contextlib
import functools
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
    """A run with its graph, session and data, continued or new. Refusals that are quick come first."""
    require_memory(config.TRAIN, config.MODEL.generator)
    vgg_weights, features = vgg_features(config)
    cluster = distribution.connect(config.RUNTIME, runtime.session_config(config.RUNTIME))
    cluster.require_divisible(config.TRAIN.batch_size)
    if cluster.is_chief:
        require_writable(folder, "--checkpoint-dir")
        require_writable(samples_dir, "--samples-dir")
    with held(folder) if cluster.is_chief else contextlib.nullcontext():
        saved = resume.find_saved(folder) if cluster.is_chief and not restart else None
        if saved:
            resume.require_same_settings(saved, config)
        start_weights = {} if saved else init_weights(config)
        scale, dtype = config.MODEL.generator.scale, runtime.compute_dtype(config.RUNTIME.precision)
        log.info("Loading training images")
        data = training_data(config.TRAIN, scale, skip=(folder, samples_dir))
        schedule = Schedule(config.TRAIN, config.TRAIN.steps_per_epoch or data.steps_per_epoch)
        facts = {"images": resume.fingerprint(data.listing), "vgg_features": features}
        facts |= {"precision": dtype.name, "device": runtime.describe_device()}
        if saved:
            resume.require_same_facts(saved, schedule, facts)
        valid = within_memory(*validation_pair(scale, **config.VALID))

        log.info("Building graph")
        g = new_graph(config, dtype, cluster)
        session = tf.compat.v1.Session(cluster.target, g.t_image.graph, cluster.config)
        with session as sess, cluster.strategy.scope():
            cluster.require_agreement(sess, {"settings": resume.numeric_settings(config), **facts})
            report = None
            if cluster.is_chief:
                if restart:  # only now, when nothing is left that could refuse the new run
                    resume.archive(folder)
                step = saved.meta["step"] if saved else 0
                upscale = functools.partial(run_test_generator, sess, g)
                report = Report(folder, samples_dir, step, upscale, data.fixed_patches, valid)
                log_config(folder / "config.json", config, recipe)
            meta = {"recipe": recipe, "config": config, "facts": facts}
            run = Run(g, sess, data, report, schedule, cluster, folder=folder, meta=meta)
            # Weights: random; then VGG19's and TRAIN.init_weights; then the saved state
            sess.run(tf.compat.v1.global_variables_initializer())
            assign_weights(sess, g, vgg_weights, start_weights, config.TRAIN)
            run.restore(saved)
            run.say_start()
            with run:
                yield run


def run_test_generator(sess: tf.compat.v1.Session, g, lr: np.ndarray) -> np.ndarray:
    """uint8 LR [N, h, w, 3] -> SR, by the weights for use."""
    return sess.run(g.sr_test, {g.t_test_image: lr})


def new_graph(config, dtype: tf.DType, cluster: distribution.Cluster):
    """The training graph of `config` in a tf.Graph of its own."""
    with tf.Graph().as_default(), cluster.strategy.scope():
        tf.compat.v1.set_random_seed(config.TRAIN.seed)
        return cluster.build(lambda: build(config, dtype))


def vgg_features(config) -> tuple[dict[str, np.ndarray], str]:
    """(VGG19 weights, their name). {} and 'random' where `VGG.on_missing` allows random features.

    The name is the layer and a hash of the weights; 'none' without adversarial training.
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
    """The variables of the networks that TRAIN.init_weights and init_weights_d name, {} if they name none.

    Of a generator of another scale those that fit: the trunk, and what else has the same shape.
    """
    path, path_d = config.TRAIN.init_weights, config.TRAIN.init_weights_d
    named = [("SRGAN_g", path, config.MODEL.generator)]
    if config.TRAIN.n_epoch:
        named.append(("SRGAN_d", path_d, config.MODEL.discriminator))
    start = {}
    for network, path, arguments in named:
        if path:
            arrays, meta = checkpoints.read_network(path, network, layout)
            scale = meta["arguments"].pop("scale", None)
            checkpoints.require_same_arguments(path, meta["arguments"], arguments)
            log.info("%s starts from %s", network, path)
            if network == "SRGAN_g":
                _, shapes = layout(network, arguments)
                if scale == arguments.scale:
                    checkpoints.require_shapes(arrays, shapes, path)
                else:
                    fit = {name: array for name, array in arrays.items() if array.shape == shapes.get(name)}
                    log.info("  which is of scale %d: %d of its %d arrays fit", scale, len(fit), len(arrays))
                    arrays = fit
            start.update(arrays)
    return start


def training_data(train, scale: int, skip: Collection[Path]) -> Dataset:
    """The images of config.TRAIN; skip: subfolders to ignore."""
    names = ("augment", "exposures", "degradation", "max_bad_images")
    processes = min(12, usable_cores() * 3 // 4) if runtime.has_gpu() else 0
    return Dataset(
        train.hr_img_path,
        patch_size=train.hr_patch_size,
        scale=scale,
        batch_size=train.batch_size,
        seed=train.seed,
        **{name: train[name] for name in names},
        skip=skip,
        processes=processes,
    )


def assign_weights(session, g, vgg_weights: dict, start_weights: dict, train) -> None:
    """Gives VGG19 and, at the start of a run, the networks their weights; the averages start from G's."""
    if vgg_weights:
        checkpoints.assign(session, g.net_vgg.all_params, vgg_weights, "the VGG19 file")
    for name, source in (("SRGAN_g", train.init_weights), ("SRGAN_d", train.init_weights_d)):
        arrays = {key: value for key, value in start_weights.items() if key.startswith(name)}
        if arrays:
            params = g.net_g.all_params if name == "SRGAN_g" else g.net_d.all_params
            if name == "SRGAN_g":  # from a generator of another scale
                params = [param for param in params if param.op.name in arrays]
            checkpoints.assign(session, params, arrays, source)
    session.run(g.reset_average)


def require_memory(train, generator) -> None:
    """Refuses a training step that cannot fit, before it takes the machine down.

    The least that it takes is what the generator keeps for its gradients: measured, a bfloat16 MSE step takes
    this much, and a float32 one or an adversarial one twice.
    """
    bytes_per_px = 2 * generator.num_filters * (generator.num_blocks / 4 + 2.5)
    least = train.batch_size * train.hr_patch_size**2 * bytes_per_px
    if not runtime.has_gpu() and least > memory_limit():
        raise UserError(
            f"a training step takes {least / 1e9:.0f} GB at least, and there are {memory_limit() / 1e9:.0f}: "
            "choose a smaller TRAIN.batch_size or TRAIN.hr_patch_size"
        )
