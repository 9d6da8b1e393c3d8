"""Loads and checks the settings: config.py, then a recipe, a JSON file and KEY=VALUE options."""

from __future__ import annotations

import ast
import copy
import difflib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from easydict import EasyDict as edict
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from common.errors import UserError
from common.files import atomic
from config import RECIPES, config

MAX_FILE_BYTES = 2**20  # JSON settings file

Count = Annotated[int, Field(ge=0, le=2**53)]
Positive = Annotated[int, Field(ge=1, le=2**53)]
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]  # at 1 a moving average would never move
Name = Annotated[str, Field(min_length=1)]
UserPath = Annotated[Name, AfterValidator(os.path.expanduser)]
OptionalPath = Annotated[str, AfterValidator(os.path.expanduser)]  # "" means none


def _tuples(value: Any) -> Any:
    """Converts JSON's lists to tuples, recursively."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


Filters = Annotated[int, Field(ge=1)]
FilterTuple = Annotated[tuple[Filters, ...], BeforeValidator(_tuples)]
Residual = Annotated[tuple[()] | tuple[Filters, Filters], BeforeValidator(_tuples)]
Convs = Annotated[tuple[tuple[Filters, Filters, Filters], ...], BeforeValidator(_tuples), Field(min_length=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Train(Section):
    hr_img_path: UserPath
    max_bad_images: Fraction
    hr_patch_size: Annotated[int, Field(ge=16, le=2**13)]
    augment: bool
    exposures: Fraction
    degradation: Literal["bicubic", "photo"]
    seed: Count
    batch_size: Annotated[int, Field(ge=1, le=2**16)]  # building the graph takes too long beyond that
    steps_per_epoch: Count
    beta1: BelowOne
    lr_init: Number
    lr_schedule: Literal["step", "cosine"]
    warmup_steps: Count
    n_epoch_init: Count
    n_epoch_d: Count
    n_epoch: Count
    lr_decay: Number
    decay_every: Count
    ema_decay: BelowOne
    init: Literal["normal", "fan_in"]
    init_weights: OptionalPath
    init_weights_d: OptionalPath
    save_every: Positive
    save_minutes: Number
    keep_weights: Count


class Valid(Section):
    hr_img_path: UserPath
    lr_img_path: OptionalPath
    imid: Count


class Generator(Section):
    scale: Literal[2, 3, 4, 8]
    num_blocks: Annotated[int, Field(ge=1, le=256)]
    num_filters: Annotated[int, Field(ge=1, le=2**12)]
    first_kernel: Annotated[int, Field(ge=1, le=99)]
    last_kernel: Annotated[int, Field(ge=1, le=99)]
    activation: Literal["relu", "prelu"]
    output_activation: Literal["tanh", "linear"]


class Discriminator(Section):
    convs: Convs
    residual: Residual
    dense: FilterTuple
    patch_gan: bool


class Model(Section):
    generator: Generator
    discriminator: Discriminator


class Loss(Section):
    mse: Number
    vgg: Number
    means: Number
    excess: Number
    adversarial: Number


class Vgg(Section):
    weights: UserPath
    on_missing: Literal["stop", "random"]
    layer: Name
    before_relu: bool
    every: Positive
    input_size: Annotated[int, Field(ge=0, le=2**13)]


class Runtime(Section):
    precision: Literal["auto", "float32", "bfloat16"]
    devices: Annotated[int, Field(ge=0, le=64)]
    intra_op_threads: Annotated[int, Field(ge=0, le=1024)]
    xla: bool
    deterministic: bool
    memory_mb: Count


class Settings(Section):
    TRAIN: Train
    VALID: Valid
    MODEL: Model
    LOSS: Loss
    VGG: Vgg
    RUNTIME: Runtime


def make_config(recipe: str | None = None, file: str | None = None, settings=()) -> edict:
    """Returns only the settings from `load_settings`."""
    return load_settings(recipe, file, settings)[1]


def load_settings(recipe: str | None = None, file: str | None = None, settings=()) -> tuple[str, edict]:
    """Returns the recipe's name and a copy of `config` changed by the recipe, then `file`, then `settings`.

    file: JSON as written by `log_config`; settings: KEY=VALUE strings. The recipe defaults to the one that
    the file names. Raises UserError for an unknown key or recipe and for a value that `Settings` rejects.
    """
    of_file, settings_of_file = _read(file)
    if recipe and of_file and recipe != of_file:
        raise UserError(f"--config {file} was written with recipe {of_file}: leave out --recipe {recipe}")
    recipe = recipe or of_file or "tensorlayer"
    if recipe not in RECIPES:
        raise UserError(f"unknown recipe {recipe!r}: choose from {', '.join(RECIPES)}")
    tree = copy.deepcopy(dict(config))
    for values in (RECIPES[recipe], settings_of_file):
        for key, value in values.items():
            _set(tree, key, value)
    for setting in settings:
        key, equals, text = (part.strip() for part in setting.partition("="))
        if not equals:
            raise UserError(f"--set {setting}: write KEY=VALUE, as in TRAIN.batch_size=4")
        _set(tree, key, text if _is_text(key) else _parsed(text))
    try:
        tree = Settings.model_validate(tree).model_dump()
    except ValidationError as error:
        raise UserError(_sentence(error.errors()[0])) from None
    px, scale = tree["TRAIN"]["hr_patch_size"], tree["MODEL"]["generator"]["scale"]
    if px % scale:
        raise UserError(f"TRAIN.hr_patch_size must be a multiple of the scale {scale}, not {px}")
    return recipe, edict(tree)


def _read(file: str | None) -> tuple[str | None, dict]:
    """Returns the recipe named in a JSON file, or None, and {dotted key: value}."""
    if file is None:
        return None, {}
    try:
        with open(file, "rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ValueError("it is larger than a megabyte")
        tree = json.loads(data)
        recipe = tree.pop("recipe", None)
        if not isinstance(recipe, str | None):
            raise ValueError(f"its recipe is {recipe!r}")
        return recipe, dict(flatten(tree))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"--config {file} cannot be read as JSON settings: {error}") from None


def _set(tree: dict, key: str, value) -> None:
    """Sets the dotted `key` without checking that it exists."""
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(tree.get(section), dict):
            tree[section] = {}
        tree = tree[section]
    tree[name] = value


def _is_text(key: str) -> bool:
    """Whether a setting is a string, so that `--set` must not parse its value."""
    model: Any = Settings
    for name in key.split("."):
        field = getattr(model, "model_fields", {}).get(name)
        if field is None:
            return False
        model = field.annotation
    return model is str or any(isinstance(choice, str) for choice in get_args(model))


def _parsed(text: str):
    """Parses a number, a tuple, True or False; returns any other text unchanged."""
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


def _sentence(error: dict) -> str:
    """Turns a pydantic error into one sentence that names the setting."""
    loc = [str(part) for part in error["loc"]]
    key = ".".join(part for part in loc if not part.isdigit() and "[" not in part)
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(
            key, [name for name, _ in flatten(config) if name != key], n=1, cutoff=0.4
        )
        return f"unknown setting {key}" + (f": did you mean {near[0]}?" if near else "")
    if kind == "missing" and len(loc) == 2:
        return f"the setting {key} is missing"
    if kind == "string_too_short":
        return f"{key} must not be empty"
    words = {
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "bool_type": "True or False",
        "string_type": "text",
        "tuple_type": "a tuple",
        "model_type": "a section of settings",
        "literal_error": f"one of {context.get('expected', '')}".replace("'", "").replace(" or ", ", "),
        "greater_than_equal": f"at least {context.get('ge', 0):g}",
        "less_than_equal": f"at most {context.get('le', 0):.16g}",
        "less_than": f"below {context.get('lt', 0):g}",
        "finite_number": "finite",
    }
    wanted = words.get(kind, error["msg"])
    if len(loc) > len(key.split(".")) or kind not in words:  # an element of a tuple
        shapes = {"convs": "(kernel, stride, filters) triples", "residual": "two filter counts or ()"}
        wanted = shapes.get(key.rpartition(".")[2], wanted)
    return f"{key} must be {wanted}, not {value!r}"


def log_config(filename: str | Path, cfg: dict, recipe: str) -> None:
    """Writes the recipe's name and all settings as JSON, which `--config` can read."""
    with atomic(filename) as path:
        path.write_text(json.dumps({"recipe": recipe, **cfg}, indent=2) + "\n")
