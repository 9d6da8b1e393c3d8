"""Which run may be continued from its state."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import tensorflow as tf
from easydict import EasyDict as edict

from common.errors import UserError
from common.settings import flatten
from tf1 import checkpoints
from training.schedule import Schedule

STATE_FILE = "srgan_state.npz"
SAVER_DIR = "saver"
# The settings that may change between a run and its continuation: they do not touch the numbers.
FREE_SETTINGS = ("RUNTIME.", "VALID.", "TRAIN.save_", "VGG.weights")
# And those that may, as far as the steps that are done would have been the same.
SCHEDULE_SETTINGS = ("TRAIN.n_epoch", "TRAIN.lr_", "TRAIN.decay_every", "TRAIN.warmup_steps")


def saved_run(checkpoint_dir: Path) -> tuple[Path, dict] | None:
    """(file, meta) of the run to be continued in a folder: its state, else its last Saver checkpoint."""
    state = checkpoint_dir / STATE_FILE
    if state.exists():
        return state, checkpoints.read_meta(state)
    latest = tf.train.latest_checkpoint(str(checkpoint_dir / SAVER_DIR))
    if latest is None:
        return None
    try:
        return Path(latest), json.loads(Path(f"{latest}.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{latest}.json, which describes the checkpoint, cannot be read: {error}") from None


def forget_run(checkpoint_dir: Path) -> None:
    """Removes what `saved_run` would find, or a stop before the first save would revive it."""
    (checkpoint_dir / STATE_FILE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint_dir / SAVER_DIR, ignore_errors=True)


def check_continuation(path: Path, meta: dict, config, steps_per_pass: int, vgg_features: str) -> None:
    """Refuses to continue a run made with other settings or features, before anything slow begins."""
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
            f"the run in {path.parent} was made with other settings ({listed}): use the same ones, "
            "--restart to begin anew and overwrite it, or another --checkpoint-dir"
        )
    if meta["vgg_features"] != vgg_features:
        raise UserError(
            f"the run in {path.parent} used {meta['vgg_features']} VGG19 features, this one would use "
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
