"""npz checkpoints: one named array per variable and a JSON `__meta__`; written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from common.errors import UserError
from common.files import atomic

FORMAT_VERSION = 1
PRETRAINED_DIR = Path(__file__).parents[1] / "checkpoint" / "pretrained"  # comes with the program
META_KEY = "__meta__"


def pretrained(name: str) -> Path:
    """A file of the program's own weights, as a path from the current folder if that is above it."""
    path, here = PRETRAINED_DIR / name, Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def write_npz(path: str | Path, arrays: dict[str, np.ndarray], meta: dict) -> None:
    """Writes arrays and meta, whole or not at all."""
    text = json.dumps({"format_version": FORMAT_VERSION, **meta})
    with atomic(path) as part, open(part, "wb") as file:
        np.savez(file, **{META_KEY: np.array(text)}, **arrays)


def read_npz(path: str | Path) -> tuple[dict[str, np.ndarray], dict]:
    """The arrays (float16 ones as float32) and the meta of a checkpoint."""
    with _opened(path) as file:
        meta = _meta(file, path)
        arrays = {key: file[key] for key in file.files if key != META_KEY}
    for key, array in arrays.items():
        if array.dtype == np.float16:
            arrays[key] = array.astype(np.float32)
    return arrays, meta


def read_meta(path: str | Path) -> dict:
    """The meta alone, without reading the arrays."""
    with _opened(path) as file:
        return _meta(file, path)


@contextlib.contextmanager
def _opened(path: str | Path):
    try:
        # opened here, because np.load leaves a damaged file open
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}") from None
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged or not a checkpoint: {error}") from None


def _meta(file, path: str | Path) -> dict:
    meta = json.loads(str(file[META_KEY])) if META_KEY in file.files else None
    if not isinstance(meta, dict):
        raise UserError(f"{path} is not a checkpoint of this program: it has no {META_KEY}")
    if meta.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path} has format version {meta.get('format_version')}, not {FORMAT_VERSION}")
    return meta


def fetch(session: tf.compat.v1.Session, variables) -> dict[str, np.ndarray]:
    """{variable's name: its value}."""
    names = [variable.op.name for variable in variables]
    return dict(zip(names, session.run(list(variables))))


def assign(session: tf.compat.v1.Session, variables, arrays: dict, source: str | Path) -> None:
    """Sets every variable to the array of its name; `source` names the file in errors."""
    for variable in variables:
        name, shape = variable.op.name, tuple(variable.shape)
        if name not in arrays:
            raise UserError(f"{source} does not fit this network: it lacks {name}")
        if arrays[name].shape != shape:
            raise UserError(
                f"{source} does not fit this network: {name} is {arrays[name].shape}, not {shape}"
            )
    load(session, {variable: arrays[variable.op.name] for variable in variables})


def load(session: tf.compat.v1.Session, values: dict) -> None:
    """Sets variables through their initialisers, which adds nothing to the graph."""
    session.run(
        [variable.initializer for variable in values],
        {variable.initializer.inputs[1]: value for variable, value in values.items()},
    )


def require_finite(arrays: dict[str, np.ndarray]) -> None:
    """Refuses weights with NaN or infinity, so that a good checkpoint is never replaced by them."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(
                f"{name} is no longer finite: the last good checkpoint was kept; "
                "a lower TRAIN.lr_init may help"
            )
