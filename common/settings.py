"""How settings come together: the defaults of config.py, a recipe, a JSON file, KEY=VALUE settings."""

from __future__ import annotations

import ast
import copy
import difflib
import json
from pathlib import Path

from easydict import EasyDict as edict

from common.errors import UserError
from common.files import atomic
from config import RECIPES, config

CHOICES = {
    "TRAIN.lr_schedule": ("step", "cosine"),
    "MODEL.generator.activation": ("relu", "prelu"),
    "MODEL.generator.output_activation": ("tanh", "linear"),
    "TRAIN.init": ("normal", "fan_in"),
    "VGG.on_missing": ("stop", "random"),
    "RUNTIME.precision": ("auto", "float32", "bfloat16"),
}
AT_LEAST_ONE = (
    "TRAIN.batch_size",
    "TRAIN.save_every",
    "MODEL.generator.num_blocks",
    "MODEL.generator.num_filters",
    "MODEL.generator.first_kernel",
    "MODEL.generator.last_kernel",
)
AT_MOST_ONE = ("VGG.share", "TRAIN.exposures", "TRAIN.ema_decay", "TRAIN.beta1")


def make_config(recipe: str = "tensorlayer", file: str | None = None, settings=()) -> edict:
    """A copy of `config` with a recipe, a JSON file as `log_config` writes it, and KEY=VALUE settings.

    Raises UserError for an unknown key or recipe, a wrong type or a bad value.
    """
    if recipe not in RECIPES:
        raise UserError(f"unknown recipe {recipe!r}: choose from {', '.join(RECIPES)}")
    cfg = copy.deepcopy(config)
    for key, value in RECIPES[recipe].items():
        set_value(cfg, key, value)
    if file is not None:
        try:
            tree = json.loads(Path(file).read_text())
            settings_of_file = dict(flatten(tree))
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"--config {file} cannot be read as JSON settings: {error}") from None
        for key, value in settings_of_file.items():
            set_value(cfg, key, value)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: write KEY=VALUE, as in TRAIN.batch_size=4")
        set_value(cfg, key.strip(), _parse(text.strip()))
    if cfg.TRAIN.hr_patch_size % 4 or cfg.TRAIN.hr_patch_size < 16:
        raise UserError("TRAIN.hr_patch_size must be a multiple of 4 and at least 16")
    if cfg.VGG.share == 0:
        raise UserError("VGG.share must be above 0; LOSS.vgg=0 leaves the features out")
    return cfg


def set_value(cfg: edict, key: str, value) -> None:
    """Sets `cfg.SECTION.name` for the dotted `key`, whose type must be the default's."""
    known = dict(flatten(cfg))
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.4)
        hint = f": did you mean {near[0]}?" if near else ""
        raise UserError(f"unknown setting {key}{hint}")
    value = _checked(key, value, known[key])
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


def log_config(filename: str | Path, cfg: dict) -> None:
    """Writes all settings as JSON, in the form that `--config` reads."""
    with atomic(filename) as path:
        path.write_text(json.dumps(cfg, indent=2) + "\n")


def _parse(text: str):
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
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
    if isinstance(default, str):
        value = str(value)
    elif isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        kind = type(default).__name__
        raise UserError(f"{key} must be {kind}, like {default!r}, not {value!r}")
    if key in CHOICES and value not in CHOICES[key]:
        raise UserError(f"{key} must be one of {', '.join(CHOICES[key])}, not {value!r}")
    least = 1 if key in AT_LEAST_ONE else 0
    if isinstance(value, (int, float)) and not value >= least:  # NaN is not
        raise UserError(f"{key} must be at least {least}, not {value!r}")
    if key in AT_MOST_ONE and value > 1:
        raise UserError(f"{key} must be at most 1, not {value!r}")
    return value
