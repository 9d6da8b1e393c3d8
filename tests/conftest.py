"""Shared by all tests: a quiet TensorFlow, tiny networks, and the folder of real data if there is one."""

import atexit
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from main import tensorflow_start

with tensorflow_start():
    import tensorflow as tf

    tf.config.list_physical_devices()
    tf.get_logger().setLevel("ERROR")
    from tf1 import layers  # noqa: F401


def _write_vgg_file() -> Path:
    """Weights of VGG19's first layer, by a formula; in a folder that ends with the tests."""
    folder = Path(tempfile.mkdtemp(prefix="srgan-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    kernel = np.sin(np.arange(3 * 3 * 3 * 64)).reshape(3, 3, 3, 64) / 9
    bias = np.cos(np.arange(64))
    arrays = {"block1_conv1/kernel": kernel, "block1_conv1/bias": bias}
    np.savez(folder / "vgg19.npz", **{name: array.astype(np.float32) for name, array in arrays.items()})
    return folder / "vgg19.npz"


VGG_FILE = _write_vgg_file()
SHARED = Path(__file__).resolve().parents[2] / "shared"

# One block of four filters, a two-convolution discriminator, VGG19's first layer: seconds, not hours
TINY = (
    "MODEL.generator.num_blocks=1",
    "MODEL.generator.num_filters=4",
    "MODEL.discriminator.convs=((4, 2, 4), (4, 2, 8))",
    "MODEL.discriminator.residual=()",
    "TRAIN.init=fan_in",
    "VGG.layer=conv1_1",
    "VGG.input_size=0",
    f"VGG.weights={VGG_FILE}",
    "TRAIN.hr_patch_size=16",
    "TRAIN.batch_size=2",
    "TRAIN.steps_per_epoch=3",
    "TRAIN.n_epoch_init=2",
    "TRAIN.n_epoch=2",
    "TRAIN.save_every=1",
    "TRAIN.lr_init=1e-3",
    "RUNTIME.precision=float32",
)


@pytest.fixture
def shared():
    if not SHARED.is_dir():
        pytest.skip("needs the folder with the real data")
    return SHARED


@pytest.fixture
def graph():
    with tf.Graph().as_default() as graph:
        tf.compat.v1.set_random_seed(1)
        yield graph


@pytest.fixture
def session(graph):
    with tf.compat.v1.Session() as session:
        yield session
