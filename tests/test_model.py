"""Generator and discriminator."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from common.settings import make_config
from model import SRGAN_d, SRGAN_g
from tf1 import convolutions
from tf1.layers import BatchNorm

SMALL_D = {"convs": ((4, 2, 4), (4, 2, 8), (1, 1, 6)), "residual": (3, 5)}
PAPER = make_config("paper")


def initialize(session):
    session.run(tf.compat.v1.global_variables_initializer())


def pictures(shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def test_generator_of_the_note_has_its_parameters(graph):
    net = SRGAN_g(tf.zeros([1, 8, 8, 3]))
    block = 2 * (3 * 3 * 64 * 64 + 4 * 64)  # two convolutions without bias, two batch norms
    expected = (
        (3 * 3 * 3 * 64 + 64)  # n64s1/c
        + 16 * block
        + (3 * 3 * 64 * 64 + 4 * 64)  # n64s1/c/m
        + 2 * (3 * 3 * 64 * 256 + 256)  # n256s1
        + (64 * 3 + 3)  # out, 1x1
    )
    assert net.count_params() == expected == 1_522_371
    assert len(net.all_params) == 173  # arrays in TensorLayer's g_srgan.npz


def test_generator_variables_are_in_the_order_of_old_files(graph):
    names = [param.op.name for param in SRGAN_g(tf.zeros([1, 8, 8, 3])).all_params]
    assert names[:8] == [
        "SRGAN_g/n64s1/c/filters",
        "SRGAN_g/n64s1/c/biases",
        "SRGAN_g/n64s1/c1/0/filters",
        "SRGAN_g/n64s1/b1/0/beta",
        "SRGAN_g/n64s1/b1/0/gamma",
        "SRGAN_g/n64s1/b1/0/moving_mean",
        "SRGAN_g/n64s1/b1/0/moving_var",
        "SRGAN_g/n64s1/c2/0/filters",
    ]
    assert names[-6:] == [
        f"SRGAN_g/{layer}/{kind}"
        for layer in ("n256s1/1", "n256s1/2", "out")
        for kind in ("filters", "biases")
    ]


def test_paper_generator_has_its_parameters(graph):
    net = SRGAN_g(tf.zeros([1, 8, 8, 3]), **PAPER.MODEL.generator)
    expected = (
        (9 * 9 * 3 * 64 + 64 + 64)  # convolution and PReLU
        + 16 * (2 * (3 * 3 * 64 * 64 + 4 * 64) + 64)  # one PReLU per block
        + (3 * 3 * 64 * 64 + 4 * 64)
        + 2 * (3 * 3 * 64 * 256 + 256 + 64)
        + (9 * 9 * 64 * 3 + 3)
    )
    assert net.count_params() == expected


def test_discriminator_of_the_note_has_its_parameters(graph):
    net, logits = SRGAN_d(tf.zeros([2, 384, 384, 3]))
    widths = [64, 128, 256, 512, 1024, 2048]
    strided = sum(16 * a * b + 4 * b for a, b in itertools.pairwise(widths))
    expected = (
        (4 * 4 * 3 * 64 + 64)  # h0 has a bias and no batch norm
        + strided
        + (2048 * 1024 + 4 * 1024)
        + (1024 * 512 + 4 * 512)
        + (512 * 128 + 4 * 128)
        + (3 * 3 * 128 * 128 + 4 * 128)
        + (3 * 3 * 128 * 512 + 4 * 512)
        + (6 * 6 * 512 + 1)  # 384 / 2^6 = 6
    )
    assert net.count_params() == expected
    assert logits.shape.as_list() == [2, 1]


def test_paper_discriminator_has_its_parameters(graph):
    net, _ = SRGAN_d(tf.zeros([2, 96, 96, 3]), **PAPER.MODEL.discriminator)
    widths = [64, 64, 128, 128, 256, 256, 512, 512]
    convs = sum(9 * a * b + 4 * b for a, b in itertools.pairwise(widths))
    dense = 6 * 6 * 512 * 1024 + 1024 + 1024 + 1
    assert net.count_params() == 9 * 3 * 64 + 64 + convs + dense


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (16, 9)])
def test_generator_output_is_four_times_any_size(session, size):
    net = SRGAN_g(tf.constant(pictures((2, *size, 3))), num_blocks=1, num_filters=4)
    initialize(session)
    assert session.run(net.outputs).shape == (2, 4 * size[0], 4 * size[1], 3)


def test_discriminator_output_is_the_sigmoid_of_its_logits(session):
    net, logits = SRGAN_d(tf.constant(pictures((3, 18, 22, 3))), **SMALL_D)
    initialize(session)
    probability, logits = session.run([net.outputs, logits])
    assert logits.shape == (3, 1)
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logits)), rtol=1e-6)


def test_a_patch_gan_judges_each_place_by_what_it_sees_as_a_discriminator_of_that_alone_would(session):
    shape = {"convs": ((3, 2, 4), (3, 2, 4)), "residual": (), "dense": (5,), "init": "fan_in"}
    images = pictures((2, 16, 16, 3))
    _, logits = SRGAN_d(tf.constant(images), is_train=False, patch_gan=True, **shape)
    # padding of even sides is at the right and the bottom alone, so the first place of a part sees none
    part = tf.constant(images[:, 4:12, 4:12])
    _, alone = SRGAN_d(part, is_train=False, reuse=True, patch_gan=True, **shape)
    initialize(session)
    logits, alone = session.run([logits, alone])
    assert logits.shape == (2 * 4 * 4, 1) and np.ptp(logits) > 0
    np.testing.assert_allclose(logits.reshape(2, 4, 4)[:, 1, 1], alone.reshape(2, 2, 2)[:, 0, 0], rtol=1e-5)


def test_a_patch_gan_takes_patches_of_any_size(session):
    images = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3])
    shape = {"convs": ((3, 2, 4), (3, 2, 4)), "residual": (), "dense": (), "init": "fan_in"}
    _, logits = SRGAN_d(images, is_train=False, patch_gan=True, **shape)
    initialize(session)
    assert session.run(logits, {images: pictures((2, 16, 24, 3))}).shape == (2 * 4 * 6, 1)
    assert session.run(logits, {images: pictures((1, 8, 8, 3))}).shape == (2 * 2, 1)


def test_reuse_adds_no_variable_and_shares_weights(session):
    images = tf.constant(pictures((2, 8, 8, 3)))
    first = SRGAN_g(images, num_blocks=1, num_filters=4)
    _, d_logits = SRGAN_d(images, **SMALL_D)
    count = len(tf.compat.v1.global_variables())
    second = SRGAN_g(images, reuse=True, num_blocks=1, num_filters=4)
    _, d_logits_again = SRGAN_d(images, reuse=True, **SMALL_D)
    assert len(tf.compat.v1.global_variables()) == count
    assert [p.op.name for p in second.all_params] == [p.op.name for p in first.all_params]
    initialize(session)
    a, b, c, d = session.run([first.outputs, second.outputs, d_logits, d_logits_again])
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(c, d)


def test_building_twice_without_reuse_is_refused(graph):
    SRGAN_g(tf.zeros([1, 8, 8, 3]), num_blocks=1, num_filters=4)
    with pytest.raises(ValueError, match="already exists"):
        SRGAN_g(tf.zeros([1, 8, 8, 3]), num_blocks=1, num_filters=4)


@pytest.mark.parametrize("recipe", ["tensorlayer", "paper"])
def test_every_trainable_variable_gets_a_gradient(session, recipe):
    arguments = {**make_config(recipe).MODEL.generator, "num_blocks": 2, "num_filters": 4, "init": "fan_in"}
    net = SRGAN_g(tf.constant(pictures((2, 6, 6, 3))), is_train=True, **arguments)
    convs = tuple((k, s, f // 32) for k, s, f in make_config(recipe).MODEL.discriminator.convs)
    shape = {**make_config(recipe).MODEL.discriminator, "convs": convs, "init": "fan_in"}
    _, logits = SRGAN_d(net.outputs, **shape)
    variables = tf.compat.v1.trainable_variables()
    # moving averages are the only variables that are not trained
    assert len(variables) < len(tf.compat.v1.global_variables())
    gradients = tf.gradients(tf.reduce_sum(logits**2), variables)
    initialize(session)
    for variable, gradient in zip(variables, session.run(gradients)):
        assert np.abs(gradient).max() > 0, variable.name


def test_moving_averages_move_in_training_and_only_then(session):
    images = tf.constant(pictures((4, 8, 8, 3)))
    net = SRGAN_g(images, is_train=True, num_blocks=1, num_filters=4, init="fan_in")
    test_net = SRGAN_g(images, reuse=True, num_blocks=1, num_filters=4)
    initialize(session)
    averages = [p for p in net.all_params if "moving" in p.op.name]
    before = session.run(averages)
    session.run([net.outputs, test_net.outputs])
    for a, b in zip(before, session.run(averages)):
        np.testing.assert_array_equal(a, b)
    session.run(net.moving_average_updates(tf.constant(True)))
    for a, b in zip(before, session.run(averages)):
        assert np.all(a != b)


def test_moving_averages_approach_the_batch_statistics(session):
    x = pictures((8, 5, 5, 3)) * 3 + 2
    norm = BatchNorm(True, name="norm")
    norm(tf.constant(x))
    initialize(session)
    session.run(norm.moving_average_updates(tf.constant(True)))
    mean, var = session.run([norm.moving_mean, norm.moving_var])
    # decay 0.9 from mean 0 and variance 1; the batch's variance is the unbiased one
    np.testing.assert_allclose(mean, 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(var, 0.9 + 0.1 * x.reshape(-1, 3).var(0, ddof=1), rtol=1e-5)


def test_inference_of_a_picture_is_independent_of_its_batch(session):
    x = tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 3])
    net = SRGAN_g(x, num_blocks=1, num_filters=4, init="fan_in")
    initialize(session)
    batch = pictures((3, 8, 8, 3))
    together = session.run(net.outputs, {x: batch})
    alone = session.run(net.outputs, {x: batch[1:2]})
    np.testing.assert_allclose(together[1:2], alone, atol=1e-6)


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
    images = tf.constant(pictures((1, 6, 6, 3)))
    full = SRGAN_g(images, num_blocks=2, num_filters=8, init="fan_in")
    reduced = SRGAN_g(images, reuse=True, num_blocks=2, num_filters=8, init="fan_in", dtype=tf.bfloat16)
    assert reduced.outputs.dtype == tf.float32
    initialize(session)
    a, b = session.run([full.outputs, reduced.outputs])
    assert 0 < np.abs(a - b).max() < 0.1


def test_network_prints_its_layers_and_parameters(graph, capsys):
    net = SRGAN_g(tf.zeros([1, 8, 8, 3]), num_blocks=1, num_filters=4)
    net.print_layers()
    net.print_params()
    text = capsys.readouterr().out
    assert "pixelshufflerx2/2" in text and "[1, 32, 32, 3]" in text
    assert "SRGAN_g/n64s1/c/filters" in text and f"{net.count_params():,}" in text


@pytest.mark.parametrize(("side", "stride"), [(1, 1), (3, 1), (4, 2), (6, 3), (2, 1)])
@pytest.mark.parametrize(("height", "width"), [(3, 3), (5, 6), (1, 2)])
def test_convolution_of_few_positions_equals_tensorflows_own(session, side, stride, height, width):
    x, w = tf.constant(pictures((2, height, width, 3))), tf.constant(pictures((side, side, 3, 5), seed=1))
    ours, plain = convolutions._conv2d_of_few_positions(x, w, stride), tf.nn.conv2d(x, w, stride, "SAME")
    assert ours.shape == plain.shape
    gradients = [tf.gradients(tf.reduce_sum(y * y), [x, w]) for y in (ours, plain)]
    values, values_plain = session.run([(ours, *gradients[0]), (plain, *gradients[1])])
    for value, value_plain in zip(values, values_plain):
        np.testing.assert_allclose(value, value_plain, rtol=1e-4, atol=1e-5)


def test_the_convolution_before_ds_residual_sum_is_linear():
    """Only the sum is activated: layer `h7` has no leaky ReLU of its own in the note's network."""
    with tf.Graph().as_default():
        net, _ = SRGAN_d(tf.zeros([1, 32, 32, 3]), convs=((4, 2, 4), (4, 2, 8), (4, 2, 8)), residual=(4, 4))
    acts = {layer.name: layer.act is not None for layer in net.all_layers if hasattr(layer, "act")}
    assert {name: acts[name] for name in ("h1/bn", "h2/bn", "res/bn2", "res/bn3", "res/add")} == {
        "h1/bn": True, "h2/bn": False, "res/bn2": True, "res/bn3": False, "res/add": True,
    }  # fmt: skip
    with tf.Graph().as_default():
        net, _ = SRGAN_d(tf.zeros([1, 32, 32, 3]), convs=((4, 2, 4), (4, 2, 8)), residual=())
    assert all(layer.act is not None for layer in net.all_layers if layer.name == "h1/bn")
