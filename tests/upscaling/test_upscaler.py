"""The inference graph and the tile engine."""

import functools
from unittest.mock import Mock

import numpy as np
import pytest
import tensorflow as tf
from examples import NETWORKS, SCALED, SETTINGS, random_image, weights, write_weights

from common.errors import UserError
from common.settings import make_config
from model import SRGAN_g
from tf1 import checkpoints, runtime
from upscaling import graph
from upscaling.upscaler import Box, Upscaler, load_generator, tiles


@pytest.fixture(scope="module", params=NETWORKS)
def upscaler(request):
    arguments = NETWORKS[request.param]
    with Upscaler(weights(arguments), arguments, SETTINGS) as upscaler:
        yield upscaler


# so many filters that small images are cut into tiles where there is 1 MB of memory
WIDE = {name: {**arguments, "num_filters": 16} for name, arguments in (NETWORKS | SCALED).items()}


@functools.cache
def wide_upscaler(name, memory_mb):
    settings = make_config(settings=["RUNTIME.precision=float32", f"RUNTIME.memory_mb={memory_mb}"]).RUNTIME
    upscaler = Upscaler(weights(WIDE[name]), WIDE[name], settings)
    for stage in ("trunk", "head"):
        setattr(upscaler.engine, stage, Mock(wraps=getattr(upscaler.engine, stage)))
    return upscaler


def in_tiles(name, image, *, memory_mb=1, **options):
    """(SR, how many tiles went through the trunk, and through the head) of a network of WIDE."""
    upscaler = wide_upscaler(name, memory_mb)
    stages = upscaler.engine.trunk, upscaler.engine.head
    for stage in stages:
        stage.reset_mock()
    return upscaler(image, **options), *(stage.call_count for stage in stages)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_result_equals_that_of_the_graph_as_trained(network, floats):
    arguments, lr = NETWORKS[network], random_image(9, 7)
    arrays = weights(arguments)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        net = SRGAN_g(tf.constant(lr[None] / np.float32(127.5) - 1), **arguments)
        checkpoints.assign(session, net.all_params, arrays, "")
        as_trained = session.run(net.outputs)[0]
    with Upscaler(arrays, arguments, SETTINGS) as upscaler:
        np.testing.assert_allclose(upscaler(lr), as_trained.clip(-1, 1), atol=2e-5)


@pytest.mark.parametrize(
    ("network", "size", "self_ensemble"),
    [
        *((network, size, False) for network in NETWORKS for size in ((37, 93), (5, 700), (64, 60))),
        *((network, (64, 60), True) for network in NETWORKS),
        *((network, (63, 67), False) for network in SCALED),
    ],
)
def test_tiles_equal_the_whole_image_bit_for_bit(floats, network, size, self_ensemble):
    """To rounding where oneDNN sums in an order that depends on the size: 9x9 filters, no AVX-512."""
    lr, views, scale = random_image(*size), 8 if self_ensemble else 1, WIDE[network]["scale"]
    whole, *calls = in_tiles(network, lr, memory_mb=1000, self_ensemble=self_ensemble)
    assert calls == [views, views]
    assert whole.shape == (scale * size[0], scale * size[1], 3) and whole.std() > 0.01
    fractions = []
    tiled, *calls = in_tiles(network, lr, self_ensemble=self_ensemble, progress=fractions.append)
    assert min(calls) > views
    assert fractions == sorted(set(fractions)) and fractions[0] > 0 and fractions[-1] == 1.0  # progress
    is_exact = "avx512f" in runtime.cpu_flags() and network != "paper"
    atol = 0 if is_exact else 4e-6  # of 1: a 2,000th of an 8-bit value
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=atol)


def test_every_8_bit_value_is_fed_as_a_bfloat16_number(upscaler, monkeypatch):
    run = Mock(wraps=graph._run)
    monkeypatch.setattr(graph, "_run", run)
    upscaler(np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2))
    values = run.call_args_list[0].args[-1][..., 0].ravel()
    assert len(set(values)) == 256
    np.testing.assert_array_equal(values, values.astype(tf.bfloat16.as_numpy_dtype).astype(np.float32))


def test_halo_is_what_a_pixel_sees(upscaler):
    """Changing one LR pixel changes SR within the halo around it, and as far as that."""
    engine = upscaler.engine
    halo = engine.trunk_halo + engine.head_halo
    side = 2 * halo + 9
    lr = np.full((side, side, 3), 140, np.uint8)
    before = engine.head(engine.trunk(lr), lr.dtype)
    lr[side // 2, side // 2] = 13
    changed = np.abs(engine.head(engine.trunk(lr), lr.dtype) - before).max(-1) > 0
    rows = np.flatnonzero(changed.any(1)) // 4
    reach = max(side // 2 - rows.min(), rows.max() - side // 2)
    assert halo - 1 <= reach <= halo


@pytest.mark.parametrize("size", [(8, 6), (1, 1)])
def test_sixteen_bit_images_have_the_same_result_with_finer_steps(upscaler, size):
    lr = random_image(*size)
    fine = upscaler(lr.astype(np.uint16) * 257)
    assert fine.dtype == np.uint16 and fine.shape == (4 * size[0], 4 * size[1], 3)
    assert np.abs(fine / 257 - upscaler(lr)).max() <= 0.5 + 1e-2
    assert (fine % 257 != 0).mean() > 0.9


def test_self_ensemble_is_the_mean_of_eight_views(upscaler):
    lr = random_image(6, 9)
    views = []
    for turns in range(4):
        for flip in (np.copy, np.fliplr):
            sr = upscaler(flip(np.rot90(lr, turns))).astype(float)
            views.append(np.rot90(flip(sr), -turns))
    ensemble = upscaler(lr, self_ensemble=True)
    assert np.abs(ensemble - np.mean(views, 0)).max() <= 1.0  # the views here are rounded
    turned = upscaler(np.rot90(lr), self_ensemble=True)
    assert np.abs(turned.astype(int) - np.rot90(ensemble)).max() <= 1


def test_out_of_memory_halves_the_tiles_and_goes_on(upscaler, monkeypatch, caplog):
    lr = random_image(30, 30)
    expected = upscaler(lr)
    run, failures = tf.compat.v1.Session.run, [0, 1]

    def run_short_of_memory(*args):
        if failures:
            failures.pop()
            raise tf.errors.ResourceExhaustedError(None, None, "OOM")
        return run(*args)

    monkeypatch.setattr(tf.compat.v1.Session, "run", run_short_of_memory)
    np.testing.assert_array_equal(upscaler(lr), expected)
    assert caplog.text.count("half the size") == 2
    failures.extend(range(100))
    with pytest.raises(UserError, match="too little memory"):
        upscaler(lr)


@pytest.mark.parametrize("size", [(1, 1), (100, 333), (1080, 1920)])
@pytest.mark.parametrize("halo", [2, 36])
def test_tiles_cover_the_image_once_within_the_limit(size, halo):
    limit, box = 200 * 210, Box(0, 0, *size)
    covered = np.zeros(size, int)
    for tile in tiles(box, limit, halo):
        covered[tile.slices()] += 1
        grown = tile.grown(halo, box)
        assert (grown.bottom - grown.top) * (grown.right - grown.left) <= limit
    assert (covered == 1).all()


def test_tiles_are_as_large_as_the_limit_allows_and_never_below_their_halo():
    counts = [len(list(tiles(Box(0, 0, 1080, 1920), limit, 36))) for limit in (10**5, 10**6, 10**7)]
    assert counts == sorted(counts, reverse=True) and counts[-1] == 1
    assert len(list(tiles(Box(0, 0, 100, 80), max_px=1, halo=20))) == 5 * 4
    assert len(list(tiles(Box(0, 0, 100, 80), max_px=1, halo=2))) == 7 * 5  # of 16 px


def test_memory_budget_sets_the_tile_size(monkeypatch):
    """1 MB holds 2,730 px of six tensors in the trunk, and 292 px of 3.5 of 16 times the area in the head."""
    monkeypatch.setattr(runtime, "cpu_flags", lambda: {"avx512f"})  # by Winograd's algorithm it holds fewer
    for side, *is_cut in ((17, False, False), (18, False, True), (52, False, True), (53, True, True)):
        _, trunks, heads = in_tiles("tensorlayer", random_image(side, side))
        assert [trunks > 1, heads > 1] == is_cut, side


def test_blend_interpolates_weights(tmp_path):
    a, b = (write_weights(tmp_path / f"{seed}.npz", seed=seed) for seed in (1, 2))
    name = "SRGAN_g/n64s1/c/filters"
    first, second = (weights(seed=seed)[name] for seed in (1, 2))
    for fraction in (0.0, 0.3, 1.0):
        arrays, _ = load_generator(a, [(str(b), fraction)])
        np.testing.assert_allclose(arrays[name], (1 - fraction) * first + fraction * second, atol=1e-6)
        assert arrays[name].dtype == np.float32


def test_16_bit_images_are_computed_in_float32_whatever_the_precision(monkeypatch):
    """bfloat16 keeps about 8 of 16 bits."""
    asked = []
    monkeypatch.setattr(graph.runtime, "allow_reduced_precision", lambda _, dtype: asked.append(dtype))
    settings = make_config(settings=["RUNTIME.precision=bfloat16"]).RUNTIME
    with Upscaler(weights(), NETWORKS["tensorlayer"], settings) as upscaler:
        upscaler(random_image(5, 5))
        assert asked == [tf.bfloat16]
        upscaler(random_image(5, 5, dtype=np.uint16))
        assert asked == [tf.bfloat16, tf.float32]


def test_sessions_take_gpu_memory_as_needed(monkeypatch):
    arrays, session = weights(), Mock(wraps=tf.compat.v1.Session)
    monkeypatch.setattr(tf.compat.v1, "Session", session)
    with Upscaler(arrays, NETWORKS["tensorlayer"], SETTINGS):
        configs = [call.kwargs["config"] for call in session.call_args_list]
    assert len(configs) == 2 and all(config.gpu_options.allow_growth for config in configs)
