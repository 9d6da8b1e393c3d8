"""Weights of TensorLayer 1.x and of Saver checkpoints."""

import numpy as np
import pytest
import tensorflow as tf

from common.errors import UserError
from model import SRGAN_g, layout
from tf1 import checkpoints, third_party

BN = ("beta", "gamma", "moving_mean", "moving_var")  # TensorLayer 1's order


def order_of_2018():
    """The 173 arrays of a TensorLayer 1.x g_srgan.npz, by this program's names."""
    names = ["n64s1/c/filters", "n64s1/c/biases"]
    norms = [(f"n64s1/c{j}/{i}", f"n64s1/b{j}/{i}") for i in range(16) for j in (1, 2)]
    for conv, norm in (*norms, ("n64s1/c/m", "n64s1/b/m")):
        names += [f"{conv}/filters", *(f"{norm}/{part}" for part in BN)]
    for conv in ("n256s1/1", "n256s1/2", "out"):
        names += [f"{conv}/filters", f"{conv}/biases"]
    return [f"SRGAN_g/{name}" for name in names]


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in layout("SRGAN_g")[1].items()}


def test_a_list_of_tensorlayer_1_is_read_and_written(tmp_path, arrays, caplog):
    caplog.set_level("INFO", "srgan")
    third_party.write_list(tmp_path / "g_srgan.npz", list(arrays.values()))
    with np.load(tmp_path / "g_srgan.npz", allow_pickle=True) as file:  # as code of 2018 does
        assert file.files == ["params"]
        for ours, theirs in zip(arrays.values(), file["params"]):
            np.testing.assert_array_equal(ours, theirs)
    read, meta = checkpoints.read_network(tmp_path / "g_srgan.npz", "SRGAN_g", layout)
    assert list(read) == order_of_2018()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)
    assert meta["arguments"]["num_blocks"] == 16
    assert "a list of TensorLayer 1.x: taking its 173 arrays" in caplog.text


def test_a_discriminators_list_is_read(tmp_path):
    shapes = layout("SRGAN_d")[1]
    third_party.write_list(tmp_path / "d.npz", [np.zeros(shape, np.float32) for shape in shapes.values()])
    read, _ = checkpoints.read_network(tmp_path / "d.npz", "SRGAN_d", layout)
    assert {name: array.shape for name, array in read.items()} == shapes
    with pytest.raises(UserError, match=r"array 0 is \(4, 4, 3, 64\), but SRGAN_g/n64s1/c/filters is"):
        checkpoints.read_network(tmp_path / "d.npz", "SRGAN_g", layout)


def test_lists_that_do_not_fit_are_refused_by_their_first_fault(tmp_path, arrays):
    values = list(arrays.values())
    for faulty, sentence in (
        (values[:-1], "172 arrays, not 173"),
        ([*values, values[0]], "174 arrays, not 173"),
        ([values[0], values[2], values[1], *values[3:]], r"array 1 is .*n64s1/c/biases is \(64,\)"),
    ):
        third_party.write_list(tmp_path / "x.npz", faulty)
        with pytest.raises(UserError, match=sentence):
            checkpoints.read_network(tmp_path / "x.npz", "SRGAN_g", layout)


def test_a_list_runs_no_code(tmp_path, capsys):
    class RunsCode:
        def __reduce__(self):
            return print, ("code ran",)

    np.savez(tmp_path / "evil.npz", params=np.array([RunsCode()]))
    with pytest.raises(UserError, match=r"builtins\.print, which is not an array"):
        checkpoints.read_network(tmp_path / "evil.npz", "SRGAN_g", layout)
    assert "code ran" not in capsys.readouterr().out


def test_saver_checkpoints_give_the_moving_averages(tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        params = SRGAN_g(tf.zeros([1, 8, 8, 3]), num_blocks=1, num_filters=4).all_params
        average = tf.compat.v1.train.ExponentialMovingAverage(0.5)
        average.apply(params)
        session.run(tf.compat.v1.global_variables_initializer())
        twos = {average.average(param): np.full(param.shape, 2, np.float32) for param in params}
        checkpoints.set_variables(session, twos)
        prefix = tf.compat.v1.train.Saver().save(session, str(tmp_path / "model.ckpt"), 7)
    read, meta = checkpoints.read_network(prefix, "SRGAN_g", layout)
    assert read.keys() == {param.op.name for param in params}
    assert all((array == 2).all() for array in read.values())
    assert meta["arguments"] == layout("SRGAN_g")[0]  # those of config.py
