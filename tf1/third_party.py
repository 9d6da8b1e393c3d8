"""Weights of other programs: TensorLayer 1.x lists, TensorFlow 1 pickles, Saver checkpoints.

Pickles are untrusted input: the unpickler accepts only arrays and plain containers.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import atomic

LIST_MEMBER = "params.npy"  # written by np.savez(params=[...]) in TensorLayer 1.x
AVERAGE = "/ExponentialMovingAverage"


class ArrayUnpickler(pickle.Unpickler):
    """Accepts only NumPy arrays and plain containers, so that no code runs."""

    ADMITTED = (
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
        ("_codecs", "encode"),  # how Python 3 writes bytes for Python 2
    )

    def find_class(self, module, name):
        module = module.replace("numpy.core.", "numpy._core.")  # the name before NumPy 2
        if (module, name) not in self.ADMITTED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is not an array")
        return super().find_class(module, name)


def read_pickled(file):
    """Reads the pickled objects of an npy file."""
    read_header(file)
    return ArrayUnpickler(file, encoding="latin1").load()


def read_header(file) -> tuple[tuple, bool, np.dtype]:
    """Returns (shape, whether in Fortran order, dtype) of an npy file."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    return readers[np.lib.format.read_magic(file)](file)


def named_list(path: str | Path, file: zipfile.ZipFile, shapes: dict[str, tuple]) -> dict[str, np.ndarray]:
    """Reads a TensorLayer 1.x list of arrays; `shapes`, in graph order, gives their names."""
    with file.open(LIST_MEMBER) as member:
        arrays = [np.asarray(array, np.float32) for array in read_pickled(member)]
    for index, ((name, shape), array) in enumerate(zip(shapes.items(), arrays)):
        if array.shape != shape:
            raise UserError(
                f"{path} is not a TensorLayer list of this network: array {index} is {array.shape}, but "
                f"{name} is {shape}"
            )
    if len(arrays) != len(shapes):
        raise UserError(
            f"{path} is not a TensorLayer list of this network: {len(arrays)} arrays, not {len(shapes)}"
        )
    return dict(zip(shapes, arrays))


def write_list(path: str | Path, arrays: list[np.ndarray]) -> None:
    """Writes an npz that TensorLayer 1.x reads with `load_npz`."""
    params = np.empty(len(arrays), object)
    params[:] = arrays
    with atomic(path) as part, open(part, "wb") as file:
        np.savez(file, params=params)


def is_saver(path: str | Path) -> bool:
    """Whether `path` is the prefix of a tf.compat.v1.train.Saver checkpoint."""
    return Path(f"{path}.index").is_file()


def read_saver(path: str | Path, network: str) -> dict[str, np.ndarray]:
    """Reads a network's variables, or their moving averages where the checkpoint has them."""
    import tensorflow as tf  # imported only here: it takes seconds

    try:
        reader = tf.train.load_checkpoint(str(path))
        names = [name for name in reader.get_variable_to_shape_map() if name.startswith(f"{network}/")]
        averages = {name.removesuffix(AVERAGE) for name in names if name.endswith(AVERAGE)}
        names = [name for name in names if "optim" not in name and not name.endswith(AVERAGE)]
        return {name: reader.get_tensor(name + AVERAGE * (name in averages)) for name in names}
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
