"""The training graph in nine steps, as in section 6.2.1 of the note.

`build` builds the graph of one device. With several devices (tf1/distribution.py), each builds this graph for
its part of the batch, and they share batch norm's statistics, the sums of gradients and the means of losses.
"""

from __future__ import annotations

from types import SimpleNamespace

import tensorflow as tf

from model import SRGAN_d, SRGAN_g
from tf1.layers import tl
from tf1.optimiser import MovingAverage, minimise
from tf1.replicas import over_replicas
from training.losses import excess_loss, means_loss
from vgg19 import Vgg19_simple_api

v1 = tf.compat.v1


def build(config, dtype: tf.DType) -> SimpleNamespace:
    """Builds the graph in the default tf.Graph; returns its parts by name. Convolutions compute in `dtype`.

    One run of `g_optim` replaces the note's two runs: it updates D, then G against the updated D, with one
    forward pass of G. Without adversarial epochs the graph has neither D nor VGG19.
    """
    train, loss, vgg = config.TRAIN, config.LOSS, config.VGG
    scale, adversarial = config.MODEL.generator.scale, train.n_epoch > 0
    g_args = {**config.MODEL.generator, "init": train.init, "dtype": dtype}
    d_args = {**config.MODEL.discriminator, "init": train.init, "dtype": dtype}

    # 1. Placeholders: LR and HR of a batch, uint8
    hr_px, lr_px = train.hr_patch_size, train.hr_patch_size // scale
    t_image = v1.placeholder(tf.uint8, [None, lr_px, lr_px, 3], "t_image")
    t_target_image = v1.placeholder(tf.uint8, [None, hr_px, hr_px, 3], "t_target_image")
    lr, hr = to_range(t_image), to_range(t_target_image)

    # 2. Generator
    net_g = SRGAN_g(lr, is_train=True, reuse=False, **g_args)

    # 3. Discriminator for real images and, with the same variables, for generated images
    if adversarial:
        net_d, logits_real = SRGAN_d(hr, is_train=True, reuse=False, **d_args)
        net_d_fake, logits_fake = SRGAN_d(net_g.outputs, is_train=True, reuse=True, **d_args)

    # 4. VGG19 features of every `VGG.every`-th patch
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

    # 5. Test generator, with the same variables or their moving averages, for images of any size
    average = MovingAverage(net_g.all_params, train.ema_decay)
    t_test_image = v1.placeholder(tf.uint8, [None, None, None, 3], "t_test_image")
    with v1.variable_scope("", reuse=True, custom_getter=average.getter):
        g_test_args = {**config.MODEL.generator, "dtype": dtype}
        net_g_test = SRGAN_g(to_range(t_test_image), is_train=False, reuse=True, **g_test_args)
    sr_test = to_pixels(net_g_test.outputs)

    # 6. Losses. g_gan_loss uses D after its update and is therefore in step 9
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
    adam = {"lr_v": lr_v, "beta1": train.beta1}
    g_optim_init, g_init_finite = minimise(
        "g_optim_init", mse_loss, g_vars, **adam, nets=[net_g], average=average
    )
    if adversarial:
        d_optim, d_finite = minimise("d_optim", d_loss, d_vars, **adam, nets=[net_d, net_d_fake])
        with tf.control_dependencies([d_optim]):
            _, logits_of_updated_d = SRGAN_d(net_g.outputs, is_train=True, reuse=True, **d_args)
        g_gan_loss = loss.adversarial * tl.cost.sigmoid_cross_entropy(
            logits_of_updated_d, tf.ones_like(logits_of_updated_d)
        )
        weighted_mse_loss = loss.mse * mse_loss
        g_loss = weighted_mse_loss + vgg_loss + g_gan_loss
        for extra_loss in extra_losses.values():
            g_loss += extra_loss
        g_optim, g_finite = minimise("g_optim", g_loss, g_vars, **adam, nets=[net_g], average=average)

    # For the log: means over all devices, with mse_loss weighted, so that G's terms add up to g_loss
    g_init_losses = over_replicas({"mse_loss": mse_loss})
    if adversarial:
        finite = tf.logical_and(d_finite, g_finite)
        d_losses = over_replicas({"d_loss1": d_loss1, "d_loss2": d_loss2, "d_loss": d_loss})
        g_terms = {"mse_loss": weighted_mse_loss, "vgg_loss": vgg_loss, "g_gan_loss": g_gan_loss}
        g_losses = {**d_losses, **over_replicas({**g_terms, **extra_losses, "g_loss": g_loss})}
    return SimpleNamespace(**locals())


def to_range(images: tf.Tensor) -> tf.Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return tf.cast(images, tf.float32) / 127.5 - 1.0


def to_pixels(images: tf.Tensor) -> tf.Tensor:
    """float in [-1, 1] -> uint8, rounded and clipped."""
    return tf.cast(tf.round(tf.clip_by_value((images + 1.0) * 127.5, 0.0, 255.0)), tf.uint8)
