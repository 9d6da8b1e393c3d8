"""Trained weights as a graph of constants, in the order that runs fastest."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from upscaling.winograd import conv3x3


def freeze(session: tf.compat.v1.Session, output: tf.Tensor) -> tf.compat.v1.GraphDef:
    """The graph of `session` up to `output`, an identity of a generator's, with constants for variables.

    What acts on single pixels commutes with a pixel shuffle and is moved before it: ReLU, which then fuses
    with the convolution before it, and a last 1x1 convolution, so that the last shuffle moves 12 channels
    instead of 256. Constants can be laid out for the hardware once, variables at every use.
    """
    graph_def = tf.compat.v1.graph_util.convert_variables_to_constants(
        session, session.graph.as_graph_def(), [output.op.name]
    )
    nodes = {node.name: node for node in graph_def.node}

    def consumer(name: str):
        """The only node that reads another one's output, if there is only one."""
        found = [node for node in graph_def.node if name in node.input]
        return found[0] if len(found) == 1 else None

    def move_before(first, last, shuffle) -> None:
        """Lets `first` to `last`, a chain, read what `shuffle` reads, and `shuffle` read them."""
        source = shuffle.input[0]
        for node in graph_def.node:
            if node is not shuffle:
                node.input[:] = [shuffle.name if name == last.name else name for name in node.input]
        first.input[0], shuffle.input[0] = source, last.name

    for shuffle in [node for node in graph_def.node if node.op == "DepthToSpace"]:
        after = consumer(shuffle.name)
        if after is not None and after.op == "Relu":
            move_before(after, after, shuffle)
            after = consumer(shuffle.name)
        if after is not None and after.op == "Conv2D":
            bias_add = consumer(after.name)
            filters, biases = (_constant(nodes, node.input[1]) for node in (after, bias_add))
            values = tf.make_ndarray(filters.attr["value"].tensor)
            if values.shape[:2] == (1, 1):
                count = shuffle.attr["block_size"].i ** 2
                blocks = np.kron(np.eye(count, dtype=np.float32), values[0, 0])[None, None]
                tiled = np.tile(tf.make_ndarray(biases.attr["value"].tensor), count)
                for node, value in ((filters, blocks), (biases, tiled)):
                    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
                move_before(after, bias_add, shuffle)
    return graph_def


def replace_upsampling(graph_def: tf.compat.v1.GraphDef) -> None:
    """Replaces the 3x3 convolution before each pixel shuffle of a frozen generator by `conv3x3`, in place."""
    nodes = {node.name: node for node in graph_def.node}
    for shuffle in [node for node in graph_def.node if node.op == "DepthToSpace"]:
        conv = nodes[shuffle.input[0]]
        while conv.op != "Conv2D" or _values(nodes, conv.input[1]).shape[0] == 1:
            conv = nodes[conv.input[0]]
        filters = _values(nodes, conv.input[1])
        with tf.Graph().as_default() as graph, tf.name_scope(f"{conv.name}/winograd"):
            x = tf.compat.v1.placeholder(tf.float32, [1, None, None, filters.shape[2]])
            y = conv3x3(x, filters)
        renamed = {x.op.name: conv.input[0], conv.name: y.op.name}
        graph_def.node.remove(conv)
        graph_def.node.extend(node for node in graph.as_graph_def().node if node.name != x.op.name)
        for node in graph_def.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]


def _values(nodes: dict, name: str) -> np.ndarray:
    return tf.make_ndarray(_constant(nodes, name).attr["value"].tensor)


def _constant(nodes: dict, name: str):
    """The node of a constant, which identities and casts may follow."""
    while nodes[name].op != "Const":
        name = nodes[name].input[0]
    return nodes[name]
