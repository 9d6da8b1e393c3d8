"""What README says of names of TensorLayer that are not used here, so that it stays true."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf1.layers import tl


def test_save_npz_raises_in_a_graph(session, tmp_path):
    variable = tf.compat.v1.get_variable("a", initializer=1.0)
    session.run(variable.initializer)
    with pytest.raises(NotImplementedError):
        tl.files.save_npz([variable], str(tmp_path / "a.npz"))


def test_imresize_is_gone():
    picture = np.zeros((8, 8, 3), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises((ImportError, AttributeError, NameError, TypeError)):
            tl.prepro.imresize(picture, [4, 4])


def test_save_images_turns_a_nearly_black_sheet_white(tmp_path):
    dark = np.ones((1, 4, 4, 3), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tl.vis.save_images(dark, [1, 1], str(tmp_path / "a.png"))
    assert np.asarray(Image.open(tmp_path / "a.png")).min() == 255


def test_names_that_are_used_work_in_a_graph(session):
    kept = tf.compat.v1.get_variable("kept/a", initializer=2.0)
    tf.compat.v1.get_variable("other/a", initializer=2.0)
    session.run(tf.compat.v1.global_variables_initializer())
    assert session.run(kept) == 2.0
    assert tl.layers.get_variables_with_name("kept", True, False) == [kept]
    loss = tl.cost.mean_squared_error(tf.zeros([2, 3]), tf.fill([2, 3], 3.0), is_mean=True)
    assert session.run(loss) == 9.0
