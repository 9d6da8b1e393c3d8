"""npz checkpoints."""

import gc
import io
import json
import warnings
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from common.errors import UserError
from tf1 import checkpoints

NETWORK = {"network": "G", "arguments": {}, "recipe": "r", "step": 1}
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
        assert dict(file).keys() == {"__meta__", *arrays}


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
    arrays = {**ARRAYS, "scope/w": np.float32([1, bad])}
    assert checkpoints.is_finite(ARRAYS) and not checkpoints.is_finite(arrays)
    checkpoints.write_npz(tmp_path / "x.npz", arrays, NETWORK)
    with pytest.raises(UserError, match="scope/w holds values that are not finite"):
        checkpoints.read_network(tmp_path / "x.npz", "G", None)


# --- Untrusted files


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two members of one name
        for name, data in members:
            file.writestr(name, data)
    return path


def npy(array, **header):
    """The bytes of an npy file, whose header may say something else."""
    stream = io.BytesIO()
    described = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(stream, {**described, **header})
    return stream.getvalue() + array.tobytes()


META = npy(np.array(json.dumps({"format_version": 1, **NETWORK})))
TWO = npy(np.zeros(2, np.float32))


@pytest.mark.parametrize(
    "members",
    [
        [META, npy(np.zeros(0, np.float32), shape=(10**6, 10**6))],
        [META, npy(np.zeros(2, np.float32), shape=(3,))],
        [META, b"\x93NUMPY\x09\x00"],
        [META, npy(np.array(["text"]))],
        [META, b""],
        [META, META.replace(b"<U", b"|O")],
        [npy(np.array("[" * 10**5))],
        [npy(np.array(3.0))],
        [b"nothing"],
        [META, TWO, TWO],
    ],
    ids=[
        *("of terabytes", "too short", "unknown version", "text", "empty", "objects"),
        *("deep meta", "meta of numbers", "meta without header", "two of one name"),
    ],
)
def test_hostile_files_are_refused_in_one_sentence(tmp_path, members):
    names = ("__meta__.npy", "a.npy", "a.npy")
    path = write_zip(tmp_path / "x.npz", list(zip(names, members)))
    with pytest.raises(UserError, match=r"x\.npz is damaged or not a checkpoint") as error:
        checkpoints.read_network(path, "G", None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("key", "value"), [("arguments", []), ("step", None), ("step", "3"), ("recipe", 1)])
def test_meta_of_wrong_types_is_refused(tmp_path, key, value):
    checkpoints.write_npz(tmp_path / "x.npz", ARRAYS, {**NETWORK, key: value})
    with pytest.raises(UserError, match=f"its __meta__ lacks {key}"):
        checkpoints.read_network(tmp_path / "x.npz", "G", None)


def test_deflated_bombs_are_refused_before_they_are_read(tmp_path):
    bomb = npy(np.zeros(20 * 2**20, np.float32))
    path = write_zip(tmp_path / "x.npz", [("__meta__.npy", META), ("a.npy", bomb)], zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="it is small, but claims to hold 80 MB"):
        checkpoints.read_npz(path)


def test_compressed_files_fortran_order_and_both_header_versions_are_read(tmp_path):
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    np.savez_compressed(tmp_path / "x.npz", __meta__='{"format_version": 1}', a=array)
    np.testing.assert_array_equal(checkpoints.read_npz(tmp_path / "x.npz")[0]["a"], array)
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
    words = "x holds another network: a is 1 there and 2 here; b is t there and l here"
    with pytest.raises(UserError, match=words):
        checkpoints.require_same_arguments("x", {"a": 1, "b": "t", "c": [1]}, {"a": 2, "b": "l", "c": (1,)})
