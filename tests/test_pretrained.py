"""The weights that come with the program."""

import numpy as np
import pytest

import bicubic
import checkpointing
import metrics
from config import make_config
from dataset import validation_photo
from upscale import Upscaler, load_generator

FILES = sorted(checkpointing.PRETRAINED_DIR.glob("*.npz"))


def test_there_are_weights():
    assert "g_srresnet.npz" in [file.name for file in FILES]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_weights_are_small_finite_and_say_where_they_come_from(file):
    assert file.stat().st_size < 7e6
    arrays, meta = load_generator(file)
    checkpointing.require_finite(arrays)
    assert {"recipe", "step", "data", "seed", "commit"} <= meta.keys()


def test_demo_recipe_can_start_from_them():
    _, meta = load_generator(checkpointing.PRETRAINED_DIR / "g_srresnet.npz")
    generator = make_config("demo").MODEL.generator
    assert {**meta["arguments"], "init": None} == {**generator, "init": None}


def test_srresnet_beats_bicubic_on_a_picture_it_has_not_seen():
    hr = validation_photo()[:200, 120:320]
    lr = bicubic.downsample(hr)
    arrays, meta = load_generator(checkpointing.PRETRAINED_DIR / "g_srresnet.npz")
    with Upscaler(arrays, meta["arguments"], make_config().RUNTIME) as upscaler:
        sr = upscaler(lr)
    assert metrics.psnr_y(sr, hr) > metrics.psnr_y(bicubic.upsample(lr), hr) + 0.5
    assert np.abs(sr.mean((0, 1)) - hr.mean((0, 1))).max() < 3  # no colour shift
