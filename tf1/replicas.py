"""Sums and means over all replicas, inside the graph; a single replica adds nothing to it.

Gradients, batch-norm statistics and losses are reduced, so that the numbers are those of one device, to
rounding.
"""

from __future__ import annotations

import tensorflow as tf


def sum_of_replicas(value: tf.Tensor) -> tf.Tensor:
    """The sum of a tensor over all replicas, in a replica's context; its gradients are summed likewise."""
    if num_replicas() == 1:
        return value

    def reduce(strategy, values):
        return strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, [(values, values)])[0]

    # `context.all_reduce` has a gradient too, but in a graph stumbles over the other replicas' variables
    reduced = tf.stop_gradient(tf.distribute.get_replica_context().merge_call(reduce, (value,)))
    with tf.compat.v1.get_default_graph().gradient_override_map({"IdentityN": "SumOfReplicas"}):
        return tf.identity_n([reduced, value])[0]


@tf.RegisterGradient("SumOfReplicas")
def _gradient_of_sum(_, gradient: tf.Tensor, __):
    return None, sum_of_replicas(gradient)


def num_replicas() -> int:
    return tf.distribute.get_strategy().num_replicas_in_sync


def over_replicas(values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """The means of scalars over all replicas, reduced together."""
    if num_replicas() == 1:
        return values
    means = mean_of_replicas(tf.stack(list(values.values())))
    return dict(zip(values, tf.unstack(means, len(values))))


def mean_of_replicas(value: tf.Tensor) -> tf.Tensor:
    return sum_of_replicas(value) / num_replicas()
