"""VGG19: its features against Keras's, its weight files, and where they are looked for."""

import gc
import inspect
import io
import multiprocessing
import pickle
import re
import socket
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import h5py
import keras_reference
import numpy as np
import pytest
import tensorflow as tf

import vgg19
from common.errors import UserError
from images.photos import validation_photo
from tf1 import checkpoints
from tf1.layers import tl
from vgg19 import Vgg19_simple_api, conv_names, find_weights, layer_names, read_weights

RELATIVE_ERROR = 1e-4  # largest difference over largest value


def keras_name(name):
    return f"block{name[4]}_{name[:4]}{name[6:]}"  # conv3_4 -> block3_conv4, pool4 -> block4_pool


def random_weights(last):
    """{conv: (filters, biases)} up to `last`; filters ~ N(0, 2 / fan_in) keep the size of features."""
    rng = np.random.default_rng(0)
    channels, weights = 3, {}
    for name in conv_names(last):
        filters = rng.standard_normal((3, 3, channels, vgg19.FILTERS_PER_BLOCK[int(name[4]) - 1]), np.float32)
        channels = filters.shape[-1]
        deviation = np.float32(np.sqrt(2 / filters[..., 0].size))
        weights[name] = filters * deviation, rng.standard_normal(channels, np.float32)
    return weights


def keras_names(weights):
    return {keras_name(name): arrays for name, arrays in weights.items()}


def our_names(weights):
    pairs = weights.items()
    return {f"VGG19/{name}/{part}": a for name, pair in pairs for part, a in zip(("filters", "biases"), pair)}


def write_npz(path, weights):
    pairs = keras_names(weights).items()
    np.savez(
        path, **{f"{name}/{part}": a for name, pair in pairs for part, a in zip(("kernel", "bias"), pair)}
    )


def write_h5(path, weights):
    """As the published files are: one group per layer, and names of the first Keras."""
    with h5py.File(path, "w") as file:
        for name, (filters, biases) in keras_names(weights).items():
            file[f"{name}/{name}_W_1:0"], file[f"{name}/{name}_b_1:0"] = filters, biases


# Keras runs in a process of its own, which starts when it is first asked: it needs eager execution
KERAS = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def in_bytes(write, *args, **kwargs):
    """What `write` writes to a file."""
    file = io.BytesIO()
    write(file, *args, **kwargs)
    return file.getvalue()


# of an npy file that goes on with one pickled object
OBJECT = {"descr": "|O", "fortran_order": False, "shape": ()}
OBJECT_HEADER = in_bytes(np.lib.format.write_array_header_1_0, OBJECT)


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings."""

    def save_as_string(self, data):
        self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)

    dispatch = {**pickle._Pickler.dispatch, bytes: save_as_string}  # noqa: RUF012


def write_python2_npy(path, weights):
    """vgg19.npy as it has been passed around since 2014: a 0-d array of one dict, pickled by Python 2."""
    pickled = io.BytesIO()
    array = np.array({name.encode(): [*arrays] for name, arrays in weights.items()}, dtype=object)
    Python2Pickler(pickled, protocol=2).dump(array)
    before_numpy_2 = pickled.getvalue().replace(b"numpy._core", b"numpy.core")
    path.write_bytes(OBJECT_HEADER + before_numpy_2)


def write_npy(path, weights):
    np.save(path, {name: [*arrays] for name, arrays in weights.items()}, allow_pickle=True)


WRITERS = {
    "npz": ("vgg19.npz", write_npz),
    "h5 of the first Keras": ("b.h5", write_h5),
    "h5 of today's Keras": (
        "c.h5",
        lambda path, weights: KERAS.submit(keras_reference.write_model, path, keras_names(weights)).result(),
    ),
    "npy": ("vgg19.npy", write_npy),
    "npy of Python 2": ("old.npy", write_python2_npy),
}


def features_like_keras(weights, image, layers):
    """Our features of uint8 [h, w, 3] RGB at the layers, which must be those of Keras's layers."""
    keras_layers = [keras_name(layer) for layer in layers]
    keras = KERAS.submit(keras_reference.features, keras_names(weights), image, keras_layers).result()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        rgb = tf.constant(image[None] / np.float32(255))
        networks = [Vgg19_simple_api(rgb, reuse=i > 0, layer=layer)[1] for i, layer in enumerate(layers)]
        checkpoints.assign(session, tf.compat.v1.global_variables(), our_names(weights), "these weights")
        ours = session.run([network.outputs for network in networks])
    for a, b in zip(ours, keras):
        assert a.shape == b.shape and b.std() > 0
        assert np.abs(a - b).max() <= RELATIVE_ERROR * np.abs(b).max()
    return ours


# --- The network


def test_features_are_those_of_keras_at_pool4_and_conv5_4():
    image = np.random.default_rng(1).integers(0, 256, (64, 48, 3), np.uint8)
    for features in features_like_keras(random_weights("conv5_4"), image, ("conv5_4", "pool4")):
        assert features.shape == (1, 4, 3, 512)  # 64 / 16 and 48 / 16
        assert 0.1 < features.max() < 1e4  # neither died nor exploded


def test_features_of_a_photo_by_real_weights_are_those_of_keras(shared):
    arrays = read_weights(shared / "weights/vgg19_keras_conv1_1-conv3_4_fp32.npz", "conv3_4")
    pairs = zip(*[iter(arrays.values())] * 2)  # filters and biases in turn
    weights = dict(zip(conv_names("conv3_4"), pairs))
    (features,) = features_like_keras(weights, validation_photo()[40:136, 180:276], ["conv3_4"])
    assert features.shape == (1, 24, 24, 256)


def test_layers_are_those_of_keras():
    keras_vgg19 = tf.keras.applications.VGG19(include_top=False, weights=None)
    ours = [keras_name(name) for name in layer_names()]
    assert ours == [layer.name for layer in keras_vgg19.layers[1:]]


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"layer": "conv1_1"}, (20, 12, 64)),
        ({"layer": "pool1"}, (10, 6, 64)),
        ({"layer": "pool2"}, (5, 3, 128)),
        ({}, (2, 1, 512)),  # pool4, as in the note
    ],
)
def test_network_ends_at_the_layer_asked_for_and_reuse_adds_no_variables(graph, options, shape):
    network, conv = Vgg19_simple_api(tf.zeros([2, 20, 12, 3]), **options)
    assert network.outputs is conv.outputs and conv.outputs.shape == (2, *shape)
    again, _ = Vgg19_simple_api(tf.zeros([1, 8, 8, 3]), reuse=True, **options)
    variables = tf.compat.v1.global_variables()
    assert [variable.op.name for variable in variables] == [
        f"VGG19/{name}/{part}"
        for name in conv_names(options.get("layer", "pool4"))
        for part in ("filters", "biases")
    ]
    assert network.all_params == again.all_params == variables
    assert not tf.compat.v1.trainable_variables()


def test_vgg_loss_has_a_gradient_before_and_after_relu(session):
    images = np.random.default_rng(2).uniform(size=(2, 2, 16, 16, 3)).astype(np.float32)
    sr, hr = tf.constant(images[0]), tf.constant(images[1])
    _, hr_conv = Vgg19_simple_api(hr, layer="conv2_2")
    _, sr_conv = Vgg19_simple_api(sr, reuse=True, layer="conv2_2")
    before_relu = Vgg19_simple_api(sr, reuse=True, layer="conv2_2", before_relu=True)[1].outputs
    loss = tl.cost.mean_squared_error(sr_conv.outputs, hr_conv.outputs, is_mean=True)
    session.run(tf.compat.v1.global_variables_initializer())
    gradient, before, after = session.run([tf.gradients(loss, sr)[0], before_relu, sr_conv.outputs])
    assert np.isfinite(gradient).all() and (np.abs(gradient).max(axis=(1, 2, 3)) > 0).all()
    assert np.count_nonzero(gradient) > gradient.size / 2
    assert before.min() < 0
    np.testing.assert_array_equal(np.maximum(before, 0), after)


# --- Weight files


@pytest.mark.parametrize(
    ("kind", "dtype"), [("npz", np.float16), ("npy", np.float16), *((kind, np.float32) for kind in WRITERS)]
)
def test_each_format_gives_the_arrays_that_were_written_and_is_refused_when_truncated(tmp_path, kind, dtype):
    name, write = WRITERS[kind]
    path = tmp_path / name
    weights = {conv: [a.astype(dtype) for a in arrays] for conv, arrays in random_weights("conv2_1").items()}
    write(path, weights)
    arrays = read_weights(path, "conv2_1")
    assert list(arrays) == list(our_names(weights))
    for name, array in our_names(weights).items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == np.float32
    assert len(read_weights(path, "pool1")) == 2 * 2  # conv1_1 and conv1_2
    message = refusal(path, "conv3_1")
    assert "lacks conv2_2, conv3_1, which" in message and "VGG.layer = 'conv3_1'" in message
    data = path.read_bytes()
    for fraction in (0, 0.01, 0.5, 0.99):
        path.write_bytes(data[: int(fraction * len(data))])
        assert CANNOT in refusal(path, "conv2_1")
    gc.collect()  # a file left open is a warning, and warnings are errors


def refusal(path, layer="conv1_1"):
    """The sentence with which a file is refused."""
    with pytest.raises(UserError) as error:
        read_weights(path, layer)
    message = str(error.value)
    assert str(path) in message and "\n" not in message
    return message


CANNOT = "cannot be read as VGG19 weights"
OBJECTS = {"block1_conv1/kernel": np.array([{}], object), "block1_conv1/bias": np.zeros(64)}


def shapes(filters, biases):
    return {"conv1_1": (np.zeros(filters), np.zeros(biases))}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        *(
            (f"x.{suffix}", content, message)
            for suffix in ("npz", "h5", "npy")
            for content, message in (
                (b"\0" * 1000, CANNOT),
                (b"<html>not found</html>", CANNOT),
                (b".", CANNOT),
                (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
            )
        ),
        *(  # pickles may name arrays only
            ("x.npy", OBJECT_HEADER + f"c{module}\n{name}\n.".encode(), rf"{module}\.{name}, which is not")
            for module, name in (("builtins", "eval"), ("os", "system"), ("numpy", "load"))
        ),
        ("x.npy", OBJECT_HEADER + b"cnumpy.core.multiarray\nfromfile\n.", r"numpy\._core\.multi.*fromfile"),
        ("x.npz", in_bytes(np.save, np.zeros([3, 3])), CANNOT),
        ("x.npz", in_bytes(np.savez, **OBJECTS), CANNOT),
        ("x.npy", in_bytes(np.save, np.random.default_rng(0).random([3, 3])), CANNOT),
        ("x.npy", in_bytes(np.save, np.array([{"conv1_1": 1}, {}], object)), CANNOT),
        ("x.npy", in_bytes(np.save, {"conv1_1": {"W": 1, "b": 2}}), "conv1_1 is not a pair"),
        ("x.h5", in_bytes(write_h5, shapes((3, 3, 3, 64), (1, 1, 1, 64))), "lacks conv1_1"),  # no biases
        ("x.npz", in_bytes(write_npz, shapes((3, 3, 3, 32), 64)), r"conv1_1 is .*32.*64"),
        ("x.npz", in_bytes(write_npz, shapes((3, 3, 3, 64), 32)), r"conv1_1 is .*32.*64"),
        ("x.pth", b"weights", r"in one of the formats \.npz, \.h5, \.npy"),
    ],
)
def test_files_of_other_content_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert re.search(message, refusal(tmp_path / name))


# --- Where weights are looked for


def test_named_files_come_first_then_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("data/vgg19.txt", "data/vgg16.npz", "data/vgg19_b.npz", "data/vgg19_a.h5", "mine.npz"):
        (tmp_path / name).touch()
    assert find_weights("mine.npz") == Path("mine.npz")
    assert find_weights("auto") == Path("data/vgg19_a.h5")  # the first by name that can be read


def test_download_is_that_of_keras_with_its_published_hash(tmp_path, monkeypatch):
    def get_file(fname, origin, cache_subdir, file_hash):
        assert 0 < socket.getdefaulttimeout() <= 20
        assert origin == keras.WEIGHTS_PATH_NO_TOP and file_hash == published
        return f"{cache_subdir}/{fname}"

    keras = inspect.getmodule(tf.keras.applications.VGG19)
    (published,) = re.findall(r'WEIGHTS_PATH_NO_TOP,[^)]*file_hash="(\w+)"', inspect.getsource(keras))
    monkeypatch.setattr(tf.keras.utils, "get_file", get_file)
    path = find_weights("auto", tmp_path)
    # where Keras itself looks, so one download serves both
    assert path == Path("models/vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5")


@pytest.mark.parametrize(
    "error",
    [
        Exception("URL fetch failure on https://storage.googleapis.com/x: None -- timed out"),
        ValueError("Incomplete or corrupted file detected.\nThe md5 file hash does not match."),
        PermissionError(13, "Permission denied"),
    ],
)
def test_failed_download_says_what_to_put_where(tmp_path, monkeypatch, error):
    def get_file(*_, **__):
        raise error

    monkeypatch.setattr(tf.keras.utils, "get_file", get_file)
    before = socket.getdefaulttimeout()
    with pytest.raises(UserError) as refused:
        find_weights("auto", tmp_path / "data")
    assert socket.getdefaulttimeout() == before
    message = str(refused.value)
    assert str(error).split("\n")[0] in message and "\n" not in message
    files = (vgg19.KERAS_FILE, "vgg19.npy", "npz", f"{tmp_path}/data/")
    for words in (*files, "VGG.weights", "VGG.on_missing=random"):
        assert words in message
