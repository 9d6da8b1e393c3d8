"""Moving averages of weights."""

from __future__ import annotations

import re

import tensorflow as tf


class MovingAverage:
    """Exponential moving averages of variables, for use in their place (Polyak & Juditsky 1992).

    `weights` are the averages by the variables' names; with decay 0 they are the variables themselves.
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
        """For variable scopes: the average of a variable that has one."""
        return self.weights[name] if name in self.weights else getter(name, *args, **kwargs)

    def update(self, step: tf.Tensor, finite: tf.Tensor) -> tf.Operation:
        """Moves the averages, by less the more steps there were, so that early weights are forgotten."""
        if not self.decay:
            return tf.no_op()
        step = tf.cast(step, tf.float32)
        rate = 1.0 - tf.minimum(self.decay, (1.0 + step) / (10.0 + step))
        moves = [(average, (average - param) * rate) for average, param in self._pairs]
        return tf.group(
            *(average.assign_sub(tf.where(finite, move, tf.zeros_like(move))) for average, move in moves)
        )


def _name(variable: tf.Variable) -> str:
    """The same on each replica."""
    return re.sub(r"/replica_\d+", "", variable.op.name)
