"""The files of a run that may be continued: its state, what it was made from, whether that still holds."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from easydict import EasyDict as edict

from common.errors import UserError
from common.files import atomic, sync_folder
from common.settings import flatten, make_config
from tf1 import checkpoints
from training.dataset import Entry, Listing
from training.schedule import Schedule

log = logging.getLogger("srgan")

STATE_FILE = "srgan_state.npz"
PREVIOUS_STATE_FILE = "srgan_state_previous.npz"
SAVER_DIR = "saver"
PICTURES_FILE = "pictures.json"
WEIGHTS = ("g_srgan*.npz", "d_srgan*.npz")
LOGS = ("train_log.jsonl", "run.log", "tensorboard", "config.json")
REPLACED_DIR = "replaced"  # where --restart puts the run before
# The settings that may change between a run and its continuation: they do not touch the numbers, or are
# compared by what they lead to.
FREE_SETTINGS = (
    "RUNTIME.",
    "VALID.",
    "TRAIN.save_",
    "TRAIN.keep_weights",
    "TRAIN.max_bad_images",
    "VGG.weights",
    "VGG.on_missing",
)
# Paths, which lead to the same from other hosts by other names
OWN_PATHS = ("TRAIN.hr_img_path", "TRAIN.init_weights", "TRAIN.init_weights_d")
# And those that may, as far as the steps that are done would have been the same.
SCHEDULE_SETTINGS = ("TRAIN.n_epoch", "TRAIN.lr_", "TRAIN.decay_every", "TRAIN.warmup_steps")
STATE_KEYS = {"step": int, "sums": dict, "config": dict, "vgg_features": str}


class Saved(NamedTuple):
    """A run as it was saved; `arrays` is None for a Saver checkpoint."""

    path: Path
    meta: dict
    arrays: dict[str, np.ndarray] | None


def save_state(checkpoint_dir: Path, arrays: dict[str, np.ndarray], meta: dict) -> None:
    """Writes the state whole or not at all; the one before stays beside it."""
    state = checkpoint_dir / STATE_FILE
    new = state.with_stem(f"{state.stem}_new")
    checkpoints.write_npz(new, arrays, meta)
    try:
        if state.exists():
            os.replace(state, checkpoint_dir / PREVIOUS_STATE_FILE)
        os.replace(new, state)
    except OSError as error:
        raise UserError(f"cannot write {state}: {error.strerror}") from error
    sync_folder(checkpoint_dir)


def saved_run(checkpoint_dir: Path) -> Saved | None:
    """The run to be continued in a folder: its last readable state, else its last Saver checkpoint."""
    errors: dict[Path, UserError] = {}
    for path in (checkpoint_dir / STATE_FILE, checkpoint_dir / PREVIOUS_STATE_FILE):
        if not path.exists():
            continue
        try:
            arrays, meta = checkpoints.read_npz(path)
            _require_state(path, meta)
        except UserError as error:
            errors[path] = error
            continue
        for damaged, error in errors.items():
            aside = damaged.with_stem(f"{damaged.stem}_damaged")
            os.replace(damaged, aside)
            log.warning("WARNING: %s; it is now %s, and %s stands in", error, aside.name, path.name)
        return Saved(path, meta, arrays)
    for error in errors.values():
        raise error
    latest = tf.train.latest_checkpoint(str(checkpoint_dir / SAVER_DIR))
    if latest is None:
        return None
    try:
        meta = json.loads(Path(f"{latest}.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{latest}.json, which describes the checkpoint, cannot be read: {error}") from None
    _require_state(Path(f"{latest}.json"), meta)
    return Saved(Path(latest), meta, None)


def _require_state(path: Path, meta: dict) -> None:
    for key, kind in STATE_KEYS.items():
        if not isinstance(meta, dict) or type(meta.get(key)) is not kind:
            raise UserError(f"{path} is not the state of a run: its __meta__ lacks {key}")


def require_no_weights(checkpoint_dir: Path) -> None:
    """Refuses to begin a run where weights lie that it would replace, without a state to go on from."""
    weights = sorted(path for pattern in WEIGHTS for path in checkpoint_dir.glob(pattern))
    if weights:
        raise UserError(
            f"{checkpoint_dir} holds {weights[0].name}, but no run to continue: --restart moves it to "
            f"{checkpoint_dir / REPLACED_DIR}, --set TRAIN.init_weights={weights[0]} with another "
            "--checkpoint-dir starts from it"
        )


def set_aside_run(checkpoint_dir: Path) -> None:
    """Moves the files of a run to a folder below, in place of those of the run before that."""
    aside = checkpoint_dir / REPLACED_DIR
    patterns = (*WEIGHTS, *LOGS, "srgan_state*.npz", SAVER_DIR, PICTURES_FILE)
    found = [path for pattern in patterns for path in checkpoint_dir.glob(pattern)]
    if not found:
        return
    try:
        if aside.exists():
            shutil.rmtree(aside)
        aside.mkdir()
        for path in found:
            os.replace(path, aside / path.name)
    except OSError as error:
        raise UserError(f"cannot move the run before to {aside}: {error.strerror or error}") from None
    log.info("The run before is now in %s", aside)


# -- what a run was made from


def fingerprint(listing: Listing) -> str:
    """The same for the same pictures, wherever they lie."""
    facts = sorted((name, *_facts(entry)) for name, entry in listing.items())
    return hashlib.sha256(json.dumps(facts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _facts(entry: Entry) -> tuple[int, int, int]:
    """What stays when a picture is copied: size in bytes, height, width."""
    return (entry[0], *entry[2:])


def read_listing(checkpoint_dir: Path) -> Listing:
    """The pictures that the folder's run was made from; empty if that is not known."""
    try:
        listing = json.loads((checkpoint_dir / PICTURES_FILE).read_text())
        return {str(name): tuple(map(int, entry)) for name, entry in listing.items() if len(entry) == 4}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}


def write_listing(checkpoint_dir: Path, listing: Listing) -> None:
    with atomic(checkpoint_dir / PICTURES_FILE) as path:
        path.write_text(json.dumps(listing, indent=0) + "\n")


def facts(config, made_with: dict[str, str], devices: int) -> dict[str, str]:
    """What must be the same on all hosts of a run, by names for the user."""
    settings = {
        key: repr(value) for key, value in flatten(config) if not key.startswith((*FREE_SETTINGS, *OWN_PATHS))
    }
    return {**settings, **made_with, "device": "", "devices": str(devices)}


def check_continuation(
    saved: Saved, config, steps_per_pass: int, listing: Listing, known: Listing, made_with: dict[str, str]
) -> None:
    """Refuses to continue a run made with other settings, pictures or features.

    `known` are the pictures it was made from, as far as they are remembered; `made_with` has the device, the
    precision, the VGG19 features and the pictures' fingerprint of now.
    """
    path, meta, _ = saved
    differences = _differences(path, meta, config)
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
            f"the run in {path.parent} was made with other settings ({listed}): use the same ones, "
            "--restart to begin anew and set it aside, or another --checkpoint-dir"
        )
    if meta.get("pictures", made_with["pictures"]) != made_with["pictures"]:
        raise UserError(
            f"the run in {path.parent} was made from other pictures ({_changes(known, listing)}): bring them "
            "back, or begin anew with --restart, from its weights if TRAIN.init_weights names them"
        )
    features = made_with["vgg_features"]
    if not features.startswith(meta["vgg_features"]):  # older files tell no more than the layer
        raise UserError(
            f"the run in {path.parent} used {meta['vgg_features']} VGG19 features, this one would use "
            f"{features}: bring the same weights, or use --restart"
        )
    precision = meta.get("precision", made_with["precision"])
    if precision != made_with["precision"]:
        raise UserError(
            f"the run in {path.parent} computed in {precision}, this one would in {made_with['precision']}: "
            f"add --set RUNTIME.precision={precision}, or use --restart"
        )
    if meta.get("device", made_with["device"]) != made_with["device"]:
        log.warning(
            "WARNING: the run was made on %s and goes on on %s, with other rounding",
            *(meta["device"], made_with["device"]),
        )


def _differences(path: Path, meta: dict, config) -> dict[str, tuple]:
    """{setting: (before, now)} of those that differ between two configs and touch the numbers."""
    now, defaults, before = (
        dict(flatten(json.loads(json.dumps(tree)))) for tree in (config, make_config(), meta["config"])
    )
    for key in now.keys() - before.keys():
        log.info("%s is older than the setting %s: it goes on with %s", path, key, defaults[key])
        before[key] = defaults[key]
    free = (*FREE_SETTINGS, "TRAIN.hr_img_path") if "pictures" in meta else FREE_SETTINGS
    return {
        key: (before[key], now[key])
        for key in sorted(now)
        if before[key] != now[key] and not key.startswith(free)
    }


def _changes(known: Listing, listing: Listing) -> str:
    """Which pictures are more, fewer or others."""

    def some(names) -> str:
        names = sorted(names)
        return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")

    changed = {n for n in known.keys() & listing.keys() if _facts(known[n]) != _facts(listing[n])}
    kinds = {
        "more": listing.keys() - known.keys(),
        "fewer": known.keys() - listing.keys(),
        "changed": changed,
    }
    if not known:
        return f"{len(listing)} now"
    return "; ".join(f"{len(names)} {kind}: {some(names)}" for kind, names in kinds.items() if names)
