"""npz checkpoints."""

import io
import zipfile

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


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_both_versions_of_numpys_headers_are_read(tmp_path, version):
    member = io.BytesIO()
    np.lib.format.write_array(member, np.float32([3]), version)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("__meta__.npy", npy(np.array('{"format_version": 1}')))
        file.writestr("a.npy", member.getvalue())
    assert checkpoints.read_npz(tmp_path / "x.npz")[0]["a"] == 3


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
        checkpoints.read_network(tmp_path / "x.npz", "G", None)


# --- Files of strangers


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
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


def test_files_of_savez_compressed_and_fortran_order_are_read(tmp_path):
    arrays = {"a": np.asfortranarray(np.arange(12.0).reshape(3, 4))}
    meta = np.array('{"format_version": 1}')
    np.savez_compressed(tmp_path / "x.npz", __meta__=meta, **arrays)
    np.testing.assert_array_equal(checkpoints.read_npz(tmp_path / "x.npz")[0]["a"], arrays["a"])


def test_encrypted_and_oddly_compressed_files_are_refused(tmp_path):
    path = write_zip(tmp_path / "x.npz", [("__meta__.npy", META)])
    whole = path.read_bytes()
    central = whole.index(b"PK\x01\x02")
    for offset, value in ((8, 1), (10, 97)):  # flag bits, method, in the central directory
        data = bytearray(whole)
        data[central + offset] = value
        path.write_bytes(data)
        with pytest.raises(UserError, match="damaged or not a checkpoint"):
            checkpoints.read_npz(path)


def test_what_is_left_over_is_named(session):
    a = tf.compat.v1.get_variable("a", initializer=np.float32([1, 2]))
    with pytest.raises(UserError, match=r"mine.npz does not fit this network: it has b too"):
        checkpoints.assign(session, [a], {"a": np.zeros(2), "b": np.zeros(1)}, "mine.npz")


def test_network_arguments_that_differ_are_named():
    checkpoints.require_same_arguments("x", {"a": 1, "old": 2}, {"a": 1, "new": (3,)})
    with pytest.raises(
        UserError, match="x holds another network: a is 1 there and 2 here; b is t there and l here"
    ):
        checkpoints.require_same_arguments("x", {"a": 1, "b": "t", "c": [1]}, {"a": 2, "b": "l", "c": (1,)})


def test_a_zip_of_a_version_to_come_is_refused_in_a_sentence(tmp_path):
    checkpoints.write_npz(tmp_path / "g.npz", {"a": np.ones(3, np.float32)}, {})
    data = bytearray((tmp_path / "g.npz").read_bytes())
    at = data.index(b"PK\1\2")
    data[at + 6] = 255  # the version that is needed to extract it
    (tmp_path / "g.npz").write_bytes(data)
    with pytest.raises(UserError, match=r"g\.npz is damaged or not a checkpoint"):
        checkpoints.read_network(tmp_path / "g.npz", "SRGAN_g", None)
