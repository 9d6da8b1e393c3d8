"""The training graph: section 6.2.1 of the note, in its nine steps.

It is the graph of one device. Several devices (tf1/distribution.py) each build it for their part of the
batch; sums of gradients, means of losses and batch-norm statistics connect them.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace

import tensorflow as tf

from model import SRGAN_d, SRGAN_g
from tf1.average import MovingAverage
from tf1.distribution import num_replicas, over_replicas, sum_of_replicas
from tf1.layers import tl
from training.losses import excess_loss, means_loss
from vgg19 import Vgg19_simple_api

v1 = tf.compat.v1


def build(config, dtype: tf.DType) -> SimpleNamespace:
    """Builds the graph in the default tf.Graph and returns its names; convolutions compute in `dtype`.

    One run of `g_optim` is the note's two runs: D's update, then G's against the updated D, with one forward
    pass of G and one VGG19 pass of the target. Without adversarial epochs there is no D and no VGG19.
    """
    train, loss, vgg = config.TRAIN, config.LOSS, config.VGG
    p, scale, adversarial = train.hr_patch_size, config.MODEL.generator.scale, train.n_epoch > 0
    g_args = {**config.MODEL.generator, "init": train.init, "dtype": dtype}
    d_args = {**config.MODEL.discriminator, "init": train.init, "dtype": dtype}

    # 1. Placeholders: LR and HR of a batch, uint8
    t_image = v1.placeholder(tf.uint8, [None, p // scale, p // scale, 3], "t_image")
    t_target_image = v1.placeholder(tf.uint8, [None, p, p, 3], "t_target_image")
    lr, hr = to_range(t_image), to_range(t_target_image)

    # 2. Generator
    net_g = SRGAN_g(lr, is_train=True, reuse=False, **g_args)

    # 3. Discriminator, of real and, with the same variables, of generated images
    if adversarial:
        net_d, logits_real = SRGAN_d(hr, is_train=True, reuse=False, **d_args)
        net_d_fake, logits_fake = SRGAN_d(net_g.outputs, is_train=True, reuse=True, **d_args)

    # 4. VGG19 features, of every patch or every so many
    def features(images, reuse):
        if vgg.every > 1:
            images = images[:: vgg.every]
        if vgg.input_size:
            images = tf.image.resize(images, [vgg.input_size, vgg.input_size])  # bilinear
        layer = {"layer": vgg.layer, "before_relu": vgg.before_relu, "dtype": dtype}
        return Vgg19_simple_api((images + 1) / 2, reuse=reuse, **layer)

    if adversarial:
        net_vgg, vgg_target_emb = features(hr, reuse=False)
        _, vgg_predict_emb = features(net_g.outputs, reuse=True)

    # 5. The generator for use: the same variables, or their moving averages, of images of any size
    global_step = v1.train.get_or_create_global_step()
    average = MovingAverage(net_g.all_params, train.ema_decay)
    t_test_image = v1.placeholder(tf.uint8, [None, None, None, 3], "t_test_image")
    with v1.variable_scope("", reuse=True, custom_getter=average.getter):
        net_g_test = SRGAN_g(to_range(t_test_image), reuse=True, **config.MODEL.generator, dtype=dtype)
    sr_test = to_pixels(net_g_test.outputs)

    # 6. Losses; G's against D comes with its optimiser, which needs the updated D
    mse_loss = tl.cost.mean_squared_error(net_g.outputs, hr, is_mean=True)
    if adversarial:
        d_loss1 = tl.cost.sigmoid_cross_entropy(logits_real, tf.ones_like(logits_real))
        d_loss2 = tl.cost.sigmoid_cross_entropy(logits_fake, tf.zeros_like(logits_fake))
        d_loss = d_loss1 + d_loss2
        embs = vgg_predict_emb.outputs, vgg_target_emb.outputs
        vgg_loss = loss.vgg * tl.cost.mean_squared_error(*embs, is_mean=True)
        extra_losses = {}
        if loss.means:
            extra_losses["means_loss"] = loss.means * means_loss(net_g.outputs, hr, scale)
        if loss.excess:
            extra_losses["excess_loss"] = loss.excess * excess_loss(net_g.outputs, hr)

    # 7. Variables
    g_vars = tl.layers.get_variables_with_name("SRGAN_g", True, False)
    d_vars = tl.layers.get_variables_with_name("SRGAN_d", True, False)

    # 8. Learning rate, shared by the three optimisers
    with v1.variable_scope("learning_rate"):
        lr_v = v1.get_variable("lr_v", initializer=train.lr_init, trainable=False)

    # 9. Optimisers
    def minimise(name, value, variables, *nets, of_g=True):
        """Adam's step and the averages' updates; one that is not finite moves nothing, despite momentum."""
        gradients = v1.gradients(value / num_replicas(), variables)
        finite = tf.math.is_finite(sum_of_replicas(tf.add_n([tf.reduce_sum(g) for g in gradients])))
        adam = v1.train.AdamOptimizer(tf.where(finite, lr_v, 0.0), train.beta1, name=name)
        gradients = [tf.where(finite, g, tf.zeros_like(g)) for g in gradients]
        updates = [adam.apply_gradients(zip(gradients, variables))]
        for net in nets:  # fixed order: floating-point sums must not depend on scheduling
            with tf.control_dependencies(updates):
                updates += net.moving_average_updates(finite)
        if of_g:
            with tf.control_dependencies(updates):
                updates.append(global_step.assign_add(tf.cast(finite, tf.int64)).op)
            with tf.control_dependencies(updates):
                updates.append(average.update(global_step, finite))
        return tf.group(*updates), finite

    g_optim_init, g_init_finite = minimise("g_optim_init", mse_loss, g_vars, net_g)
    if adversarial:
        d_optim, d_finite = minimise("d_optim", d_loss, d_vars, net_d, net_d_fake, of_g=False)
        with tf.control_dependencies([d_optim]):
            _, logits_fake = SRGAN_d(net_g.outputs, is_train=True, reuse=True, **d_args)
        g_gan_loss = loss.adversarial * tl.cost.sigmoid_cross_entropy(logits_fake, tf.ones_like(logits_fake))
        g_losses = {"mse_loss": loss.mse * mse_loss, "vgg_loss": vgg_loss, "g_gan_loss": g_gan_loss}
        g_losses |= extra_losses
        g_losses["g_loss"] = g_loss = functools.reduce(tf.add, g_losses.values())
        g_optim, g_finite = minimise("g_optim", g_loss, g_vars, net_g)

    # For the log
    g_init_losses = over_replicas({"mse_loss": mse_loss})
    if adversarial:
        d_losses = over_replicas({"d_loss1": d_loss1, "d_loss2": d_loss2, "d_loss": d_loss})
        g_losses = {**d_losses, **over_replicas(g_losses)}
        finite = tf.logical_and(d_finite, g_finite)
    return SimpleNamespace(**locals())


def to_range(images: tf.Tensor) -> tf.Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return tf.cast(images, tf.float32) / 127.5 - 1.0


def to_pixels(images: tf.Tensor) -> tf.Tensor:
    """float in [-1, 1] -> uint8, rounded and clipped."""
    return tf.cast(tf.round(tf.clip_by_value((images + 1.0) * 127.5, 0.0, 255.0)), tf.uint8)
