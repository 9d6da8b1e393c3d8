"""Winograd's algorithm for the upsampling convolutions, and where it is used."""

import numpy as np
import pytest
import tensorflow as tf
from examples import NETWORKS, SETTINGS, random_image, weights
from test_freeze import VARIANTS

from common.settings import make_config
from model import PIXEL_SHUFFLES
from tf1 import runtime
from upscaling.graph import conv3x3
from upscaling.upscaler import Upscaler

ARGUMENTS = NETWORKS["tensorlayer"]


@pytest.fixture
def avx2(monkeypatch):
    monkeypatch.setattr(runtime, "cpu_flags", lambda: {"avx2", "fma"})


def convolutions(upscaler):
    """Shapes of the filters of a head's convolutions."""
    ops = upscaler.engine._stages_for(np.uint8).session.graph.get_operations()
    return [op.inputs[1].shape.as_list() for op in ops if op.type == "Conv2D" and "n256s1" in op.name]


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 8), (7, 14)])
def test_it_equals_a_convolution(session, size):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, *size, 5)).astype(np.float32)
    filters = rng.normal(size=(3, 3, 5, 8))
    padded = np.pad(x[0].astype(float), [(1, 1), (1, 1), (0, 0)])
    expected = sum(
        padded[i : i + size[0], j : j + size[1]] @ filters[i, j] for i in range(3) for j in range(3)
    )
    result = session.run(conv3x3(tf.constant(x), filters))
    np.testing.assert_allclose(result[0], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", VARIANTS)
def test_every_upsampling_convolution_is_replaced_and_the_result_stays(name, floats, request):
    arguments = {**ARGUMENTS, **VARIANTS[name]}
    arrays, lr = weights(arguments), random_image(7, 9)
    with Upscaler(arrays, arguments, SETTINGS) as upscaler:
        expected = upscaler(lr)
    request.getfixturevalue("avx2")
    with Upscaler(arrays, arguments, SETTINGS) as upscaler:
        result = upscaler(lr)
        assert convolutions(upscaler) == []
        ops = upscaler.engine._stages_for(np.uint8).session.graph.get_operations()
        assert sum(op.type == "BatchMatMulV2" for op in ops) == len(PIXEL_SHUFFLES[arguments["scale"]])
    np.testing.assert_allclose(result, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("size", [(37, 53), (64, 20), (5, 400)])
def test_tiles_equal_the_whole_image_to_rounding(size, avx2, floats):
    with Upscaler(weights(ARGUMENTS), ARGUMENTS, SETTINGS) as upscaler:
        whole = upscaler(random_image(*size))
        halo = upscaler.engine.trunk_halo + upscaler.engine.head_halo
        upscaler._trunk_px, upscaler._head_px = (2 * halo + 8) * (2 * halo + 9), 15 * 14
        np.testing.assert_allclose(upscaler(random_image(*size)), whole, rtol=0, atol=4e-6)


def test_its_products_count_in_the_memory_budget(avx2):
    settings = make_config(settings=["RUNTIME.memory_mb=100"]).RUNTIME
    with Upscaler(weights(ARGUMENTS), ARGUMENTS, settings) as upscaler:
        # six tensors of four filters in float32, of 16 times as many pixels as LR
        assert upscaler._head_px == 100 * 2**20 // (6 * 16 * 4 * 4)


@pytest.mark.parametrize(
    ("flags", "precision", "has_gpu"),
    [
        ({"avx2", "avx512f"}, "float32", False),
        ({"asimd"}, "float32", False),
        ({"avx2", "fma"}, "bfloat16", False),
        ({"avx2", "fma"}, "float32", True),
    ],
    ids=["AVX-512", "ARM", "bfloat16", "GPU"],
)
def test_where_it_is_not_faster_convolutions_stay(flags, precision, has_gpu, monkeypatch):
    monkeypatch.setattr(runtime, "cpu_flags", lambda: flags)
    monkeypatch.setattr(runtime, "has_gpu", lambda: has_gpu)
    settings = make_config(settings=[f"RUNTIME.precision={precision}"]).RUNTIME
    with Upscaler(weights(), ARGUMENTS, settings) as upscaler:
        assert convolutions(upscaler) == [[3, 3, 4, 16]] * 2
