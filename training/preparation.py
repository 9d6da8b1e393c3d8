"""What a run needs before it begins: VGG19 features, weights to start from, memory."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

import numpy as np

import vgg19
from common.errors import UserError
from common.machine import memory_limit
from model import layout
from tf1 import checkpoints, runtime
from training.dataset import Dataset

log = logging.getLogger("srgan")


def vgg_features(config) -> tuple[dict[str, np.ndarray], str]:
    """(VGG19 weights, their name). {} and 'random' where `VGG.on_missing` lets random features stand in.

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
    """The images of config.TRAIN; skip: folders below that are none."""
    names = ("augment", "exposures", "degradation", "max_bad_images")
    return Dataset(
        train.hr_img_path,
        patch_size=train.hr_patch_size,
        scale=scale,
        batch_size=train.batch_size,
        seed=train.seed,
        **{name: train[name] for name in names},
        skip=skip,
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


def require_memory(least: int) -> None:
    """Refuses a training step that cannot fit, before it takes the machine down."""
    if not runtime.has_gpu() and least > memory_limit():
        raise UserError(
            f"a training step takes {least / 1e9:.0f} GB at least, and there are {memory_limit() / 1e9:.0f}: "
            "choose a smaller TRAIN.batch_size or TRAIN.hr_patch_size"
        )
