"""How settings come together: the defaults of config.py, a recipe, a JSON file, KEY=VALUE settings."""

from __future__ import annotations

import ast
import copy
import difflib
import json
import math
import os
from pathlib import Path

from easydict import EasyDict as edict

from common.errors import UserError
from common.files import atomic
from config import RECIPES, config

CHOICES = {
    "TRAIN.lr_schedule": ("step", "cosine"),
    "MODEL.generator.activation": ("relu", "prelu"),
    "MODEL.generator.output_activation": ("tanh", "linear"),
    "TRAIN.degradation": ("bicubic", "photo"),
    "TRAIN.init": ("normal", "fan_in"),
    "VGG.on_missing": ("stop", "random"),
    "RUNTIME.precision": ("auto", "float32", "bfloat16"),
}
AT_LEAST_ONE = (
    "TRAIN.batch_size",
    "TRAIN.save_every",
    "VGG.every",
    "MODEL.generator.num_blocks",
    "MODEL.generator.num_filters",
    "MODEL.generator.first_kernel",
    "MODEL.generator.last_kernel",
)
AT_MOST_ONE = ("TRAIN.exposures", "TRAIN.max_bad_images")
BELOW_ONE = ("TRAIN.ema_decay", "TRAIN.beta1")  # a moving average that never moves is none
# No machine has more, or the graph would not be built in a lifetime.
AT_MOST = {
    "TRAIN.batch_size": 2**16,
    "TRAIN.hr_patch_size": 2**13,
    "VGG.input_size": 2**13,
    "MODEL.generator.num_blocks": 256,
    "MODEL.generator.num_filters": 2**12,
    "MODEL.generator.first_kernel": 99,
    "MODEL.generator.last_kernel": 99,
    "RUNTIME.intra_op_threads": 1024,
    "RUNTIME.devices": 64,
}
PATHS = ("hr_img_path", "lr_img_path", "init_weights", "init_weights_d", "VGG.weights")  # ends of keys
NOT_EMPTY = ("TRAIN.hr_img_path", "VALID.hr_img_path", "VGG.weights")
MOST_FILE_BYTES = 2**20  # of a JSON file of settings


def make_config(recipe: str | None = None, file: str | None = None, settings=()) -> edict:
    """A copy of `config` with a recipe, a JSON file as `log_config` writes it, and KEY=VALUE settings.

    Raises UserError for an unknown key or recipe, a wrong type or a bad value.
    """
    cfg = copy.deepcopy(config)
    of_file, settings_of_file = _read(file)
    for values in (RECIPES[_agreed(recipe, of_file, file)], settings_of_file):
        for key, value in values.items():
            set_value(cfg, key, value)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: write KEY=VALUE, as in TRAIN.batch_size=4")
        set_value(cfg, key.strip(), text.strip(), parse=True)
    for key, value in flatten(cfg):
        if key.endswith(PATHS):
            set_value(cfg, key, os.path.expanduser(value))
    if cfg.TRAIN.hr_patch_size % 4 or cfg.TRAIN.hr_patch_size < 16:
        raise UserError("TRAIN.hr_patch_size must be a multiple of 4 and at least 16")
    return cfg


def choose_recipe(recipe: str | None, file: str | None) -> str:
    """The recipe's name: the one asked for, else that of the run whose settings the file holds."""
    return _agreed(recipe, _read(file)[0], file)


def _agreed(recipe: str | None, of_file: str | None, file: str | None) -> str:
    if recipe and of_file and recipe != of_file:
        raise UserError(f"--config {file} is of a run by recipe {of_file}: leave out --recipe {recipe}")
    chosen = recipe or of_file or "tensorlayer"
    if chosen not in RECIPES:
        raise UserError(f"unknown recipe {chosen!r}: choose from {', '.join(RECIPES)}")
    return chosen


def _read(file: str | None) -> tuple[str | None, dict]:
    """(recipe if it names one, {dotted key: value}) of a JSON file."""
    if file is None:
        return None, {}
    try:
        with open(file, "rb") as opened:
            data = opened.read(MOST_FILE_BYTES + 1)
        if len(data) > MOST_FILE_BYTES:
            raise ValueError("it is larger than a megabyte")
        tree = json.loads(data)
        if not isinstance(tree, dict):
            raise ValueError("it holds no table")
        recipe = tree.pop("recipe", None)
        if not isinstance(recipe, str | None):
            raise ValueError(f"its recipe is {recipe!r}")
        return recipe, dict(flatten(tree))
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"--config {file} cannot be read as JSON settings: {error}") from None


def set_value(cfg: edict, key: str, value, parse: bool = False) -> None:
    """Sets `cfg.SECTION.name` for the dotted `key`, whose type must be the default's.

    parse: the value is text, as written on the command line.
    """
    known = dict(flatten(cfg))
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
        hint = f": did you mean {near[0]}?" if near else ""
        raise UserError(f"unknown setting {key}{hint}")
    value = _checked(key, _parse(value, known[key]) if parse else value, known[key])
    *sections, name = key.split(".")
    for section in sections:
        cfg = cfg[section]
    cfg[name] = value


def flatten(tree: dict, prefix: str = ""):
    """Yields ('TRAIN.batch_size', 16), ... for a tree of settings."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def log_config(filename: str | Path, cfg: dict, recipe: str) -> None:
    """Writes the recipe's name and all settings as JSON, in the form that `--config` reads."""
    with atomic(filename) as path:
        path.write_text(json.dumps({"recipe": recipe, **cfg}, indent=2) + "\n")


def _parse(text: str, default):
    """What the text stands for where the default is of that type; the text where it is nothing of it."""
    if isinstance(default, str):
        return text
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _checked(key: str, value, default):
    if isinstance(default, (tuple, list)):
        if not isinstance(value, (tuple, list)):
            raise UserError(f"{key} must be a tuple like {default}, not {value!r}")
        value = tuple(tuple(item) if isinstance(item, list) else item for item in value)
        sizes = [number for item in value for number in (item if isinstance(item, tuple) else (item,))]
        triples = [isinstance(item, tuple) and len(item) == 3 for item in value]
        if key.endswith("convs") and not (triples and all(triples)):
            raise UserError(f"{key} must be (kernel, stride, filters) triples, not {value}")
        if key.endswith("residual") and len(value) not in (0, 2):
            raise UserError(f"{key} must be two numbers of filters or (), not {value}")
        if not all(type(number) is int and number > 0 for number in sizes):
            raise UserError(f"{key} must hold whole numbers above 0, not {value}")
        return value
    if isinstance(default, float) and type(value) is int and abs(value) < 2**53:
        value = float(value)
    if type(value) is not type(default):
        kind = type(default).__name__
        raise UserError(f"{key} must be {kind}, like {default!r}, not {value!r}")
    if key in CHOICES and value not in CHOICES[key]:
        raise UserError(f"{key} must be one of {', '.join(CHOICES[key])}, not {value!r}")
    if isinstance(value, str):
        if not value and key in NOT_EMPTY:
            raise UserError(f"{key} must not be empty")
        return value
    least = 1 if key in AT_LEAST_ONE else 0
    most = 1 if key in AT_MOST_ONE else AT_MOST.get(key, 2**53 if type(value) is int else math.inf)
    if not math.isfinite(value):
        raise UserError(f"{key} must be finite, not {value!r}")
    if value < least:
        raise UserError(f"{key} must be at least {least}, not {value!r}")
    if value > most:
        raise UserError(f"{key} must be at most {most}, not {value!r}")
    if key in BELOW_ONE and value >= 1:
        raise UserError(f"{key} must be below 1, not {value!r}")
    return value
