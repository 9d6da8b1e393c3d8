"""The training graph: placeholders, networks, losses, and one operation per kind of training step."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

import bicubic
import losses
import vgg19
from model import SCALE, SRGAN_d, SRGAN_g
from schedule import ADVERSARIAL, PRETRAIN


@dataclass
class TrainingGraph:
    """What the loop runs; losses map their log names to scalar tensors."""

    t_target_image: tf.Tensor  # uint8 [N, p, p, 3]
    t_image: tf.Tensor  # uint8 [N, p / 4, p / 4, 3], made from t_target_image unless fed
    t_test_image: tf.Tensor  # uint8 [N, h, w, 3]
    t_test_output: tf.Tensor  # uint8 [N, 4h, 4w, 3]
    lr_v: tf.Variable
    global_step: tf.Variable
    g_params: list[tf.Variable]
    g_average: dict[str, tf.Variable]  # moving average of trained weights by their name; may be empty
    d_params: list[tf.Variable]
    vgg_params: list[tf.Variable]
    steps: dict[str, tf.Operation]  # phase -> one training step
    losses: dict[str, dict[str, tf.Tensor]]  # phase -> losses of that step


def to_range(images: tf.Tensor) -> tf.Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return tf.cast(images, tf.float32) / 127.5 - 1.0


def to_pixels(images: tf.Tensor) -> tf.Tensor:
    """float in [-1, 1] -> uint8, rounded and clipped."""
    return tf.cast(tf.round(tf.clip_by_value((images + 1.0) * 127.5, 0.0, 255.0)), tf.uint8)


def build_training_graph(config, dtype: tf.DType) -> TrainingGraph:
    """Adds placeholders, networks, losses and optimisers to the default graph.

    An adversarial step is one run: D's update first, then G's against the updated D, sharing one
    forward pass of G and one VGG19 pass of the target; the numbers are those of two separate runs.
    """
    patch = config.TRAIN.hr_patch_size
    t_target_image = tf.compat.v1.placeholder(tf.uint8, [None, patch, patch, 3], "t_target_image")
    t_image = tf.compat.v1.placeholder_with_default(
        bicubic.downsample_graph(t_target_image),
        [None, patch // SCALE, patch // SCALE, 3],
        "t_image",
    )
    t_test_image = tf.compat.v1.placeholder(tf.uint8, [None, None, None, 3], "t_test_image")
    hr = to_range(t_target_image)
    g_args, d_args = config.MODEL.generator, config.MODEL.discriminator

    net_g = SRGAN_g(to_range(t_image), is_train=True, **g_args, dtype=dtype)
    net_g_test = SRGAN_g(to_range(t_test_image), reuse=True, **g_args, dtype=dtype)
    net_d, logits_real = SRGAN_d(hr, **d_args, dtype=dtype)
    net_d_fake, logits_fake = SRGAN_d(net_g.outputs, reuse=True, **d_args, dtype=dtype)

    trainable = tf.compat.v1.trainable_variables()
    g_vars = [variable for variable in trainable if variable.op.name.startswith("SRGAN_g/")]
    d_vars = [variable for variable in trainable if variable.op.name.startswith("SRGAN_d/")]
    lr_v = tf.compat.v1.get_variable("learning_rate", initializer=config.TRAIN.lr_init, trainable=False)
    global_step = tf.compat.v1.train.get_or_create_global_step()

    def adam(name):
        return tf.compat.v1.train.AdamOptimizer(lr_v, beta1=config.TRAIN.beta1, name=name)

    def g_step(optimizer, loss, others=()):
        updates = [optimizer.minimize(loss, var_list=g_vars), *net_g.moving_average_updates()]
        if average is not None:
            with tf.control_dependencies(updates):
                updates = [average.apply(g_vars)]
        with tf.control_dependencies([*updates, *others]):
            return global_step.assign_add(1).op

    average = None
    if config.TRAIN.ema_decay:
        # num_updates ramps the decay up, so that early weights are forgotten
        average = tf.compat.v1.train.ExponentialMovingAverage(config.TRAIN.ema_decay, global_step)

    mse_loss = losses.mse_loss(net_g.outputs, hr)
    pretrain = g_step(adam("g_optim_init"), mse_loss)

    d_loss1, d_loss2 = losses.real_loss(logits_real), losses.fake_loss(logits_fake)
    d_loss = d_loss1 + d_loss2
    d_update = adam("d_optim").minimize(d_loss, var_list=d_vars)
    real_updates = net_d.moving_average_updates()
    with tf.control_dependencies(real_updates):  # in this order, or sums would depend on timing
        fake_updates = net_d_fake.moving_average_updates()

    _, hr_features = _vgg_features(config, hr, dtype, reuse=False)
    net_vgg, sr_features = _vgg_features(config, net_g.outputs, dtype, reuse=True)
    with tf.control_dependencies([d_update]):
        _, logits_updated = SRGAN_d(net_g.outputs, reuse=True, **d_args, dtype=dtype)
    g_gan_loss = config.LOSS.adversarial * losses.adversarial_loss(logits_updated)
    vgg_loss = config.LOSS.vgg * losses.vgg_loss(sr_features, hr_features)
    g_loss = config.LOSS.mse * mse_loss + vgg_loss + g_gan_loss
    adversarial = g_step(adam("g_optim"), g_loss, fake_updates)

    return TrainingGraph(
        t_target_image=t_target_image,
        t_image=t_image,
        t_test_image=t_test_image,
        t_test_output=to_pixels(net_g_test.outputs),
        lr_v=lr_v,
        global_step=global_step,
        g_params=net_g.all_params,
        g_average={v.op.name: average.average(v) for v in g_vars} if average else {},
        d_params=net_d.all_params,
        vgg_params=net_vgg.all_params,
        steps={PRETRAIN: pretrain, ADVERSARIAL: adversarial},
        losses={
            PRETRAIN: {"mse_loss": mse_loss},
            ADVERSARIAL: {
                "d_loss1": d_loss1,
                "d_loss2": d_loss2,
                "d_loss": d_loss,
                "g_gan_loss": g_gan_loss,
                "mse_loss": mse_loss,
                "vgg_loss": vgg_loss,
                "g_loss": g_loss,
            },
        },
    )


def _vgg_features(config, images: tf.Tensor, dtype: tf.DType, *, reuse: bool):
    """VGG19 network and features of [N, h, w, 3] pictures in [-1, 1]."""
    if config.VGG.input_size:
        images = tf.image.resize(images, [config.VGG.input_size] * 2)  # bilinear
    rgb = (images + 1.0) / 2.0
    return vgg19.Vgg19_simple_api(rgb, reuse, layer=config.VGG.layer, dtype=dtype)
