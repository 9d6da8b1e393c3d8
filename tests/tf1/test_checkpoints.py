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


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_networks_that_are_not_finite_are_refused(tmp_path, bad):
    arrays = {**ARRAYS, "scope/w": np.float32([1, bad])}
    assert checkpoints.is_finite(ARRAYS) and not checkpoints.is_finite(arrays)
    checkpoints.write_npz(tmp_path / "x.npz", arrays, NETWORK)
    with pytest.raises(UserError, match="scope/w holds values that are not finite"):
        checkpoints.read_network(tmp_path / "x.npz", "G", None)


# --- Untrusted files


def zipped(*members, compression=zipfile.ZIP_STORED):
    """The bytes of a zip file of a meta and arrays, all arrays of one name."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two members of one name
        for name, data in zip(("__meta__.npy", "a.npy", "a.npy"), members):
            file.writestr(name, data)
    return stream.getvalue()


def npy(array, **header):
    """The bytes of an npy file, whose header may say something else."""
    stream = io.BytesIO()
    described = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(stream, {**described, **header})
    return stream.getvalue() + array.tobytes()


META = npy(np.array(json.dumps({"format_version": 1, **NETWORK})))
TWO = npy(np.zeros(2, np.float32))


FILE = zipped(META, npy(ARRAYS["scope/a"]))
DIRECTORY = FILE.index(b"PK\x01\x02")


def with_byte(at, value):
    return FILE[:at] + bytes([value]) + FILE[at + 1 :]


HOSTILE = {
    "nothing": b"",
    "cut at the start": FILE[:10],
    "cut at the end": FILE[:-30],
    "another number": with_byte(FILE.index(np.float32(5).tobytes()), 1),
    "encrypted": with_byte(DIRECTORY + 8, 1),
    "unknown method": with_byte(DIRECTORY + 10, 97),
    "unknown zip": with_byte(DIRECTORY + 6, 255),
    "of terabytes": zipped(META, npy(np.zeros(0, np.float32), shape=(10**6, 10**6))),
    "too short": zipped(META, npy(np.zeros(2, np.float32), shape=(3,))),
    "unknown version": zipped(META, b"\x93NUMPY\x09\x00"),
    "text": zipped(META, npy(np.array(["text"]))),
    "empty": zipped(META, b""),
    "objects": zipped(META, META.replace(b"<U", b"|O")),
    "deep meta": zipped(npy(np.array("[" * 10**5))),
    "meta of numbers": zipped(npy(np.array(3.0))),
    "meta without header": zipped(b"nothing"),
    "two of one name": zipped(META, TWO, TWO),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_damaged_and_hostile_files_are_refused_in_one_sentence(tmp_path, data):
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(UserError, match=r"x\.npz is damaged or not a checkpoint") as error:
        checkpoints.read_network(tmp_path / "x.npz", "G", None)
    assert "\n" not in str(error.value)
    gc.collect()  # a file left open is a warning, and warnings are errors


@pytest.mark.parametrize(("key", "value"), [("arguments", []), ("step", None), ("step", "3"), ("recipe", 1)])
def test_meta_of_wrong_types_is_refused(tmp_path, key, value):
    checkpoints.write_npz(tmp_path / "x.npz", ARRAYS, {**NETWORK, key: value})
    with pytest.raises(UserError, match=f"its __meta__ lacks {key}"):
        checkpoints.read_network(tmp_path / "x.npz", "G", None)


def test_deflated_bombs_are_refused_before_they_are_read(tmp_path):
    bomb = npy(np.zeros(20 * 2**20, np.float32))
    (tmp_path / "x.npz").write_bytes(zipped(META, bomb, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(UserError, match="it is small, but claims to hold 80 MB"):
        checkpoints.read_npz(tmp_path / "x.npz")


def test_compressed_files_fortran_order_and_both_header_versions_are_read(tmp_path):
    array = np.asfortranarray(np.arange(12.0).reshape(3, 4))
    np.savez_compressed(tmp_path / "x.npz", __meta__='{"format_version": 1}', a=array)
    np.testing.assert_array_equal(checkpoints.read_npz(tmp_path / "x.npz")[0]["a"], array)
    for version in ((1, 0), (2, 0)):
        member = io.BytesIO()
        np.lib.format.write_array(member, np.float32([3]), version)
        (tmp_path / "y.npz").write_bytes(zipped(META, member.getvalue()))
        assert checkpoints.read_npz(tmp_path / "y.npz")[0]["a"] == 3


def test_network_arguments_that_differ_are_named():
    checkpoints.require_same_arguments("x", {"a": 1, "old": 2}, {"a": 1, "new": (3,)})
    words = "x holds another network: a is 1 there and 2 here; b is t there and l here"
    with pytest.raises(UserError, match=words):
        checkpoints.require_same_arguments("x", {"a": 1, "b": "t", "c": [1]}, {"a": 2, "b": "l", "c": (1,)})
