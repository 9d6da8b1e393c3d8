"""The weights that come with the program."""

import numpy as np
import pytest
import tensorflow as tf

from common.settings import make_config
from images import bicubic, metrics
from images.photos import validation_photo
from model import SRGAN_d
from tf1 import checkpoints
from training import preparation
from upscaling.upscaler import Upscaler, load_generator

FILES = sorted(checkpoints.PRETRAINED_DIR.glob("g_*.npz"))


def test_each_name_of_shipped_weights_has_a_file():
    assert {checkpoints.locate(name).resolve() for name in checkpoints.SHIPPED} == set(FILES)


@pytest.mark.parametrize(("recipe", "name"), [("cpu", "srgan"), ("photo", "photo")])
def test_a_recipe_can_go_on_with_the_shipped_pair(recipe, name):
    config = make_config(recipe, settings=[f"TRAIN.init_weights={name}", f"TRAIN.init_weights_d={name}"])
    g_path, d_path = (checkpoints.locate(name, network) for network in ("SRGAN_g", "SRGAN_d"))
    arrays = preparation.init_weights(config)
    with tf.Graph().as_default():
        discriminator = SRGAN_d(tf.zeros([1, 96, 96, 3]), **config.MODEL.discriminator)[0]
    shapes = {param.op.name: tuple(param.shape) for param in discriminator.all_params}
    assert {name: arrays[name].shape for name in arrays if name.startswith("SRGAN_d/")} == shapes
    assert checkpoints.is_finite(arrays) and arrays["SRGAN_d/h0/c/filters"].dtype == np.float32
    assert checkpoints.read_meta(d_path)["step"] == checkpoints.read_meta(g_path)["step"]
    assert d_path.stat().st_size < 25e6


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_weights_are_small_finite_and_say_where_they_come_from(file):
    assert file.stat().st_size < 7e6
    arrays, meta = load_generator(file)
    assert checkpoints.is_finite(arrays)
    assert {"recipe", "step", "data", "seed", "commit"} <= meta.keys()


def test_demo_recipe_can_start_from_them():
    _, meta = load_generator(checkpoints.PRETRAINED_DIR / "g_srresnet.npz")
    generator = make_config("demo").MODEL.generator
    assert meta["arguments"] == generator


@pytest.fixture(scope="module")
def unseen():
    """HR, and SR of both networks, of a part of the validation photo."""
    hr = validation_photo()[:200, 120:320]
    images = {"HR": hr}
    for file in FILES:
        arrays, meta = load_generator(file)
        with Upscaler(arrays, meta["arguments"], make_config().RUNTIME) as upscaler:
            images[file.stem] = upscaler(bicubic.downsample(hr, upscaler.scale))
    return images


@pytest.mark.parametrize(("name", "scale", "gain_db"), [("g_srresnet", 4, 0.5), ("g_srresnet_x2", 2, 2.0)])
def test_srresnet_beats_bicubic_on_an_unseen_image(unseen, name, scale, gain_db):
    hr = unseen["HR"]
    of_bicubic = metrics.psnr_y(bicubic.upsample(bicubic.downsample(hr, scale), scale), hr, scale)
    assert metrics.psnr_y(unseen[name], hr, scale) > of_bicubic + gain_db


def test_srgan_is_nearer_to_the_sharpness_of_hr(unseen):
    hr, srresnet, srgan = (
        np.abs(np.diff(unseen[name].astype(float), axis=1)).mean() for name in ("HR", "g_srresnet", "g_srgan")
    )
    assert srresnet * 1.1 < srgan < hr * 1.1


@pytest.mark.parametrize("name", ["g_srgan", "g_srresnet", "g_photo", "g_srresnet_x2"])
def test_colours_stay_where_they_are(unseen, name):
    assert np.abs(unseen[name].mean((0, 1)) - unseen["HR"].mean((0, 1))).max() < 2
