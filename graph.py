"""The training graph: placeholders, networks, losses, and one operation per kind of training step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import tensorflow as tf

import bicubic
import losses
import vgg19
from model import SCALE, SRGAN_d, SRGAN_g
from schedule import ADVERSARIAL, DISCRIMINATOR, PRETRAIN

REUSE = tf.compat.v1.AUTO_REUSE


@dataclass
class TrainingGraph:
    """What the loop runs; losses map their log names to scalar tensors."""

    t_target_image: tf.Tensor  # uint8 [N, p, p, 3]
    t_image: tf.Tensor  # uint8 [N, p / 4, p / 4, 3], made from t_target_image unless fed
    t_test_image: tf.Tensor  # uint8 [N, h, w, 3]
    t_test_output: tf.Tensor  # uint8 [N, 4h, 4w, 3]
    lr_v: tf.Variable  # learning rate of G
    d_lr_v: tf.Variable  # of D
    global_step: tf.Variable
    g_params: list[tf.Variable]
    g_average: dict[str, tf.Variable]  # moving average of g_params by their name; may be empty
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
    D and VGG19 exist only if there are adversarial epochs.
    """
    patch = config.TRAIN.hr_patch_size
    t_target_image = tf.compat.v1.placeholder(tf.uint8, [None, patch, patch, 3], "t_target_image")
    t_image = tf.compat.v1.placeholder_with_default(
        bicubic.downsample_graph(t_target_image),
        [None, patch // SCALE, patch // SCALE, 3],
        "t_image",
    )
    t_test_image = tf.compat.v1.placeholder(tf.uint8, [None, None, None, 3], "t_test_image")
    networks = Networks(config, dtype)

    net_g = networks.generator(t_image, is_train=True)
    net_g_test = networks.generator(t_test_image, is_train=False)

    def in_parts(objective, after=()) -> Objective:
        """`objective(net_g, hr, after)` of the batch, or its mean over TRAIN.accumulate parts."""
        whole = objective(net_g, to_range(t_target_image), after)
        if config.TRAIN.accumulate == 1:
            return whole
        return _mean_over_parts(networks, objective, whole, t_image, t_target_image, after)

    lr_v, d_lr_v = (
        tf.compat.v1.get_variable(name, initializer=config.TRAIN.lr_init, trainable=False)
        for name in ("learning_rate", "d_learning_rate")
    )
    global_step = tf.compat.v1.train.get_or_create_global_step()

    def adam(name, rate=lr_v):
        return tf.compat.v1.train.AdamOptimizer(rate, beta1=config.TRAIN.beta1, name=name)

    average = None
    if config.TRAIN.ema_decay:
        # num_updates ramps the decay up, so that early weights are forgotten
        average = tf.compat.v1.train.ExponentialMovingAverage(config.TRAIN.ema_decay, global_step)
    g_vars = networks.trainable("SRGAN_g/")

    def g_step(optimizer, objective: Objective):
        updates = [optimizer.apply_gradients(zip(objective.gradients, g_vars)), *objective.updates]
        if average is not None:
            with tf.control_dependencies(updates):
                updates = [average.apply(net_g.all_params)]
        with tf.control_dependencies(updates):
            return global_step.assign_add(1).op

    mse = in_parts(networks.mse_objective)
    pretrain = g_step(adam("g_optim_init"), mse)

    steps, step_losses = {PRETRAIN: pretrain}, {PRETRAIN: mse.losses}
    d_params = []
    if config.TRAIN.n_epoch:
        d = in_parts(networks.d_objective)
        d_params = tf.compat.v1.global_variables("SRGAN_d/")  # before Adam adds its own
        d_vars = networks.trainable("SRGAN_d/")
        d_update = adam("d_optim", d_lr_v).apply_gradients(zip(d.gradients, d_vars))
        d_updates = [d_update, *d.updates]
        with tf.control_dependencies(d_updates):
            steps[DISCRIMINATOR] = global_step.assign_add(1).op
        step_losses[DISCRIMINATOR] = d.losses
        g = in_parts(networks.g_objective, after=d_updates)
        steps[ADVERSARIAL] = g_step(adam("g_optim"), g)
        step_losses[ADVERSARIAL] = {**d.losses, **g.losses}

    return TrainingGraph(
        t_target_image=t_target_image,
        t_image=t_image,
        t_test_image=t_test_image,
        t_test_output=to_pixels(net_g_test.outputs),
        lr_v=lr_v,
        d_lr_v=d_lr_v,
        global_step=global_step,
        g_params=net_g.all_params,
        g_average={v.op.name: average.average(v) for v in net_g.all_params} if average else {},
        d_params=d_params,
        vgg_params=tf.compat.v1.global_variables("VGG19/"),
        steps=steps,
        losses=step_losses,
    )


class Objective(NamedTuple):
    """What one update needs."""

    losses: dict[str, tf.Tensor]  # by their log names
    gradients: list[tf.Tensor]  # of the variables to be updated
    updates: list[tf.Operation]  # of batch norm's moving averages


class Networks:
    """The networks of a config, sharing variables by scope, and the objectives made of them."""

    def __init__(self, config, dtype: tf.DType):
        self.config, self.dtype = config, dtype

    def trainable(self, scope: str) -> list[tf.Variable]:
        return tf.compat.v1.trainable_variables(scope)

    def generator(self, images: tf.Tensor, *, is_train: bool):
        """SRGAN_g on uint8 pictures."""
        arguments = self.config.MODEL.generator
        return SRGAN_g(to_range(images), is_train, REUSE, **arguments, dtype=self.dtype)

    def discriminator(self, images: tf.Tensor):
        return SRGAN_d(images, reuse=REUSE, **self.config.MODEL.discriminator, dtype=self.dtype)

    def vgg_features(self, images: tf.Tensor) -> tf.Tensor:
        """VGG19 features of [N, h, w, 3] pictures in [-1, 1]."""
        vgg = self.config.VGG
        if vgg.input_size:
            images = tf.image.resize(images, [vgg.input_size] * 2)  # bilinear
        rgb = (images + 1.0) / 2.0
        return vgg19.Vgg19_simple_api(rgb, REUSE, layer=vgg.layer, dtype=self.dtype)[1]

    def mse_objective(self, net_g, hr: tf.Tensor, _after=()) -> Objective:
        mse_loss = losses.mse_loss(net_g.outputs, hr)
        gradients = tf.gradients(mse_loss, self.trainable("SRGAN_g/"))
        return Objective({"mse_loss": mse_loss}, gradients, net_g.moving_average_updates())

    def d_objective(self, net_g, hr: tf.Tensor, _after=()) -> Objective:
        net_d, logits_real = self.discriminator(hr)
        net_d_fake, logits_fake = self.discriminator(net_g.outputs)
        d_loss1, d_loss2 = losses.real_loss(logits_real), losses.fake_loss(logits_fake)
        d_loss = d_loss1 + d_loss2
        real_updates = net_d.moving_average_updates()
        with tf.control_dependencies(real_updates):  # in this order, or sums would depend on timing
            fake_updates = net_d_fake.moving_average_updates()
        return Objective(
            {"d_loss1": d_loss1, "d_loss2": d_loss2, "d_loss": d_loss},
            tf.gradients(d_loss, self.trainable("SRGAN_d/")),
            fake_updates,
        )

    def g_objective(self, net_g, hr: tf.Tensor, after=()) -> Objective:
        """`after`: the operations of D's update, which G's loss comes after."""
        factors = self.config.LOSS
        mse_loss = losses.mse_loss(net_g.outputs, hr)
        vgg_loss = losses.vgg_loss(self.vgg_features(net_g.outputs), self.vgg_features(hr))
        with tf.control_dependencies(after):
            _, logits_fake = self.discriminator(net_g.outputs)
        vgg_loss = factors.vgg * vgg_loss
        g_gan_loss = factors.adversarial * losses.adversarial_loss(logits_fake)
        g_loss = factors.mse * mse_loss + vgg_loss + g_gan_loss
        logged = {"g_gan_loss": g_gan_loss, "mse_loss": mse_loss, "vgg_loss": vgg_loss}
        if factors.means:
            logged["means_loss"] = factors.means * losses.means_loss(net_g.outputs, hr, SCALE)
            g_loss += logged["means_loss"]
        return Objective(
            {**logged, "g_loss": g_loss},
            tf.gradients(g_loss, self.trainable("SRGAN_g/")),
            net_g.moving_average_updates(),
        )


def _mean_over_parts(
    networks: Networks, objective, whole: Objective, t_image, t_target_image, after
) -> Objective:
    """Losses and gradients as means over the batch's parts, one part in memory at a time.

    `whole`, the objective of the batch at once, gives the names and shapes; it is never run.
    """
    parts = networks.config.TRAIN.accumulate
    size = tf.shape(t_image)[0] // parts

    def add_part(index, sums):
        rows = slice(index * size, (index + 1) * size)
        net_g = networks.generator(t_image[rows], is_train=True)
        part = objective(net_g, to_range(t_target_image[rows]))
        with tf.control_dependencies(part.updates):
            values = [*part.losses.values(), *part.gradients]
            return index + 1, [total + value / parts for total, value in zip(sums, values)]

    zeros = [tf.zeros(value.shape) for value in [*whole.losses.values(), *whole.gradients]]
    with tf.control_dependencies(after):
        _, means = tf.while_loop(lambda index, _: index < parts, add_part, [0, zeros], parallel_iterations=1)
    count = len(whole.losses)
    return Objective(dict(zip(whole.losses, means[:count])), means[count:], [means[0].op])
