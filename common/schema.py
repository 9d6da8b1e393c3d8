"""What each setting of config.py may be, whatever its source: the file as edited, a recipe, JSON, `--set`."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from common.errors import UserError

Count = Annotated[int, Field(ge=0, le=2**53)]
Positive = Annotated[int, Field(ge=1, le=2**53)]
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]  # an average that never moves is none
Name = Annotated[str, Field(min_length=1)]


def _tuples(value: Any) -> Any:
    """JSON has lists."""
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


Filters = Annotated[int, Field(ge=1)]
FilterTuple = Annotated[tuple[Filters, ...], BeforeValidator(_tuples)]
Residual = Annotated[tuple[()] | tuple[Filters, Filters], BeforeValidator(_tuples)]
Convs = Annotated[tuple[tuple[Filters, Filters, Filters], ...], BeforeValidator(_tuples), Field(min_length=1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Train(Section):
    hr_img_path: Name
    max_bad_images: Fraction
    hr_patch_size: Annotated[int, Field(ge=16, le=2**13)]
    augment: bool
    exposures: Fraction
    degradation: Literal["bicubic", "photo"]
    seed: Count
    batch_size: Annotated[int, Field(ge=1, le=2**16)]  # more, and the graph is not built in a lifetime
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
    init_weights: str
    init_weights_d: str
    save_every: Positive
    save_minutes: Number
    keep_weights: Count


class Valid(Section):
    hr_img_path: Name
    lr_img_path: str
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
    weights: Name
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


def is_text(key: str) -> bool:
    """Whether a setting is text, which `--set` takes as it is written."""
    model: Any = Settings
    for name in key.split("."):
        field = getattr(model, "model_fields", {}).get(name)
        if field is None:
            return False
        model = field.annotation
    return model is str or any(isinstance(choice, str) for choice in get_args(model))


def validated(tree: dict) -> dict:
    """The settings with tuples for lists and floats for whole numbers; UserError in a sentence."""
    try:
        settings = Settings.model_validate(tree).model_dump()
    except ValidationError as error:
        raise UserError(_sentence(error.errors()[0])) from None
    px, scale = settings["TRAIN"]["hr_patch_size"], settings["MODEL"]["generator"]["scale"]
    if px % scale:
        raise UserError(f"TRAIN.hr_patch_size must be a multiple of the scale {scale}, not {px}")
    return settings


def _sentence(error: dict) -> str:
    loc = [str(part) for part in error["loc"]]
    names = [part for part in loc if not part.isdigit() and "[" not in part]
    key, context, value = ".".join(names), error.get("ctx", {}), error["input"]
    if key.endswith("convs") and error["type"] != "tuple_type":
        return f"{key} must be (kernel, stride, filters) triples of whole numbers above 0, not {value!r}"
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, all_keys(), n=1, cutoff=0.4)
        return f"unknown setting {key}" + (f": did you mean {near[0]}?" if near else "")
    if error["type"] == "missing":
        return f"the setting {key} is missing"
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
        "value_error": str(context.get("error", "")).removeprefix("must be "),
    }
    if error["type"] == "string_too_short":
        return f"{key} must not be empty"
    wanted = words.get(error["type"], "")
    if key.endswith("residual") and wanted != "a tuple":
        wanted = "two numbers of filters or ()"
    return f"{key} must be {wanted or error['msg']}, not {value!r}"


def all_keys(model: type[BaseModel] = Settings, prefix: str = "") -> list[str]:
    """'TRAIN.batch_size', ..."""
    keys = []
    for name, field in model.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        keys += all_keys(field.annotation, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]
    return keys
