"""An Adam step that skips NaN and infinite gradients, and moving averages of weights."""

from __future__ import annotations

import re

import tensorflow as tf

from tf1.layers import Network
from tf1.replicas import num_replicas, sum_of_replicas


def minimise(
    name: str,
    loss: tf.Tensor,
    variables: list[tf.Variable],
    lr_v: tf.Variable,
    beta1: float,
    nets: list[Network],
    average: MovingAverage | None = None,
) -> tuple[tf.Operation, tf.Tensor]:
    """Returns (the op of one Adam step, whether the gradients are finite).

    The op also updates the batch norm averages of `nets` and, given `average`, that average and the global
    step. If any gradient is not finite, nothing but Adam's state changes: the learning rate is 0 for this
    step, because momentum alone would still move the weights.
    """
    gradients = tf.compat.v1.gradients(loss / num_replicas(), variables)
    finite = tf.math.is_finite(sum_of_replicas(tf.add_n([tf.reduce_sum(g) for g in gradients])))
    adam = tf.compat.v1.train.AdamOptimizer(tf.where(finite, lr_v, 0.0), beta1, name=name)
    gradients = [tf.where(finite, g, tf.zeros_like(g)) for g in gradients]
    updates = [adam.apply_gradients(zip(gradients, variables))]
    for net in nets:  # fixed order: floating-point sums must not depend on scheduling
        with tf.control_dependencies(updates):
            updates += net.moving_average_updates(finite)
    if average:
        global_step = tf.compat.v1.train.get_or_create_global_step()
        with tf.control_dependencies(updates):
            updates.append(global_step.assign_add(tf.cast(finite, tf.int64)).op)
        with tf.control_dependencies(updates):
            updates.append(average.update(global_step, finite))
    return tf.group(*updates), finite


class MovingAverage:
    """Exponential moving averages of weights, used instead of the weights (Polyak & Juditsky 1992).

    `weights` maps each variable's name to its average; with decay 0, to the variable itself.
    """

    def __init__(self, params: list[tf.Variable], decay: float):
        self.decay = decay
        self.weights = {_name(param): param for param in params}
        if decay:
            self.weights = {
                name: tf.compat.v1.get_variable(
                    f"{name}/ExponentialMovingAverage",
                    shape=param.shape,
                    initializer=tf.compat.v1.zeros_initializer(),
                    trainable=False,
                    aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                )
                for name, param in self.weights.items()
            }
        self._pairs = [(self.weights[_name(param)], param) for param in params] if decay else []
        self.reset = tf.group(*(average.assign(param) for average, param in self._pairs))

    def getter(self, getter, name, *args, **kwargs):
        """Custom getter for variable scopes: returns the average of a variable if there is one."""
        return self.weights[name] if name in self.weights else getter(name, *args, **kwargs)

    def update(self, step: tf.Tensor, finite: tf.Tensor) -> tf.Operation:
        """Updates the averages; the decay grows with `step`, so that early weights are soon forgotten."""
        if not self.decay:
            return tf.no_op()
        step = tf.cast(step, tf.float32)
        rate = 1.0 - tf.minimum(self.decay, (1.0 + step) / (10.0 + step))
        moves = [(average, (average - param) * rate) for average, param in self._pairs]
        return tf.group(
            *(average.assign_sub(tf.where(finite, move, tf.zeros_like(move))) for average, move in moves)
        )


def _name(variable: tf.Variable) -> str:
    """Returns the variable's name without the replica's suffix."""
    return re.sub(r"/replica_\d+", "", variable.op.name)
