"""Sums and means over all replicas, inside the graph; with a single replica they add no operations.

They reduce gradients, batch norm statistics and losses, so that results match those of one device up to
rounding.
"""

from __future__ import annotations

import tensorflow as tf


def sum_of_replicas(value: tf.Tensor) -> tf.Tensor:
    """Sums a tensor and its gradient over all replicas; must be called in a replica context."""
    if num_replicas() == 1:
        return value

    def reduce(strategy, values):
        return strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, [(values, values)])[0]

    # the gradient of `context.all_reduce` fails in a graph, at variables of other replicas
    reduced = tf.stop_gradient(tf.distribute.get_replica_context().merge_call(reduce, (value,)))
    with tf.compat.v1.get_default_graph().gradient_override_map({"IdentityN": "SumOfReplicas"}):
        return tf.identity_n([reduced, value])[0]


@tf.RegisterGradient("SumOfReplicas")
def _gradient_of_sum(_, gradient: tf.Tensor, __):
    return None, sum_of_replicas(gradient)


def num_replicas() -> int:
    return tf.distribute.get_strategy().num_replicas_in_sync


def over_replicas(values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Averages scalars over all replicas, in one reduction."""
    if num_replicas() == 1:
        return values
    means = mean_of_replicas(tf.stack(list(values.values())))
    return dict(zip(values, tf.unstack(means, len(values))))


def mean_of_replicas(value: tf.Tensor) -> tf.Tensor:
    return sum_of_replicas(value) / num_replicas()
