"""VGG19 as a feature extractor (Simonyan & Zisserman 2015): the graph and its weight files."""

from __future__ import annotations

import logging
import socket
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from common.errors import UserError
from common.files import LFS_POINTER
from tf1 import checkpoints, third_party
from tf1.layers import Conv2d, FanIn, MaxPool2d, Network

log = logging.getLogger("srgan")

BGR_MEAN = (103.939, 116.779, 123.68)  # ImageNet's mean, which the published weights expect
CONVS_PER_BLOCK = (2, 2, 4, 4, 4)
FILTERS_PER_BLOCK = (64, 128, 256, 512, 512)
MAX_WEIGHTS = 3 * 3 * 512 * 512  # in one convolution

# https://github.com/keras-team/keras/blob/v3.0.0/keras/applications/vgg19.py
KERAS_FILE = "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"
KERAS_URL = f"https://storage.googleapis.com/tensorflow/keras-applications/vgg19/{KERAS_FILE}"
KERAS_MD5 = "253f8cb515780f3b799900260a226db6"
DOWNLOAD_TIMEOUT_SECONDS = 15


class MissingWeights(UserError):
    """No VGG19 weights were found; random weights may be used instead."""


def layer_names() -> list[str]:
    """Returns the layers in order: conv1_1, conv1_2, pool1, ..., conv5_4, pool5."""
    return [
        name
        for block, count in enumerate(CONVS_PER_BLOCK, start=1)
        for name in [f"conv{block}_{i}" for i in range(1, count + 1)] + [f"pool{block}"]
    ]


def conv_names(layer: str) -> list[str]:
    """Returns the convolutions from conv1_1 up to `layer`, which a feature extractor needs."""
    names = layer_names()
    return [name for name in names[: names.index(layer) + 1] if name.startswith("conv")]


def Vgg19_simple_api(
    rgb: tf.Tensor,
    reuse: bool = False,
    *,
    layer: str = "pool4",
    before_relu: bool = False,
    dtype: tf.DType = tf.float32,
) -> tuple[Network, Network]:
    """[N, h, w, 3] RGB in [0, 1] -> (network, conv); `conv.outputs` is the output of `layer`, float32.

    before_relu: take a convolution's output before its ReLU (Wang et al. 2018, section 3.3).

    The network ends at `layer`, so both results are the same object; in the note, the network has fully
    connected layers, which are never used. No variable is trainable.
    """
    assert rgb.shape.rank == 4 and rgb.shape[-1] == 3, rgb.shape
    assert layer in layer_names(), f"{layer} is not one of {layer_names()}"
    he = FanIn(2.0)  # keeps the scale of features from layer to layer, if weights are random
    names = layer_names()

    with tf.compat.v1.variable_scope("VGG19", reuse=reuse):
        bgr = rgb[..., ::-1] * 255.0 - tf.constant(BGR_MEAN)
        net = Network(tf.cast(bgr, dtype))
        for name in names[: names.index(layer) + 1]:
            if name.startswith("conv"):
                act = None if before_relu and name == layer else tf.nn.relu
                net.add(Conv2d(_num_filters(name), 3, W_init=he, act=act, trainable=False, name=name))
            else:
                net.add(MaxPool2d((2, 2), (2, 2), padding="SAME", name=name))
        net.outputs = tf.cast(net.outputs, tf.float32)
    return net, net


def find_weights(setting: str, search_dir: str | Path = "data") -> Path:
    """Returns the VGG19 weight file: the one named, else `vgg19*` in `search_dir`, else Keras's file.

    Keras's file is taken from its cache or downloaded. Raises UserError if the named file does not exist,
    MissingWeights if the setting is 'auto' and no file is available.
    """
    if setting != "auto":
        if not Path(setting).is_file():
            raise UserError(f"VGG.weights: there is no file {setting}")
        return Path(setting)
    found = sorted(p for p in Path(search_dir).glob("vgg19*") if p.suffix in READERS)
    if found:
        return found[0]
    log.info("VGG19 weights: looking in Keras's cache, else downloading them (80 MB)")
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_SECONDS)
    try:
        path = tf.keras.utils.get_file(KERAS_FILE, KERAS_URL, cache_subdir="models", file_hash=KERAS_MD5)
    except Exception as error:  # Keras wraps errors of urllib, the disk and the hash check
        raise MissingWeights(
            f"no VGG19 weights: {_sentence(error)}; put {KERAS_FILE}, vgg19.npy or an npz with Keras's names "
            f"into {search_dir}/, or name the file in VGG.weights, or train against random features "
            "with --set VGG.on_missing=random"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)
    return Path(path)


def read_weights(path: str | Path, layer: str) -> dict[str, np.ndarray]:
    """Reads the float32 weights up to `layer`: {`VGG19/conv1_1/filters`: [3, 3, 3, 64], ...}."""
    path, names = Path(path), conv_names(layer)
    if path.suffix not in READERS:
        raise UserError(f"{path}: VGG19 weights must be in one of the formats {', '.join(READERS)}")
    try:
        with open(path, "rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise UserError(f"{path} is a Git LFS pointer, not the weights: fetch them (git lfs pull)")
        arrays = READERS[path.suffix](path, names)
    except UserError:
        raise
    except Exception as error:  # a reader may raise anything
        raise UserError(f"{path} cannot be read as VGG19 weights: {_sentence(error)}") from None

    weights, depth = {}, 3
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)}, which VGG.layer = {layer!r} needs: "
            "choose an earlier layer or a complete file"
        )
    for name in names:
        try:
            filters, biases = (np.asarray(array, np.float32) for array in arrays[name])
        except (TypeError, ValueError):
            raise UserError(f"{path}: {name} is not a pair of filters and biases") from None
        count = _num_filters(name)
        found, expected = (filters.shape, biases.shape), ((3, 3, depth, count), (count,))
        if found != expected:
            found, expected = (f"{shapes[0]} and {shapes[1]}" for shapes in (found, expected))
            raise UserError(f"{path}: {name} is {found}, but VGG19's is {expected}: not VGG19 weights")
        weights[f"VGG19/{name}/filters"], weights[f"VGG19/{name}/biases"] = filters, biases
        depth = count
    return weights


def _num_filters(name: str) -> int:
    return FILTERS_PER_BLOCK[int(name[4]) - 1]


def _keras_name(name: str) -> str:
    return f"block{name[4]}_conv{name[6]}"


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())


# Readers: each returns {convolution: (filters, biases)} for the `names` in the file


def _read_npz(path: Path, names: list[str]) -> dict[str, tuple]:
    with zipfile.ZipFile(path) as file:
        checkpoints.require_plain(file, path)
        files = {name: [f"{_keras_name(name)}/{part}.npy" for part in ("kernel", "bias")] for name in names}
        return {
            name: tuple(checkpoints.read_array(file, part) for part in parts)
            for name, parts in files.items()
            if set(parts) <= set(file.namelist())
        }


def _read_h5(path: Path, names: list[str]) -> dict[str, tuple]:
    import h5py

    with h5py.File(path, "r") as file:
        root = file.get("model_weights", file)
        layers = {name: _by_rank(root[_keras_name(name)]) for name in names if _keras_name(name) in root}
    return {name: (arrays[4], arrays[1]) for name, arrays in layers.items() if {1, 4} <= arrays.keys()}


def _by_rank(group) -> dict[int, np.ndarray]:
    """Returns {rank: array} of an HDF5 group; Keras versions nest the arrays differently."""
    items = []
    group.visititems(lambda _, item: items.append(item))
    return {item.ndim: item[()] for item in items if hasattr(item, "ndim") and item.size <= MAX_WEIGHTS}


def _read_npy(path: Path, names: list[str]) -> dict[str, tuple]:
    """Reads a pickled dict {conv1_1: [W, b]} of TensorFlow 1 programs, without running code."""
    with open(path, "rb") as file:
        arrays = third_party.read_pickled(file)
    if isinstance(arrays, np.ndarray):
        arrays = arrays.item()
    if not isinstance(arrays, dict):
        raise ValueError("it does not hold a dict of layers")
    return {name: tuple(arrays[name]) for name in names if name in arrays}


READERS = {".npz": _read_npz, ".h5": _read_h5, ".npy": _read_npy}
