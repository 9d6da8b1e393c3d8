"""The graph of constants computes what the trained network does, with the last layers in another order."""

import numpy as np
import pytest
import tensorflow as tf
from examples import NETWORKS, SCALED, weights

from model import SRGAN_g
from tf1 import checkpoints
from upscaling.graph import freeze

VARIANTS = {
    "note": {},
    "paper": NETWORKS["paper"],
    "prelu": {"activation": "prelu"},
    "3x3 end": {"last_kernel": 3},
    "linear": {"output_activation": "linear"},
    **SCALED,
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_frozen_graph_equals_the_network(name):
    arguments = {**NETWORKS["tensorlayer"], **VARIANTS[name]}
    image = np.random.default_rng(0).uniform(-1, 1, (2, 7, 9, 3)).astype(np.float32)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        t_image = tf.compat.v1.placeholder(tf.float32, [None, None, None, 3], "t_image")
        net = SRGAN_g(t_image, **arguments)
        outputs = tf.identity(net.outputs, "outputs")
        checkpoints.assign(session, net.all_params, weights(arguments), "test")
        expected = session.run(outputs, {t_image: image})
        frozen = freeze(session, outputs)
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        tf.graph_util.import_graph_def(frozen, name="")
        assert not [op for op in graph.get_operations() if "Variable" in op.type]
        made = session.run("outputs:0", {"t_image:0": image})
        shuffles = [op for op in graph.get_operations() if op.type == "DepthToSpace"]
        channels = [shuffle.inputs[0].shape[-1] for shuffle in shuffles]
        after = [consumer.type for shuffle in shuffles for consumer in shuffle.outputs[0].consumers()]
    np.testing.assert_allclose(made, expected, atol=2e-6)
    assert "Relu" not in after or arguments["activation"] == "prelu"
    if arguments["activation"] == "relu" and arguments["last_kernel"] == 1:
        *first, last = {2: [2], 3: [3], 4: [2, 2], 8: [2, 2, 2]}[arguments["scale"]]
        assert channels == [4 * factor**2 for factor in first] + [3 * last**2]
        assert after == ["Conv2D"] * len(first) + ["Identity" if name == "linear" else "Tanh"]
