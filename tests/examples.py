"""Random images, and tiny generators with random weights."""

import numpy as np
import tensorflow as tf

from common.settings import make_config
from images.files import ImageData, Source
from model import SRGAN_g
from tf1 import checkpoints

SETTINGS = make_config(settings=["RUNTIME.precision=float32"]).RUNTIME
NETWORKS = {
    name: {**make_config(name).MODEL.generator, "num_blocks": 2, "num_filters": 4, "init": "fan_in"}
    for name in ("tensorlayer", "paper")
}
SCALED = {f"x{scale}": {**NETWORKS["tensorlayer"], "scale": scale} for scale in (2, 3, 8)}


def random_image(height, width, seed=0, dtype=np.uint8):
    most = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, most + 1, (height, width, 3), dtype)


def read_image(path) -> ImageData:
    """An image, whose size was known before it was decoded."""
    source = Source(path)
    image = source.read()
    assert (source.height, source.width) == image.pixels.shape[:2]
    return image


def weights(arguments=NETWORKS["tensorlayer"], seed=0):
    """Random weights with batch norms that do something."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.set_random_seed(seed)
        net = SRGAN_g(tf.zeros([1, 8, 8, 3]), **arguments)
        session.run(tf.compat.v1.global_variables_initializer())
        arrays = checkpoints.fetch(session, net.all_params)
    rng = np.random.default_rng(seed)
    for name, array in arrays.items():
        if name.endswith(("beta", "biases", "moving_mean")):
            arrays[name] = rng.normal(0, 0.2, array.shape).astype(np.float32)
        elif name.endswith("moving_var"):
            arrays[name] = rng.uniform(0.5, 2, array.shape).astype(np.float32)
    return arrays


def write_weights(path, arguments=NETWORKS["tensorlayer"], seed=0, **meta):
    meta = {"network": "SRGAN_g", "arguments": arguments, "recipe": "test", "step": 1, **meta}
    checkpoints.write_npz(path, weights(arguments, seed), meta)
    return path
