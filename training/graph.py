"""The training graph, in the order of the study note: placeholders, networks, losses, optimisers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import tensorflow as tf

from images import bicubic
from model import SRGAN_d, SRGAN_g
from tf1.distribution import ALONE, Cluster, mean_of_replicas, sum_of_replicas
from tf1.layers import tl
from training import losses
from training.schedule import ADVERSARIAL, DISCRIMINATOR, PRETRAIN
from vgg19 import Vgg19_simple_api


@dataclass
class Step:
    """One training step of each phase."""

    steps: dict[str, tf.Operation]  # by phase
    losses: dict[str, dict[str, tf.Tensor]]  # phase -> loss of that step by its log name, scalars
    finite: dict[str, list[tf.Tensor]]  # phase -> whether the gradients of that step were, bool scalars
    g_params: list[tf.Variable]
    d_params: list[tf.Variable]
    vgg_params: list[tf.Variable]


@dataclass
class TrainingGraph(Step):
    """The same with what is fed and fetched around it."""

    g_average: dict[str, tf.Variable]  # moving average of g_params by their name; may be empty
    t_target_image: tf.Tensor  # uint8 [N, p, p, 3]
    t_image: tf.Tensor  # uint8 [N, p / 4, p / 4, 3], made from t_target_image unless fed
    input_image: tf.Tensor  # uint8 [N, h, w, 3], for inference
    output_image: tf.Tensor  # uint8 [N, 4h, 4w, 3]
    lr_v: tf.Variable  # learning rate
    global_step: tf.Variable  # updates of the generator
    t_stop: tf.Tensor  # float scalar: whether this host asks for a stop
    stops: tf.Tensor  # of all replicas: how many do


def build_training_graph(config, dtype: tf.DType, cluster: Cluster = ALONE) -> TrainingGraph:
    """Adds placeholders and the training step to the default graph; convolutions compute in `dtype`.

    The placeholders take this host's part of a batch, which its replicas share.
    """
    patch = config.TRAIN.hr_patch_size
    t_target_image = tf.compat.v1.placeholder(tf.uint8, [None, patch, patch, 3], "t_target_image")
    t_image = tf.compat.v1.placeholder_with_default(
        bicubic.downsample_graph(t_target_image),
        [None, patch // bicubic.SCALE, patch // bicubic.SCALE, 3],
        "t_image",
    )
    input_image = tf.compat.v1.placeholder(tf.uint8, [None, None, None, 3], "input_image")
    with tf.compat.v1.variable_scope("learning_rate"):
        lr_v = tf.compat.v1.get_variable("lr_v", initializer=config.TRAIN.lr_init, trainable=False)
    global_step = tf.compat.v1.train.get_or_create_global_step()

    parts = cluster.split(to_range(t_image)), cluster.split(to_range(t_target_image))
    replicas = cluster.run(lambda *tensors: training_step(*tensors, lr_v, global_step, config, dtype), *parts)
    step = replicas[0]  # what they share, and the operations of each
    step.steps = {phase: tf.group(*(replica.steps[phase] for replica in replicas)) for phase in step.steps}
    g_average = {}
    if config.TRAIN.ema_decay:
        # the count of updates ramps the decay up, so that early weights are forgotten
        average = tf.compat.v1.train.ExponentialMovingAverage(config.TRAIN.ema_decay, global_step)
        for phase in (PRETRAIN, ADVERSARIAL)[: 2 if config.TRAIN.n_epoch else 1]:
            with tf.control_dependencies([step.steps[phase]]):
                step.steps[phase] = average.apply(step.g_params)
        g_average = {v.op.name: average.average(v) for v in step.g_params}
    t_stop = tf.compat.v1.placeholder_with_default(0.0, [], "t_stop")
    stops = cluster.run(lambda: sum_of_replicas(tf.identity(t_stop)))[0]

    net_g_test = SRGAN_g(
        to_range(input_image), is_train=False, reuse=True, **config.MODEL.generator, dtype=dtype
    )
    return TrainingGraph(
        **vars(step),
        g_average=g_average,
        t_target_image=t_target_image,
        t_image=t_image,
        input_image=input_image,
        output_image=to_pixels(net_g_test.outputs),
        lr_v=lr_v,
        global_step=global_step,
        t_stop=t_stop,
        stops=stops,
    )


def training_step(t_image, t_target_image, lr_v, global_step, config, dtype: tf.DType) -> Step:
    """One step of each phase on LR and HR in [-1, 1], as a function of tensors alone: that of one replica.

    An adversarial step is one run: D's update first, then G's against the updated D, sharing one forward
    pass of G and one VGG19 pass of the target; the numbers are those of the note's two runs. Without
    adversarial epochs there is no D and no VGG19.
    """
    generator = {**config.MODEL.generator, "init": config.TRAIN.init, "dtype": dtype}
    discriminator = {**config.MODEL.discriminator, "init": config.TRAIN.init, "dtype": dtype}
    adam = tf.compat.v1.train.AdamOptimizer
    beta1 = config.TRAIN.beta1

    # Generator, and its MSE pretraining
    net_g = SRGAN_g(t_image, is_train=True, reuse=False, **generator)
    mse_loss = losses.mse_loss(net_g.outputs, t_target_image)
    g_vars = tl.layers.get_variables_with_name("SRGAN_g", True, False)
    g_optim_init, g_finite = _minimize(adam(lr_v, beta1, name="g_optim_init"), mse_loss, g_vars, global_step)
    g_updates = net_g.moving_average_updates()
    g_optim_init = tf.group(g_optim_init, *g_updates)
    steps, finite = {PRETRAIN: g_optim_init}, {PRETRAIN: [g_finite]}
    logged = {PRETRAIN: _over_replicas({"mse_loss": mse_loss})}
    if not config.TRAIN.n_epoch:
        return Step(steps, logged, finite, net_g.all_params, d_params=[], vgg_params=[])

    # Discriminator
    net_d, logits_real = SRGAN_d(t_target_image, is_train=True, reuse=False, **discriminator)
    net_d_fake, logits_fake = SRGAN_d(net_g.outputs, is_train=True, reuse=True, **discriminator)
    d_loss1 = losses.real_loss(logits_real)
    d_loss2 = losses.fake_loss(logits_fake)
    d_loss = d_loss1 + d_loss2
    d_vars = tl.layers.get_variables_with_name("SRGAN_d", True, False)
    d_optim, d_finite = _minimize(adam(lr_v, beta1, name="d_optim"), d_loss, d_vars)
    real_updates = net_d.moving_average_updates()
    with tf.control_dependencies(real_updates):  # in this order, or sums would depend on timing
        d_optim = tf.group(d_optim, *net_d_fake.moving_average_updates())
    steps[DISCRIMINATOR] = d_optim
    finite[DISCRIMINATOR] = [d_finite]
    logged[DISCRIMINATOR] = _over_replicas({"d_loss1": d_loss1, "d_loss2": d_loss2, "d_loss": d_loss})

    # VGG19 features
    compared = _spread(config.VGG.share, config.TRAIN.batch_size // _replicas())
    t_target_image_224, t_predict_image_224 = t_target_image, net_g.outputs
    if config.VGG.share < 1:
        t_target_image_224, t_predict_image_224 = (
            tf.gather(images, compared) for images in (t_target_image, net_g.outputs)
        )
    if config.VGG.input_size:  # bilinear
        t_target_image_224, t_predict_image_224 = (
            tf.image.resize(images, [config.VGG.input_size] * 2)
            for images in (t_target_image_224, t_predict_image_224)
        )
    vgg = {"layer": config.VGG.layer, "before_relu": config.VGG.before_relu, "dtype": dtype}
    net_vgg, vgg_target_emb = Vgg19_simple_api((t_target_image_224 + 1) / 2, reuse=False, **vgg)
    _, vgg_predict_emb = Vgg19_simple_api((t_predict_image_224 + 1) / 2, reuse=True, **vgg)

    # Generator against the updated discriminator
    with tf.control_dependencies([d_optim]):
        _, logits_fake = SRGAN_d(net_g.outputs, is_train=True, reuse=True, **discriminator)
    g_gan_loss = config.LOSS.adversarial * losses.adversarial_loss(logits_fake)
    vgg_loss = config.LOSS.vgg * losses.vgg_loss(vgg_predict_emb.outputs, vgg_target_emb.outputs)
    g_loss = config.LOSS.mse * mse_loss + vgg_loss + g_gan_loss
    g_losses = {"g_gan_loss": g_gan_loss, "mse_loss": mse_loss, "vgg_loss": vgg_loss}
    if config.LOSS.means:
        means_loss = config.LOSS.means * losses.means_loss(net_g.outputs, t_target_image, bicubic.SCALE)
        g_losses["means_loss"] = means_loss
        g_loss += means_loss
    if config.LOSS.excess:
        excess_loss = config.LOSS.excess * losses.excess_loss(net_g.outputs, t_target_image)
        g_losses["excess_loss"] = excess_loss
        g_loss += excess_loss
    g_optim, g_finite = _minimize(adam(lr_v, beta1, name="g_optim"), g_loss, g_vars, global_step)
    g_optim = tf.group(g_optim, *g_updates)
    steps[ADVERSARIAL], finite[ADVERSARIAL] = g_optim, [d_finite, g_finite]
    logged[ADVERSARIAL] = {**logged[DISCRIMINATOR], **_over_replicas({**g_losses, "g_loss": g_loss})}
    return Step(steps, logged, finite, net_g.all_params, net_d.all_params, net_vgg.all_params)


def _minimize(
    optimizer, loss: tf.Tensor, variables: list, global_step=None
) -> tuple[tf.Operation, tf.Tensor]:
    """(update, whether its gradients are finite): those that are not count as zero and spoil nothing.

    The optimiser sums the gradients of all replicas, each of which has its share of the mean loss.
    """
    # no gradient waits for another: that hinders fusion
    share = loss / _replicas()
    pairs = optimizer.compute_gradients(share, variables, gate_gradients=optimizer.GATE_NONE)
    finite = tf.add_n([tf.reduce_sum(gradient) for gradient, _ in pairs])
    finite = tf.math.is_finite(sum_of_replicas(finite))
    pairs = [(tf.where(finite, gradient, tf.zeros_like(gradient)), variable) for gradient, variable in pairs]
    return optimizer.apply_gradients(pairs, global_step), finite


def _replicas() -> int:
    return tf.distribute.get_strategy().num_replicas_in_sync


def _spread(share: float, count: int) -> list[int]:
    """Which of a replica's patches to take, evenly, so that all replicas take what one device would."""
    return [i for i in range(count) if math.ceil((i + 1) * share) > math.ceil(i * share)]


def _over_replicas(values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The means of losses over all replicas, reduced together."""
    if _replicas() == 1:
        return values
    means = mean_of_replicas(tf.stack(list(values.values())))
    return dict(zip(values, tf.unstack(means, len(values))))


def least_memory(train, generator) -> int:
    """Bytes that a training step takes at the very least, of what the generator keeps for its gradients.

    Measured, a bfloat16 MSE step takes this much, and a float32 one or an adversarial one twice.
    """
    bytes_per_px = 2 * generator.num_filters * (generator.num_blocks / 4 + 2.5)
    return int(train.batch_size * train.hr_patch_size**2 * bytes_per_px)


def to_range(images: tf.Tensor) -> tf.Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return tf.cast(images, tf.float32) / 127.5 - 1.0


def to_pixels(images: tf.Tensor) -> tf.Tensor:
    """float in [-1, 1] -> uint8, rounded and clipped."""
    return tf.cast(tf.round(tf.clip_by_value((images + 1.0) * 127.5, 0.0, 255.0)), tf.uint8)
