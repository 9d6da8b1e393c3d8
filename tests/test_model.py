"""Generator and discriminator."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from common.settings import make_config
from model import SRGAN_d, SRGAN_g
from tf1 import convolutions, runtime
from tf1.layers import Add, BatchNorm

SMALL_D = {"convs": ((4, 2, 4), (4, 2, 8), (1, 1, 6)), "residual": (3, 5)}


def initialize(session):
    session.run(tf.compat.v1.global_variables_initializer())


def images_of(shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


BLOCK = 2 * (3 * 3 * 64 * 64 + 4 * 64)  # two convolutions without bias, two batch norms
TRUNK_END_AND_UPSAMPLING = (3 * 3 * 64 * 64 + 4 * 64) + 2 * (3 * 3 * 64 * 256 + 256)


def strided(sides, widths):
    """Convolutions without bias, with batch norm."""
    return sum(sides**2 * a * b + 4 * b for a, b in itertools.pairwise(widths))


GENERATORS = {
    "tensorlayer": (3 * 3 * 3 * 64 + 64) + 16 * BLOCK + TRUNK_END_AND_UPSAMPLING + (64 * 3 + 3),
    # 9x9 ends, one PReLU per block and after each stage
    "paper": (9 * 9 * 3 * 64 + 64 + 64)
    + 16 * (BLOCK + 64)
    + TRUNK_END_AND_UPSAMPLING
    + 2 * 64
    + (9 * 9 * 64 * 3 + 3),
}
DISCRIMINATORS = {
    "tensorlayer": (4 * 4 * 3 * 64 + 64)  # h0 has a bias and no batch norm
    + strided(4, [64, 128, 256, 512, 1024, 2048])
    + strided(1, [2048, 1024, 512, 128])
    + strided(3, [128, 128, 512])
    + (6 * 6 * 512 + 1),  # 384 / 2^6 = 6
    "paper": (9 * 3 * 64 + 64)
    + strided(3, [64, 64, 128, 128, 256, 256, 512, 512])
    + (6 * 6 * 512 * 1024 + 1024 + 1024 + 1),
}


@pytest.mark.parametrize(("recipe", "side"), [("tensorlayer", 384), ("paper", 96)])
def test_networks_have_their_parameters_and_print_them(graph, capsys, recipe, side):
    model = make_config(recipe).MODEL
    net_g = SRGAN_g(tf.zeros([1, 8, 8, 3]), **model.generator)
    net_d, logits = SRGAN_d(tf.zeros([2, side, side, 3]), **model.discriminator)
    assert logits.shape.as_list() == [2, 1]
    for net, expected in ((net_g, GENERATORS[recipe]), (net_d, DISCRIMINATORS[recipe])):
        net.print_params()
        text = capsys.readouterr().out
        assert net.count_params() == expected and f"number of parameters: {expected:,}" in text
        assert all(param.op.name in text for param in net.all_params)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 9)])
def test_generator_output_is_four_times_any_size_and_independent_of_the_batch(session, size):
    x = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3])
    net = SRGAN_g(x, num_blocks=1, num_filters=4, init="fan_in")
    initialize(session)
    batch = images_of((3, *size, 3))
    together = session.run(net.outputs, {x: batch})
    assert together.shape == (3, 4 * size[0], 4 * size[1], 3)
    np.testing.assert_allclose(together[1:2], session.run(net.outputs, {x: batch[1:2]}), atol=1e-6)


def test_a_patch_gan_judges_each_position_by_the_pixels_it_sees(session):
    shape = {"convs": ((3, 2, 4), (3, 2, 4)), "residual": (), "dense": (5,), "init": "fan_in"}
    x = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3])
    images = images_of((2, 16, 24, 3))
    _, logits = SRGAN_d(x, is_train=False, patch_gan=True, **shape)
    initialize(session)
    whole = session.run(logits, {x: images})
    # padding of even sides is at the right and the bottom alone, so the first position of a part sees none
    part = session.run(logits, {x: images[:, 4:12, 4:12]})
    assert whole.shape == (2 * 4 * 6, 1) and np.ptp(whole) > 0
    np.testing.assert_allclose(whole.reshape(2, 4, 6)[:, 1, 1], part.reshape(2, 2, 2)[:, 0, 0], rtol=1e-5)


def test_reuse_adds_no_variable_and_shares_weights_and_ds_output_is_the_sigmoid_of_its_logits(session):
    images = tf.constant(images_of((2, 18, 22, 3)))
    outputs, variables = [], []
    for reuse in (False, True):
        net_g = SRGAN_g(images, reuse=reuse, num_blocks=1, num_filters=4)
        net_d, logits = SRGAN_d(images, reuse=reuse, **SMALL_D)
        outputs.append((net_g.outputs, net_d.outputs, logits))
        variables.append(([p.op.name for p in net_g.all_params], len(tf.compat.v1.global_variables())))
    assert variables[0] == variables[1]
    initialize(session)
    first, again = session.run(outputs)
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)
    _, probability, logits = first
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logits)), rtol=1e-6)


@pytest.mark.parametrize("recipe", ["tensorlayer", "paper"])
def test_every_trainable_variable_gets_a_gradient(session, recipe):
    model = make_config(recipe).MODEL
    small = {**model.generator, "num_blocks": 2, "num_filters": 4}
    net = SRGAN_g(tf.constant(images_of((2, 6, 6, 3))), is_train=True, init="fan_in", **small)
    convs = tuple((k, s, f // 32) for k, s, f in model.discriminator.convs)
    _, logits = SRGAN_d(net.outputs, init="fan_in", **{**model.discriminator, "convs": convs})
    variables = tf.compat.v1.trainable_variables()
    # moving averages are the only variables that are not trained
    assert len(variables) < len(tf.compat.v1.global_variables())
    gradients = tf.gradients(tf.reduce_sum(logits**2), variables)
    initialize(session)
    for variable, gradient in zip(variables, session.run(gradients)):
        assert np.abs(gradient).max() > 0, variable.name


def test_moving_averages_approach_the_batch_statistics_when_they_are_updated(session):
    x = images_of((8, 5, 5, 3)) * 3 + 2
    norm = BatchNorm(True, name="norm")
    outputs = norm(tf.constant(x))
    initialize(session)
    averages = [norm.moving_mean, norm.moving_var]
    session.run(outputs)
    session.run(norm.moving_average_updates(tf.constant(False)))  # of a step that is not finite
    mean, var = session.run(averages)
    assert (mean == 0).all() and (var == 1).all()
    session.run(norm.moving_average_updates(tf.constant(True)))
    mean, var = session.run(averages)
    # decay 0.9 from mean 0 and variance 1; the batch's variance is the unbiased one
    np.testing.assert_allclose(mean, 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(var, 0.9 + 0.1 * x.reshape(-1, 3).var(0, ddof=1), rtol=1e-5)


def test_initial_weights_follow_the_note(session):
    net = SRGAN_g(tf.zeros([1, 8, 8, 3]), num_blocks=2)
    initialize(session)
    for param, value in zip(net.all_params, session.run(net.all_params)):
        kind = param.op.name.rsplit("/", 1)[1]
        if kind == "filters" and value.size > 1000:
            assert abs(value.mean()) < 0.003
            assert abs(value.std() - 0.02) < 0.002
        elif kind == "gamma":
            assert abs(value.mean() - 1) < 0.01
        elif kind in ("biases", "beta", "moving_mean"):
            assert not value.any()
        elif kind == "moving_var":
            assert (value == 1).all()


def test_same_seed_gives_same_weights_whatever_else_is_in_the_graph():
    values = []
    for extra in (0, 3):
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            tf.compat.v1.set_random_seed(7)
            for _ in range(extra):
                tf.random.normal([2])
            net = SRGAN_g(tf.zeros([1, 8, 8, 3]), num_blocks=1, num_filters=4)
            initialize(session)
            values.append(session.run(net.all_params))
    for a, b in zip(*values):
        np.testing.assert_array_equal(a, b)


def test_bfloat16_outputs_float32_close_to_float32(session):
    images = tf.constant(images_of((1, 6, 6, 3)))
    full = SRGAN_g(images, num_blocks=2, num_filters=8, init="fan_in")
    reduced = SRGAN_g(images, reuse=True, num_blocks=2, num_filters=8, init="fan_in", dtype=tf.bfloat16)
    assert reduced.outputs.dtype == tf.float32
    initialize(session)
    a, b = session.run([full.outputs, reduced.outputs])
    assert 0 < np.abs(a - b).max() < 0.1


@pytest.mark.parametrize(("side", "stride"), [(1, 1), (3, 1), (4, 2), (6, 3), (2, 1)])
@pytest.mark.parametrize(("height", "width"), [(3, 3), (5, 6), (1, 2)])
def test_convolutions_of_few_positions_equal_tensorflows(session, side, stride, height, width):
    filters = 16 * height * width + 1  # more than positions in a batch of 16: computed as a matrix product
    x, w = tf.constant(images_of((2, height, width, 3))), tf.constant(images_of((side, side, 3, filters), 1))
    ours, plain = convolutions.conv2d(x, w, stride), tf.nn.conv2d(x, w, stride, "SAME")
    assert runtime.has_gpu() or ours.op.type != "Conv2D"
    assert ours.shape == plain.shape
    gradients = [tf.gradients(tf.reduce_sum(y * y), [x, w]) for y in (ours, plain)]
    values, values_plain = session.run([(ours, *gradients[0]), (plain, *gradients[1])])
    for value, value_plain in zip(values, values_plain):
        np.testing.assert_allclose(value, value_plain, rtol=1e-3, atol=1e-4)


def test_the_convolution_before_ds_residual_sum_is_linear():
    """Only the sum is activated: layer `h7` has no leaky ReLU of its own in the note's network."""
    for residual, linear in (((4, 4), ["h2/bn", "res/bn3"]), ((), [])):
        with tf.Graph().as_default():
            convs = ((4, 2, 4), (4, 2, 8), (4, 2, 8))
            net, _ = SRGAN_d(tf.zeros([1, 32, 32, 3]), convs=convs, residual=residual)
        assert [x.name for x in net.all_layers if isinstance(x, BatchNorm | Add) and x.act is None] == linear
