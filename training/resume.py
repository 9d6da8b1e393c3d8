"""Finds and archives the saved files of a run, and checks that a run can continue from them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import UserError
from common.settings import flatten
from tf1 import checkpoints
from training.schedule import Schedule

log = logging.getLogger("srgan")

STATE_FILE, PREVIOUS_STATE_FILE = "srgan_state.npz", "srgan_state_previous.npz"
WEIGHTS = ("g_srgan*.npz", "d_srgan*.npz")
RUN_FILES = (*WEIGHTS, "srgan_state*.npz", "train_log.jsonl", "run.log", "tensorboard", "config.json")
ARCHIVE_DIR = "replaced"
STATE_KEYS = {"step": int, "sums": dict, "config": dict, "facts": dict}
# Settings that may change when a run continues: they do not affect training, or their effects are checked
FREE_SETTINGS = (
    *("RUNTIME.", "VALID.", "VGG.weights", "VGG.on_missing", "TRAIN.save_", "TRAIN.keep_weights"),
    *("TRAIN.hr_img_path", "TRAIN.max_bad_images", "TRAIN.init_weights", "TRAIN.n_epoch"),
)


class Saved(NamedTuple):
    """A saved training state."""

    path: Path
    meta: dict
    arrays: dict[str, np.ndarray]


def find_saved(folder: Path) -> Saved | None:
    """Returns the latest readable state in a folder; renames a damaged one and uses the previous state."""
    errors: dict[Path, UserError] = {}
    for path in (folder / STATE_FILE, folder / PREVIOUS_STATE_FILE):
        if not path.exists():
            continue
        try:
            arrays, meta = checkpoints.read_npz(path)
            for key, kind in STATE_KEYS.items():
                if type(meta.get(key)) is not kind:
                    raise UserError(f"{path} is not the state of a run: its __meta__ lacks {key}")
            meta["config"]["MODEL"]["generator"].setdefault("scale", 4)  # older files do not store it
        except UserError as error:
            errors[path] = error
            continue
        for damaged, error in errors.items():
            renamed = damaged.with_stem(f"{damaged.stem}_damaged")
            os.replace(damaged, renamed)
            log.warning("WARNING: %s; it is now %s, and %s is used", error, renamed.name, path.name)
        return Saved(path, meta, arrays)
    for error in errors.values():
        raise error
    weights = sorted(path for pattern in WEIGHTS for path in folder.glob(pattern))
    if weights:
        raise UserError(
            f"{folder} holds {weights[0].name}, but no run to continue: --restart moves this file to "
            f"{folder / ARCHIVE_DIR}; to start from these weights, use --set TRAIN.init_weights={weights[0]} "
            "with another --checkpoint-dir"
        )
    return None


def archive(folder: Path) -> None:
    """Moves the files of a run to a new subfolder named after the time."""
    found = [path for pattern in RUN_FILES for path in folder.glob(pattern)]
    if not found:
        return
    name = time.strftime("%Y-%m-%dT%H-%M-%S")
    aside = folder / ARCHIVE_DIR / name
    number = 1
    try:
        while aside.exists():
            number += 1
            aside = aside.with_name(f"{name}_{number}")
        aside.mkdir(parents=True)
        for path in found:
            os.replace(path, aside / path.name)
    except OSError as error:
        raise UserError(f"cannot move the previous run to {aside}: {error.strerror or error}") from None
    log.info("The previous run is now in %s", aside)


def numeric_settings(config) -> dict:
    """Returns {key: value} of the settings that must stay the same when a run continues."""
    settings = dict(flatten(json.loads(json.dumps(config))))
    return {key: value for key, value in settings.items() if not key.startswith(FREE_SETTINGS)}


def require_same_settings(saved: Saved, config) -> None:
    """Refuses to continue a run made with other settings."""
    now, before = numeric_settings(config), numeric_settings(saved.meta["config"])
    listed = [
        f"{key} was {before.get(key, 'not there')}, is {now.get(key, 'gone')}"
        for key in sorted(now.keys() | before.keys())
        if before.get(key) != now.get(key)
    ]
    if bool(config["TRAIN"]["n_epoch"]) != bool(saved.meta["config"]["TRAIN"]["n_epoch"]):
        listed.append("TRAIN.n_epoch is 0 in one of them, so that run has no discriminator")
    if listed:
        raise UserError(
            f"the run in {saved.path.parent} was made with other settings ({'; '.join(listed)}): use the "
            "same ones, --restart to start again and archive it, or another --checkpoint-dir"
        )


def require_same_facts(saved: Saved, schedule: Schedule, facts: dict) -> None:
    """Refuses to continue a run made with other images, features or precision, or on another schedule."""
    meta, folder = saved.meta, saved.path.parent
    step = meta["step"]
    train = type(schedule.train)({**schedule.train, **meta["config"]["TRAIN"]})
    before = Schedule(train, schedule.steps_per_epoch)
    for done in {0, max(0, step - 1)} if step else ():
        same = before.position(done) == schedule.position(done)
        if not same or before.learning_rate(done) != schedule.learning_rate(done):
            raise UserError(
                f"the run in {folder} was made with other numbers of epochs, which would have changed its "
                f"first {step} steps: use the same TRAIN.n_epoch_init, n_epoch_d and n_epoch, or --restart"
            )
    sentences = {
        "images": "was made from other images ({}, now {}): restore them, or start again with --restart",
        "vgg_features": "used VGG19 features {}, but now they are {}: use the same ones, or --restart",
        "precision": "computed in {0}, but now uses {1}: add --set RUNTIME.precision={0}, or --restart",
    }
    for name, sentence in sentences.items():
        if (was := meta["facts"].get(name)) != facts[name]:
            raise UserError(f"the run in {folder} {sentence.format(was, facts[name])}")
    if (was := meta["facts"].get("device")) != (now := facts["device"]):
        log.warning("WARNING: the run was made on %s and continues on %s, with different rounding", was, now)


def fingerprint(listing: dict) -> str:
    """Returns 'COUNT images, HASH', which does not depend on the folder's location."""
    text = json.dumps(sorted((name, *entry) for name, entry in listing.items()))
    hashed = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return f"{len(listing)} images, {hashed}"
