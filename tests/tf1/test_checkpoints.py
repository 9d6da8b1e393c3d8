"""npz checkpoints."""

import gc
import io
import warnings
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from common.errors import UserError
from tf1 import checkpoints

ARRAYS = {"scope/a": np.arange(6, dtype=np.float32).reshape(2, 3), "scope/b": np.float32([7])}


def test_arrays_and_meta_are_read_back_without_pickle(tmp_path):
    checkpoints.write_npz(tmp_path / "x.npz", {**ARRAYS, "half": np.float16([0.5])}, {"step": 3})
    arrays, meta = checkpoints.read_npz(tmp_path / "x.npz")
    assert meta == {"format_version": 1, "step": 3}
    assert arrays.keys() == {*ARRAYS, "half"}
    assert arrays["half"].dtype == np.float32 and arrays["half"] == 0.5
    for name in ARRAYS:
        np.testing.assert_array_equal(arrays[name], ARRAYS[name])
    with np.load(tmp_path / "x.npz", allow_pickle=False) as file:
        assert set(file.files) == {"__meta__", "scope/a", "scope/b", "half"}
        assert all(file[name].dtype != object for name in file.files)


@pytest.mark.parametrize("keep", [0, 10, 100, -30, "flipped"])
def test_truncated_and_flipped_files_are_refused(tmp_path, keep):
    path = tmp_path / "x.npz"
    checkpoints.write_npz(path, ARRAYS, {})
    data = bytearray(path.read_bytes())
    if keep == "flipped":
        data[data.index(np.float32(5).tobytes())] ^= 1
    path.write_bytes(data if keep == "flipped" else data[:keep])
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        checkpoints.read_npz(path)
    gc.collect()  # a file left open is a warning, and warnings are errors


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
    ("arrays", "message"),
    [
        ({}, "lacks a"),
        ({"a": np.zeros(3)}, r"a is \(3,\), not \(2,\)"),
        ({"a": np.zeros(2), "b": np.zeros(1)}, "it has b too"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(session, arrays, message):
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
        checkpoints.read_network(tmp_path / "x.npz", "G", None)


# --- Untrusted files


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two members of one name
        for name, data in members:
            file.writestr(name, data)
    return path


def npy(array=None, header=None, data=b""):
    """The bytes of an npy file, or of one whose header says something else."""
    stream = io.BytesIO()
    if header is None:
        np.lib.format.write_array(stream, array)
    else:
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(data)
    return stream.getvalue()


META = npy(np.array('{"format_version": 1, "network": "G", "arguments": {}, "recipe": "r", "step": 1}'))
HUGE = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)}


@pytest.mark.parametrize(
    "members",
    [
        [("__meta__.npy", META), ("a.npy", npy(header=HUGE))],
        [("__meta__.npy", META), ("a.npy", npy(header={**HUGE, "shape": (3,)}, data=bytes(8)))],
        [("__meta__.npy", META), ("a.npy", b"\x93NUMPY\x09\x00")],
        [("__meta__.npy", META), ("a.npy", npy(np.array(["text"])))],
        [("__meta__.npy", META), ("a.npy", b"")],
        [("__meta__.npy", META), ("a.npy", META.replace(b"<U", b"|O"))],
        [("__meta__.npy", npy(np.array("[" * 10**5)))],
        [("__meta__.npy", npy(np.array(3.0)))],
        [("__meta__.npy", b"nothing")],
        [("__meta__.npy", META), ("a.npy", npy(np.zeros(1))), ("a.npy", npy(np.zeros(1)))],
    ],
)
def test_hostile_files_are_refused_in_one_sentence(tmp_path, members):
    path = write_zip(tmp_path / "x.npz", members)
    with pytest.raises(UserError, match=r"x\.npz is damaged or not a checkpoint") as error:
        checkpoints.read_network(path, "G", None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [("arguments", []), ("step", None), ("step", "3"), ("recipe", 1)])
def test_meta_of_wrong_types_is_refused(tmp_path, change):
    meta = {"network": "G", "arguments": {}, "recipe": "r", "step": 1, change[0]: change[1]}
    checkpoints.write_npz(tmp_path / "x.npz", ARRAYS, meta)
    with pytest.raises(UserError, match=f"its __meta__ lacks {change[0]}"):
        checkpoints.read_network(tmp_path / "x.npz", "G", None)


def test_deflated_bombs_are_refused_before_they_are_read(tmp_path):
    bomb = npy(np.zeros(20 * 2**20, np.float32))
    path = write_zip(tmp_path / "x.npz", [("__meta__.npy", META), ("a.npy", bomb)], zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="it is small, but claims to hold 80 MB"):
        checkpoints.read_npz(path)


def test_compressed_files_fortran_order_and_both_header_versions_are_read(tmp_path):
    arrays = {"a": np.asfortranarray(np.arange(12.0).reshape(3, 4))}
    meta = np.array('{"format_version": 1}')
    np.savez_compressed(tmp_path / "x.npz", __meta__=meta, **arrays)
    np.testing.assert_array_equal(checkpoints.read_npz(tmp_path / "x.npz")[0]["a"], arrays["a"])
    for version in ((1, 0), (2, 0)):
        member = io.BytesIO()
        np.lib.format.write_array(member, np.float32([3]), version)
        write_zip(tmp_path / "y.npz", [("__meta__.npy", META), ("a.npy", member.getvalue())])
        assert checkpoints.read_npz(tmp_path / "y.npz")[0]["a"] == 3


def test_encrypted_files_and_unknown_zip_features_are_refused(tmp_path):
    path = write_zip(tmp_path / "x.npz", [("__meta__.npy", META)])
    whole = path.read_bytes()
    central = whole.index(b"PK\x01\x02")
    for offset, value in ((8, 1), (10, 97), (6, 255)):  # in the directory: flag bits, method, version needed
        data = bytearray(whole)
        data[central + offset] = value
        path.write_bytes(data)
        with pytest.raises(UserError, match="damaged or not a checkpoint"):
            checkpoints.read_npz(path)


def test_network_arguments_that_differ_are_named():
    checkpoints.require_same_arguments("x", {"a": 1, "old": 2}, {"a": 1, "new": (3,)})
    with pytest.raises(
        UserError, match="x holds another network: a is 1 there and 2 here; b is t there and l here"
    ):
        checkpoints.require_same_arguments("x", {"a": 1, "b": "t", "c": [1]}, {"a": 2, "b": "l", "c": (1,)})
