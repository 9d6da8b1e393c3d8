"""npz checkpoints: one named array per variable and a JSON `__meta__`; written whole or not at all.

And which run may be continued from one.
"""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from easydict import EasyDict as edict

from config import flatten
from schedule import Schedule
from utils import UserError

FORMAT_VERSION = 1
PRETRAINED_DIR = Path(__file__).parent / "checkpoint" / "pretrained"  # comes with the program
META_KEY = "__meta__"
# The settings that may change between a run and its continuation: they do not touch the numbers.
FREE_SETTINGS = ("RUNTIME.", "VALID.", "TRAIN.cache_mb", "TRAIN.save_", "VGG.weights")
# And those that may, as far as the steps that are done would have been the same.
SCHEDULE_SETTINGS = ("TRAIN.n_epoch", "TRAIN.lr_", "TRAIN.decay_every", "TRAIN.warmup_steps")


def write_npz(path: str | Path, arrays: dict[str, np.ndarray], meta: dict) -> None:
    """Writes arrays and meta to a temporary file beside `path`, syncs it, and renames it to `path`."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    text = json.dumps({"format_version": FORMAT_VERSION, **meta})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            np.savez(file, **{META_KEY: np.array(text)}, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


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


def check_continuation(state: Path, config, steps_per_pass: int, vgg_features: str) -> None:
    """Refuses to continue a run made with other settings or features, before anything slow begins."""
    meta = read_meta(state)
    differences = _differences(meta["config"], config)
    of_schedule = [key for key in differences if key.startswith(SCHEDULE_SETTINGS)]
    if of_schedule:
        steps_per_epoch = config.TRAIN.steps_per_epoch or steps_per_pass
        before = edict({**config.TRAIN, **meta["config"]["TRAIN"]})
        if Schedule(before, steps_per_epoch).agrees(Schedule(config.TRAIN, steps_per_epoch), meta["step"]):
            for key in of_schedule:
                del differences[key]
    if differences:
        listed = "; ".join(f"{key} was {old}, is {new}" for key, (old, new) in differences.items())
        raise UserError(
            f"the run in {state.parent} was made with other settings ({listed}): use the same ones, "
            "--restart to begin anew and overwrite it, or another --checkpoint-dir"
        )
    if meta["vgg_features"] != vgg_features:
        raise UserError(
            f"the run in {state.parent} used {meta['vgg_features']} VGG19 features, this one would use "
            f"{vgg_features}: bring the same weights, or use --restart"
        )


def _differences(before: dict, now: dict) -> dict[str, tuple]:
    """{setting: (before, now)} of those that differ between two configs and touch the numbers."""
    before, now = (dict(flatten(json.loads(json.dumps(tree)))) for tree in (before, now))
    return {
        key: (before.get(key), now.get(key))
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(FREE_SETTINGS)
    }
