"""Shared by all tests: a quiet TensorFlow, tiny networks, and the folder of real data if there is one."""

import atexit
import gc
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import main
from common.settings import flatten
from images.photos import VALIDATION_FILE, packaged
from tf1.start import start_tensorflow

start_tensorflow()
import tensorflow as tf

from training import preparation
from upscaling import upscaler


def _write_files(folder: Path) -> None:
    """Weights of VGG19's first layer, by a formula, and a small validation image."""
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "valid").mkdir()
    # by Pillow: libvips starts threads, and tests/long/crash.py forks this process
    with Image.open(packaged(*VALIDATION_FILE)) as photo:
        photo.crop((0, 0, 64, 64)).save(folder / "valid/small.png")
    kernel = np.sin(np.arange(3 * 3 * 3 * 64)).reshape(3, 3, 3, 64) / 9
    bias = np.cos(np.arange(64))
    arrays = {"block1_conv1/kernel": kernel, "block1_conv1/bias": bias}
    np.savez(folder / "vgg19.npz", **{name: array.astype(np.float32) for name, array in arrays.items()})


FOLDER = Path(tempfile.mkdtemp(prefix="srgan-tests-"))
VGG_FILE = FOLDER / "vgg19.npz"
_write_files(FOLDER)
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
    f"VALID.hr_img_path={FOLDER / 'valid'}",
    "TRAIN.hr_patch_size=16",
    "TRAIN.batch_size=2",
    "TRAIN.steps_per_epoch=3",
    "TRAIN.n_epoch_init=2",
    "TRAIN.n_epoch=2",
    "TRAIN.save_every=1",
    "TRAIN.lr_init=1e-3",
    "RUNTIME.precision=float32",
)


GRAPHS = {}
NOT_OF_THE_GRAPH = (
    *("hr_img_path", "lr_img_path", "weights", "degradation", "batch_size", "steps_per_epoch", "threads"),
    *("n_epoch_init", "n_epoch_d", "save_every", "save_minutes", "lr_schedule", "warmup_steps"),
)  # ends of keys


@pytest.fixture(autouse=True)
def one_graph_of_the_same_settings(monkeypatch):
    """Runs of the same settings on one device share their graph: without it they take half as long again.

    Nothing else is shared: the weights are in a run's session.
    """

    def graph_of(config, dtype, cluster, build=preparation.new_graph):
        if cluster.replicas > 1 or os.environ.get("GRAPH_OF_ITS_OWN"):
            return build(config, dtype, cluster)
        settings = {key: value for key, value in flatten(config) if not key.endswith(NOT_OF_THE_GRAPH)}
        settings["TRAIN.n_epoch"] = config.TRAIN.n_epoch > 0
        key = (dtype.name, *settings.items())
        if key not in GRAPHS:
            GRAPHS[key] = build(config, dtype, cluster)
            gc.freeze()  # or each collection would walk all graphs
        return GRAPHS[key]

    monkeypatch.setattr(preparation, "new_graph", graph_of)


@pytest.fixture
def shared():
    if not SHARED.is_dir():
        pytest.skip("needs the folder with the real data")
    return SHARED


@pytest.fixture
def refusal(capsys):
    """Runs the command line, which must refuse; returns its sentence."""

    def run(*argv):
        capsys.readouterr()
        assert main.main([str(argument) for argument in argv]) == 2
        stderr = capsys.readouterr().err
        assert stderr.startswith("error: ") and stderr.endswith("\n") and stderr.count("\n") == 1
        return stderr.removeprefix("error: ").rstrip("\n")

    return run


@pytest.fixture
def graph():
    with tf.Graph().as_default() as graph:
        tf.compat.v1.set_random_seed(1)
        yield graph


@pytest.fixture
def session(graph):
    with tf.compat.v1.Session() as session:
        yield session


@pytest.fixture
def floats(monkeypatch):
    """Upscalers return what the network made, not integers."""
    monkeypatch.setattr(upscaler, "to_integers", lambda sr, dtype: np.copy(sr))
