"""The inference graph and the tile engine."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from common.errors import UserError
from common.settings import make_config
from images.pixels import to_integers
from model import SRGAN_g
from tf1 import checkpoints, runtime
from tf1.folding import fold_batch_norm
from upscaling import graph
from upscaling import upscaler as engine
from upscaling.tiles import Box, tiles
from upscaling.upscaler import Upscaler, load_generator

SETTINGS = make_config(settings=["RUNTIME.precision=float32"]).RUNTIME
NETWORKS = {
    name: {**make_config(name).MODEL.generator, "num_blocks": 2, "num_filters": 4, "init": "fan_in"}
    for name in ("tensorlayer", "paper")
}
SCALED = {f"x{scale}": {**NETWORKS["tensorlayer"], "scale": scale} for scale in (2, 3, 8)}


def weights(arguments, seed=0):
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


def write_weights(path, arguments, seed=0, **meta):
    meta = {"network": "SRGAN_g", "arguments": arguments, "recipe": "test", "step": 1, **meta}
    checkpoints.write_npz(path, weights(arguments, seed), meta)
    return path


def picture(height, width, dtype=np.uint8, seed=0):
    largest = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, largest + 1, (height, width, 3), dtype=dtype)


@pytest.fixture(scope="module", params=NETWORKS)
def upscaler(request):
    arguments = NETWORKS[request.param]
    with Upscaler(weights(arguments), arguments, SETTINGS) as upscaler:
        yield upscaler


def stages_of(upscaler):
    """Of 8-bit pictures."""
    return upscaler.engine._stages_for(np.uint8)


@pytest.fixture
def small_tiles(upscaler, monkeypatch):
    def set_tiles(trunk_px, head_px):
        monkeypatch.setattr(upscaler, "_trunk_px", trunk_px)
        monkeypatch.setattr(upscaler, "_head_px", head_px)

    return set_tiles


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_other_scales_have_their_pixel_shuffles_and_exact_tiles(scale, monkeypatch):
    arguments = SCALED[f"x{scale}"]
    with Upscaler(weights(arguments), arguments, SETTINGS) as upscaler:
        ops = stages_of(upscaler).session.graph.get_operations()
        blocks = [op.get_attr("block_size") for op in ops if op.type == "DepthToSpace"]
        assert blocks == {2: [2], 3: [3], 8: [2, 2, 2]}[scale]
        lr = picture(37, 53)
        whole = upscaler(lr)
        assert whole.shape == (scale * 37, scale * 53, 3) and whole.std() > 1
        halo = upscaler._trunk_halo + upscaler._head_halo
        upscaler._trunk_px, upscaler._head_px = (2 * halo + 8) * (2 * halo + 9), 15 * 14
        assert np.abs(upscaler(lr).astype(int) - whole).max() <= (
            0 if "avx512f" in runtime.cpu_flags() else 1
        )


@pytest.mark.parametrize("network", NETWORKS)
def test_folded_graph_equals_the_graph_as_trained(network):
    arguments, lr = NETWORKS[network], picture(9, 7)
    arrays = weights(arguments)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        net = SRGAN_g(tf.constant(lr[None] / np.float32(127.5) - 1), **arguments)
        checkpoints.assign(session, net.all_params, arrays, "")
        as_trained = session.run(net.outputs)[0]
        folded = SRGAN_g(
            tf.constant(lr[None] / np.float32(127.5) - 1),
            reuse=tf.compat.v1.AUTO_REUSE,
            norm=False,
            **arguments,
        )
        checkpoints.assign(session, folded.all_params, fold_batch_norm(arrays, folded.norms), "")
        np.testing.assert_allclose(session.run(folded.outputs)[0], as_trained, atol=2e-5)
    with Upscaler(arrays, arguments, SETTINGS) as upscaler:
        difference = upscaler(lr).astype(int) - to_integers(as_trained, np.uint8)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("size", [(37, 53), (64, 20), (5, 400), (45, 61), (100, 33)])
def test_tiled_result_equals_the_whole_picture_bit_for_bit(upscaler, small_tiles, size, monkeypatch):
    """To rounding where oneDNN sums in an order that depends on the size: 9x9 filters, no AVX-512."""

    monkeypatch.setattr(engine, "to_integers", lambda sr, dtype: np.copy(sr))

    def floats():
        return upscaler(picture(*size))

    whole = floats()
    assert whole.shape == (4 * size[0], 4 * size[1], 3)
    assert whole.std() > 0.01  # not a constant picture
    halo = upscaler._trunk_halo + upscaler._head_halo
    small_tiles((2 * halo + 8) * (2 * halo + 9), 15 * 14)
    # more than one tile in both stages, or this would prove nothing
    box = Box(0, 0, *size)
    assert len(list(tiles(box, upscaler._trunk_px, halo))) > 1
    assert len(list(tiles(box, upscaler._head_px, upscaler._head_halo))) > 1
    is_exact = "avx512f" in runtime.cpu_flags() and upscaler.engine._arguments["first_kernel"] == 3
    atol = 0 if is_exact else 4e-6  # of 1: a 2,000th of an 8-bit value
    np.testing.assert_allclose(floats(), whole, rtol=0, atol=atol)


def test_every_level_of_8_bit_input_is_a_bfloat16_number(upscaler, monkeypatch):
    fed = []

    def run(fetch, feed):
        fed.extend(feed.values())
        (features,) = stages_of(upscaler).trunk.shape[-1:]
        is_trunk = fetch is stages_of(upscaler).trunk
        return np.zeros((1, 16, 16, features) if is_trunk else (1, 64, 64, 3), np.float32)

    monkeypatch.setattr(stages_of(upscaler).session, "run", run)
    upscaler(np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2))
    levels = fed[0][0, ..., 0].ravel()
    assert len(set(levels)) == 256
    np.testing.assert_array_equal(levels, levels.astype(tf.bfloat16.as_numpy_dtype).astype(np.float32))


@pytest.mark.parametrize("self_ensemble", [False, True])
def test_progress_grows_to_one(upscaler, small_tiles, self_ensemble):
    halo = upscaler._trunk_halo + upscaler._head_halo
    small_tiles((2 * halo + 8) * (2 * halo + 9), 15 * 14)
    shares = []
    upscaler(picture(37, 53), shares.append, self_ensemble=self_ensemble)
    assert len(shares) > 4
    assert all(0 < before < after for before, after in itertools.pairwise(shares))
    assert shares[-1] == 1.0


def test_halo_is_what_a_pixel_sees(upscaler):
    """Changing one LR pixel changes SR within the halo around it, and as far as that."""
    halo = upscaler._trunk_halo + upscaler._head_halo
    side = 2 * halo + 9
    lr = np.full((side, side, 3), 0.1, np.float32)
    stages = stages_of(upscaler)
    before = stages.session.run(stages.outputs, {stages.t_image: lr[None]})[0]
    lr[side // 2, side // 2] = -0.9
    changed = np.abs(stages.session.run(stages.outputs, {stages.t_image: lr[None]})[0] - before).max(-1) > 0
    rows = np.flatnonzero(changed.any(1)) // 4
    reach = max(side // 2 - rows.min(), rows.max() - side // 2)
    assert halo - 1 <= reach <= halo


def test_one_pixel_picture_works(upscaler):
    assert upscaler(picture(1, 1)).shape == (4, 4, 3)


def test_sixteen_bit_is_the_same_picture_with_finer_steps(upscaler):
    lr = picture(8, 6)
    fine = upscaler(lr.astype(np.uint16) * 257)
    assert fine.dtype == np.uint16
    assert np.abs(fine / 257 - upscaler(lr)).max() <= 0.5 + 1e-2
    assert (fine % 257 != 0).mean() > 0.9


def test_self_ensemble_is_the_mean_of_eight_views(upscaler):
    lr = picture(6, 9)
    views = []
    for turns in range(4):
        for flip in (False, True):
            view = np.rot90(lr, turns)
            view = np.fliplr(view) if flip else view
            sr = upscaler(view).astype(float)
            sr = np.fliplr(sr) if flip else sr
            views.append(np.rot90(sr, -turns))
    ensemble = upscaler(lr, self_ensemble=True)
    assert np.abs(ensemble - np.mean(views, 0)).max() <= 1.0  # the views here are rounded
    turned = upscaler(np.rot90(lr), self_ensemble=True)
    assert np.abs(turned.astype(int) - np.rot90(ensemble)).max() <= 1


def test_out_of_memory_halves_the_tiles_and_goes_on(upscaler, small_tiles, monkeypatch, caplog):
    lr = picture(30, 30)
    expected = upscaler(lr)
    small_tiles(10**9, 4 * engine.SMALLEST_TILE_PX)
    session = stages_of(upscaler).session
    run, failures = session.run, [0, 1]

    def run_short_of_memory(*args):
        if failures:
            failures.pop()
            raise tf.errors.ResourceExhaustedError(None, None, "OOM")
        return run(*args)

    monkeypatch.setattr(session, "run", run_short_of_memory)
    np.testing.assert_array_equal(upscaler(lr), expected)
    assert upscaler._head_px == engine.SMALLEST_TILE_PX
    assert caplog.text.count("half the size") == 2
    failures.append(0)
    with pytest.raises(UserError, match="too little memory"):
        upscaler(lr)


@pytest.mark.parametrize("size", [(1, 1), (100, 333), (1080, 1920)])
@pytest.mark.parametrize("halo", [2, 36])
def test_tiles_cover_the_picture_once_within_the_limit(size, halo):
    limit, box = 200 * 210, Box(0, 0, *size)
    covered = np.zeros(size, int)
    for tile in tiles(box, limit, halo):
        covered[tile.slices()] += 1
        grown = tile.grown(halo, box)
        assert (grown.bottom - grown.top) * (grown.right - grown.left) <= limit
    assert (covered == 1).all()


def test_larger_budget_gives_fewer_tiles():
    counts = [len(list(tiles(Box(0, 0, 1080, 1920), limit, 36))) for limit in (10**5, 10**6, 10**7)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 1


def test_memory_budget_sets_the_tile_size(monkeypatch):
    monkeypatch.setattr(runtime, "cpu_flags", lambda: {"avx512f"})
    arguments = NETWORKS["tensorlayer"]
    sizes = []
    for memory_mb in (100, 200):
        settings = make_config(settings=[f"RUNTIME.memory_mb={memory_mb}"]).RUNTIME
        with Upscaler(weights(arguments), arguments, settings) as upscaler:
            sizes.append((upscaler._trunk_px, upscaler._head_px))
    assert sizes[1][0] == pytest.approx(2 * sizes[0][0], rel=1e-3)
    assert sizes[1][1] == pytest.approx(2 * sizes[0][1], rel=1e-3)
    # six tensors of four filters in float32 at LR size; three and a half of 16 times as many pixels
    assert sizes[0] == (100 * 2**20 // (6 * 4 * 4), 100 * 2**20 // (14 * 4 * 4 * 4))


def test_tiles_are_not_cut_below_their_halo_even_if_they_do_not_fit():
    assert len(list(tiles(Box(0, 0, 100, 80), max_px=1, halo=20))) == 5 * 4
    assert len(list(tiles(Box(0, 0, 100, 80), max_px=1, halo=2))) == 7 * 5  # of 16 px


def test_blend_interpolates_weights(tmp_path):
    arguments = NETWORKS["tensorlayer"]
    a = write_weights(tmp_path / "a.npz", arguments, seed=1)
    b = write_weights(tmp_path / "b.npz", arguments, seed=2)
    name = "SRGAN_g/n64s1/c/filters"
    first, second = (weights(arguments, seed)[name] for seed in (1, 2))
    for share in (0.0, 0.3, 1.0):
        arrays, _ = load_generator(a, [(str(b), share)])
        np.testing.assert_allclose(arrays[name], (1 - share) * first + share * second, atol=1e-6)
        assert arrays[name].dtype == np.float32


def test_blend_of_different_networks_is_refused(tmp_path):
    a = write_weights(tmp_path / "a.npz", NETWORKS["tensorlayer"])
    b = write_weights(tmp_path / "b.npz", NETWORKS["paper"])
    with pytest.raises(UserError, match="networks differ"):
        load_generator(a, [(str(b), 0.5)])


@pytest.mark.parametrize("meta", [{"network": "SRGAN_d"}, {"network": None}])
def test_other_checkpoints_are_not_generators(tmp_path, meta):
    path = write_weights(tmp_path / "a.npz", NETWORKS["tensorlayer"], **meta)
    with pytest.raises(UserError, match="not the network SRGAN_g"):
        load_generator(path)


@pytest.mark.parametrize(
    "arguments", [{"num_blocks": 3}, {"unheard_of": 1}, {"activation": "prelu"}, {"activation": "selu"}]
)
def test_weights_that_do_not_fit_their_description_are_refused(arguments):
    described = {**NETWORKS["tensorlayer"], **arguments}
    with pytest.raises(UserError, match=r"does not fit|unknown network"):
        Upscaler(weights(NETWORKS["tensorlayer"]), described, SETTINGS, source="x.npz")


def test_integers_are_rounded_and_clipped():
    values = np.float32([-2, -1, 0, 1 / 255, 1, 3])
    assert to_integers(values, np.uint8).tolist() == [0, 0, 128, 128, 255, 255]
    assert to_integers(values, np.uint16).tolist()[-2:] == [65535, 65535]


def test_deep_pictures_are_computed_in_float32_whatever_the_precision(monkeypatch):
    """bfloat16 keeps about 8 of 16 bits."""
    asked = []
    monkeypatch.setattr(graph.runtime, "allow_reduced_precision", lambda _, dtype: asked.append(dtype))
    arguments = NETWORKS["tensorlayer"]
    settings = make_config(settings=["RUNTIME.precision=bfloat16"]).RUNTIME
    with Upscaler(weights(arguments), arguments, settings) as upscaler:
        assert asked == [tf.bfloat16]
        upscaler(picture(5, 5))
        assert asked == [tf.bfloat16]
        upscaler(picture(5, 5, np.uint16))
        assert asked == [tf.bfloat16, tf.float32]


def test_sixteen_bit_ramps_keep_their_levels():
    """Of 457 levels that are less than two of 8 bits."""
    ramp = np.linspace(30000, 30456, 457).astype(np.uint16)
    arrays, meta = load_generator(checkpoints.locate("srresnet"))
    with Upscaler(arrays, meta["arguments"], make_config().RUNTIME) as upscaler:
        sr = upscaler(ramp[None, :, None].repeat(8, 0).repeat(3, 2))
    assert len(np.unique(sr[16, :, 1])) > 400


def test_self_ensemble_in_tiles_equals_the_whole(upscaler, small_tiles):
    lr = picture(45, 61)
    whole = upscaler(lr, self_ensemble=True)
    halo = upscaler._trunk_halo + upscaler._head_halo
    small_tiles((2 * halo + 8) * (2 * halo + 9), 15 * 14)
    assert np.abs(upscaler(lr, self_ensemble=True).astype(int) - whole).max() <= 1


def test_sessions_take_gpu_memory_as_needed(monkeypatch):
    configs = []
    real = tf.compat.v1.Session.__init__

    def init(self, *args, **kwargs):
        configs.append(kwargs.get("config"))
        real(self, *args, **kwargs)

    monkeypatch.setattr(tf.compat.v1.Session, "__init__", init)
    arrays = weights(NETWORKS["tensorlayer"])
    configs.clear()
    with Upscaler(arrays, NETWORKS["tensorlayer"], SETTINGS):
        assert len(configs) == 2
        assert all(config.gpu_options.allow_growth for config in configs)
