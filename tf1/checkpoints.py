"""npz checkpoints: one named array per variable and a JSON `__meta__`, written atomically.

Files are untrusted input: these checkpoints are read without pickle, sizes are checked before arrays are
read, and a damaged file raises UserError. Reading them does not need TensorFlow.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import atomic
from tf1 import third_party

log = logging.getLogger("srgan")

FORMAT_VERSION = 1
PRETRAINED_DIR = Path(__file__).parents[1] / "checkpoint" / "pretrained"  # ships with the program
SHIPPED = ("srgan", "srresnet", "photo", "srresnet_x2")
DEFAULT_DIR = Path("checkpoint")  # for runs without --checkpoint-dir
META_KEY = "__meta__"
MAX_META_BYTES = 2**24
MAX_EXPANSION = 20  # reject larger files that expand more than this; trained weights: 1.1
EXPANSION_FREE_BYTES = 2**26


def locate(name: str | Path, network: str = "SRGAN_g") -> Path:
    """Returns the path of weights given as a path or a name in `SHIPPED`; relative where possible."""
    if str(name) not in SHIPPED:
        return Path(name)
    path, here = PRETRAINED_DIR / f"{'g' if network == 'SRGAN_g' else 'd'}_{name}.npz", Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def write_npz(path: str | Path, arrays: dict[str, np.ndarray], meta: dict) -> None:
    text = json.dumps({"format_version": FORMAT_VERSION, **meta})
    with atomic(path) as part, open(part, "wb") as file:
        np.savez(file, **{META_KEY: np.array(text)}, **arrays)


def read_npz(path: str | Path) -> tuple[dict[str, np.ndarray], dict]:
    """Returns the arrays of a checkpoint, float16 converted to float32, and its meta."""
    with _opened(path) as file:
        return _contents(file, path)


def read_meta(path: str | Path) -> dict:
    """Returns the meta without reading the arrays."""
    with _opened(path) as file:
        return _meta(file, path)


def read_network(path: str | Path, network: str, layout) -> tuple[dict[str, np.ndarray], dict]:
    """Returns the weights of one network, all finite, and the meta with `arguments`, `recipe` and `step`.

    Reads this program's npz files, Saver checkpoints (path is the prefix) and TensorLayer 1.x lists. path: as
    in `locate`. layout: function that returns the arguments and {variable: shape} of config.py's network.
    """
    path = locate(path, network)
    if third_party.is_saver(path):
        meta = _meta_of_others(network, layout(network)[0])
        arrays = third_party.read_saver(path, network)
        log.info("%s is a Saver checkpoint: taking %d arrays of %s", path, len(arrays), network)
    else:
        with _opened(path) as file:
            if file.namelist() == [third_party.LIST_MEMBER]:
                arguments, shapes = layout(network)
                arrays = third_party.named_list(path, file, shapes)
                meta = _meta_of_others(network, arguments)
                kind = "a list of TensorLayer 1.x"
                log.info("%s is %s: taking its %d arrays for %s", path, kind, len(arrays), network)
            else:
                arrays, meta = _contents(file, path)
    if meta.get("network") != network:
        found = meta.get("network") or "a training state"
        raise UserError(f"{path} holds {found}, not the network {network}")
    for key, kind in (("arguments", dict), ("recipe", str), ("step", int)):
        if type(meta.get(key)) is not kind:
            raise UserError(f"{path} is damaged or not a checkpoint: its __meta__ lacks {key}")
    meta["arguments"].pop("init", None)  # older files record the initialiser
    if network == "SRGAN_g":
        meta["arguments"].setdefault("scale", 4)  # older files do not record the scale: it was always 4
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise UserError(f"{path} is unusable: {name} holds values that are not finite")
    return arrays, meta


def _meta_of_others(network: str, arguments: dict) -> dict:
    """Meta for files of other programs, which have none: the note's network is assumed."""
    return {"network": network, "arguments": arguments, "recipe": "tensorlayer", "step": 0}


def require_same_arguments(path: str | Path, arguments: dict, expected: dict) -> None:
    """Raises a UserError that names every network argument that differs from `expected`."""
    expected = json.loads(json.dumps(expected))  # tuples are lists in the file
    listed = [
        f"{key} is {value} there and {expected[key]} here"
        for key, value in arguments.items()
        if key in expected and value != expected[key]
    ]
    if listed:
        raise UserError(f"{path} holds another network: {'; '.join(listed)}")


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """Opens an npz file as a zip file; any error inside the context becomes a UserError."""
    try:
        with zipfile.ZipFile(path) as file:
            require_plain(file, path)
            yield file
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, not a checkpoint") from None
    except Exception as error:  # readers may raise anything on a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is damaged or not a checkpoint: {reason}") from None


def _contents(file: zipfile.ZipFile, path: str | Path) -> tuple[dict, dict]:
    meta = _meta(file, path)
    names = [name for name in file.namelist() if name != f"{META_KEY}.npy"]
    return {name.removesuffix(".npy"): read_array(file, name) for name in names}, meta


def require_plain(file: zipfile.ZipFile, path: str | Path) -> None:
    """Raises ValueError for duplicate names and for a file far larger in memory than on disk."""
    members = file.infolist()
    if len({member.filename for member in members}) < len(members):
        raise ValueError("two arrays have the same name")
    size = sum(member.file_size for member in members)
    if size > EXPANSION_FREE_BYTES and size > MAX_EXPANSION * Path(path).stat().st_size:
        raise ValueError(f"it is small, but claims to hold {size / 2**20:.0f} MB")


def _meta(file: zipfile.ZipFile, path: str | Path) -> dict:
    if f"{META_KEY}.npy" not in file.namelist():
        raise UserError(f"{path} is not a checkpoint of this program: it has no {META_KEY}")
    meta = json.loads(str(read_array(file, f"{META_KEY}.npy", kinds="U")))
    if not isinstance(meta, dict):
        raise UserError(f"{path} is not a checkpoint of this program: its {META_KEY} is not a JSON object")
    if meta.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path} has format version {meta.get('format_version')}, not {FORMAT_VERSION}")
    return meta


def read_array(file: zipfile.ZipFile, name: str, kinds: str = "biuf") -> np.ndarray:
    """Reads one array; its header must agree with the size of its zip member."""
    size = file.getinfo(name).file_size
    if kinds == "U" and size > MAX_META_BYTES:
        raise ValueError(f"{name} has {size} bytes")
    with file.open(name) as member:
        shape, is_fortran, dtype = third_party.read_header(member)
        if dtype.kind not in kinds or dtype.itemsize * math.prod(shape) != size - member.tell():
            raise ValueError(f"{name} is {dtype} {shape} in {size} bytes")
        array = np.frombuffer(member.read(), dtype)
    array = array.reshape(shape[::-1]).T if is_fortran else array.reshape(shape)
    return array.astype(np.float32 if dtype == np.float16 else dtype.newbyteorder("="), copy=False)


def fetch(session, variables) -> dict[str, np.ndarray]:
    """Returns {variable name: value}."""
    return session.run({variable.op.name: _copies(variable)[0] for variable in variables})


def assign(session, variables, arrays: dict, source: str | Path) -> None:
    """Sets each variable to the array of the same name; the names must match exactly. source: for errors."""
    require_shapes(arrays, {variable.op.name: tuple(variable.shape) for variable in variables}, source)
    set_variables(session, {variable: arrays[variable.op.name] for variable in variables})


def require_shapes(arrays: dict, shapes: dict[str, tuple], source: str | Path) -> None:
    """Raises UserError unless names and shapes match `shapes` exactly; `source` names the file in errors."""
    for name, shape in shapes.items():
        if name not in arrays:
            raise UserError(f"{source} does not fit this network: it lacks {name}")
        if arrays[name].shape != shape:
            raise UserError(
                f"{source} does not fit this network: {name} is {arrays[name].shape}, not {shape}"
            )
    for name in sorted(arrays.keys() - shapes.keys()):
        raise UserError(f"{source} does not fit this network: {name} is unexpected")


def set_variables(session, values: dict) -> None:
    """Sets variables through their initialisers, which adds no operations to the graph."""
    pairs = [(copy.initializer, value) for variable, value in values.items() for copy in _copies(variable)]
    session.run(
        [initializer for initializer, _ in pairs],
        {initializer.inputs[1]: value for initializer, value in pairs},
    )


def _copies(variable) -> tuple:
    """Returns this host's copies of a variable, one per replica."""
    return getattr(variable, "values", (variable,))


def digest(arrays: dict[str, np.ndarray]) -> str:
    """Returns a short hash of the values, independent of the file format."""
    hashed = hashlib.sha256()
    for name in sorted(arrays):
        hashed.update(arrays[name].tobytes())
    return hashed.hexdigest()[:12]


def is_finite(arrays: dict[str, np.ndarray]) -> bool:
    return all(np.isfinite(array).all() for array in arrays.values())
