"""How settings come together: config.py as it stands, a recipe, a JSON file, KEY=VALUE settings."""

from __future__ import annotations

import ast
import copy
import json
import os
from pathlib import Path

from easydict import EasyDict as edict

from common.errors import UserError
from common.files import atomic
from config import RECIPES, config

PATHS = ("hr_img_path", "lr_img_path", "init_weights", "init_weights_d", "VGG.weights")  # ends of keys
MAX_FILE_BYTES = 2**20  # of a JSON file of settings


def make_config(recipe: str | None = None, file: str | None = None, settings=()) -> edict:
    """A copy of `config` with a recipe, a JSON file as `log_config` writes it, and KEY=VALUE settings.

    Raises UserError for an unknown key or recipe, or a value that common/schema.py does not allow, whatever
    its source.
    """
    from common import schema  # takes longer than --help may

    tree = copy.deepcopy(dict(config))
    of_file, settings_of_file = _read(file)
    for values in (RECIPES[_agreed(recipe, of_file, file)], settings_of_file):
        for key, value in values.items():
            _set(tree, key, value)
    for setting in settings:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if not equals:
            raise UserError(f"--set {setting}: write KEY=VALUE, as in TRAIN.batch_size=4")
        _set(tree, key, text if schema.is_text(key) else _parsed(text))
    tree = schema.validated(tree)
    for key, value in list(flatten(tree)):
        if key.endswith(PATHS):
            _set(tree, key, os.path.expanduser(value))
    return edict(tree)


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
            data = opened.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
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


def _set(tree: dict, key: str, value) -> None:
    """Sets the dotted `key`, known or not."""
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(tree.get(section), dict):
            tree[section] = {}
        tree = tree[section]
    tree[name] = value


def _parsed(text: str):
    """A number, a tuple, True or False as written on the command line; the text if it is none of them."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


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
