"""npz checkpoints."""

import numpy as np
import pytest
import tensorflow as tf

from common.errors import UserError
from tf1 import checkpoints

ARRAYS = {"scope/a": np.arange(6, dtype=np.float32).reshape(2, 3), "scope/b": np.float32([7])}


def test_arrays_and_meta_read_back(tmp_path):
    checkpoints.write_npz(tmp_path / "x.npz", ARRAYS, {"step": 3})
    arrays, meta = checkpoints.read_npz(tmp_path / "x.npz")
    assert meta == {"format_version": 1, "step": 3}
    assert arrays.keys() == ARRAYS.keys()
    for name in ARRAYS:
        np.testing.assert_array_equal(arrays[name], ARRAYS[name])


def test_files_hold_no_pickle_and_one_named_array_per_variable(tmp_path):
    checkpoints.write_npz(tmp_path / "x.npz", ARRAYS, {})
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        assert set(file.files) == {"__meta__", "scope/a", "scope/b"}
        assert all(file[name].dtype != object for name in file.files)


def test_half_precision_arrays_are_read_as_float32(tmp_path):
    checkpoints.write_npz(tmp_path / "x.npz", {"a": np.float16([0.5])}, {})
    arrays, _ = checkpoints.read_npz(tmp_path / "x.npz")
    assert arrays["a"].dtype == np.float32 and arrays["a"] == 0.5


def test_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    checkpoints.write_npz(path, ARRAYS, {"step": 1})
    before = path.read_bytes()

    def full_disk(file, **_):
        file.write(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(UserError, match="No space left"):
        checkpoints.write_npz(path, ARRAYS, {"step": 2})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("keep", [0, 10, 100, -30])
def test_truncated_file_is_a_user_error(tmp_path, keep):
    path = tmp_path / "x.npz"
    checkpoints.write_npz(path, ARRAYS, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        checkpoints.read_npz(path)


def test_flipped_byte_is_a_user_error(tmp_path):
    path = tmp_path / "x.npz"
    checkpoints.write_npz(path, ARRAYS, {})
    data = bytearray(path.read_bytes())
    data[data.index(np.float32(5).tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        checkpoints.read_npz(path)


def test_foreign_npz_is_a_user_error(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(3))
    with pytest.raises(UserError, match="__meta__"):
        checkpoints.read_npz(tmp_path / "x.npz")


def test_pickled_npz_is_a_user_error(tmp_path):
    meta = np.array('{"format_version": 1}')
    np.savez(tmp_path / "x.npz", __meta__=meta, params=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        checkpoints.read_npz(tmp_path / "x.npz")


def test_newer_format_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "FORMAT_VERSION", 2)
    checkpoints.write_npz(tmp_path / "x.npz", ARRAYS, {})
    monkeypatch.undo()
    with pytest.raises(UserError, match="format version 2, not 1"):
        checkpoints.read_npz(tmp_path / "x.npz")


def test_assign_restores_what_fetch_took_and_adds_nothing_to_the_graph(session):
    a = tf.compat.v1.get_variable("a", initializer=np.float32([1, 2]))
    b = tf.compat.v1.get_variable("b", initializer=np.int64(3))
    session.run(tf.compat.v1.global_variables_initializer())
    kept = checkpoints.fetch(session, [a, b])
    session.run([a.assign([8, 9]), b.assign(5)])
    operations = len(session.graph.get_operations())
    checkpoints.assign(session, [a, b], kept, "kept")
    assert len(session.graph.get_operations()) == operations
    assert session.run(a).tolist() == [1, 2] and session.run(b) == 3


@pytest.mark.parametrize(
    ("arrays", "message"), [({}, "lacks a"), ({"a": np.zeros(3)}, r"a is \(3,\), not \(2,\)")]
)
def test_arrays_that_do_not_fit_are_a_user_error(session, arrays, message):
    a = tf.compat.v1.get_variable("a", initializer=np.float32([1, 2]))
    with pytest.raises(UserError, match=f"old.npz does not fit this network: .*{message}"):
        checkpoints.assign(session, [a], arrays, "old.npz")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_networks_that_are_not_finite_are_refused(tmp_path, bad):
    assert checkpoints.is_finite(ARRAYS)
    arrays = {**ARRAYS, "scope/w": np.float32([1, bad])}
    assert not checkpoints.is_finite(arrays)
    meta = {"network": "G", "arguments": {}, "recipe": "r", "step": 1}
    checkpoints.write_npz(tmp_path / "x.npz", arrays, meta)
    with pytest.raises(UserError, match="scope/w holds values that are not finite"):
        checkpoints.read_network(tmp_path / "x.npz", "G")
