"""SRGAN super-resolution.

python main.py --mode=srgan                                 train, or resume training
python main.py --mode=evaluate                              upscale the validation image
python main.py --mode=evaluate --input PATH --output DIR    upscale your own images
python main.py --mode=benchmark --input FOLDER              measure PSNR and SSIM on a set of images
python main.py --mode=export --format onnx --output DIR     export the generator for other programs
python main.py --mode=page                                  serve a web page that upscales images
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":  # until main() runs, Ctrl-C must not print a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from common.errors import UserError
from config import RECIPES

log = logging.getLogger("srgan")

OUTPUT_FORMATS = ("png", "jpg", "webp", "bmp", "tiff")
EXPORT_FORMATS = ("savedmodel", "onnx", "tflite", "ncnn", "tensorlayer", "all")  # 'all' excludes tensorlayer
ENGINES = ("tensorflow", "ncnn", "ncnn-vulkan")
USED_SETTINGS = {  # sections of config.py that each mode uses
    "srgan": ("TRAIN", "VALID", "MODEL", "LOSS", "VGG", "RUNTIME"),
    "evaluate": ("VALID", "RUNTIME"),
    "benchmark": ("RUNTIME",),
    "export": ("RUNTIME",),
    "page": ("RUNTIME",),
}


class Parser(argparse.ArgumentParser):
    """Raises UserError, so that every mistake gives a one-sentence message."""

    def error(self, message: str):
        raise UserError(f"{message}; see --help" if "unrecognized" in message else message)


def user_path(text: str) -> Path:
    """Expands ~, which the shell leaves unchanged in --output=~/out."""
    return Path(text).expanduser()


def output_factor(text: str) -> float:
    if not 0 < float(text) <= 16:
        raise argparse.ArgumentTypeError(f"it must be above 0 and at most 16, not {text}")
    return float(text)


def shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"write I/N with I from 1 to N, as in 3/8, not {text}")
    return int(part), int(parts)


def port(text: str) -> int:
    if not (text.isdecimal() and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"it must be from 0 to 65535, not {text}")
    return int(text)


def blended(text: str) -> tuple[str, float]:
    path, _, share = text.rpartition("=")
    try:
        if path and 0 <= float(share) <= 1:
            return path, float(share)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"write NPZ=SHARE with a share from 0 to 1, as in b.npz=0.3, not {text}")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the options of the mode; raises UserError for other options and invalid combinations."""
    modes = Parser(add_help=False, allow_abbrev=False)
    modes.add_argument("--mode", choices=tuple(USED_SETTINGS), default="srgan")
    mode = modes.parse_known_args(argv)[0].mode
    parser = Parser(
        description=__doc__,
        parents=[modes],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"These are the options of --mode={mode}. To train on your own images, set TRAIN.hr_img_path.",
        allow_abbrev=False,
    )
    parser.set_defaults(engine="tensorflow")
    add = parser.add_argument
    folder = {"type": user_path, "metavar": "DIR"}
    repeated = {"action": "append", "default": []}
    add("--checkpoint-dir", **folder, help="folder of a training run; default: checkpoint")
    if mode in ("srgan", "evaluate", "benchmark"):
        samples_help = "folder for sample images; default: samples"
        add("--samples-dir", **folder, default=Path("samples"), help=samples_help)
    add("--recipe", help=f"preset: {', '.join(RECIPES)}; default: the first")
    add("--config", metavar="FILE", help="JSON settings, such as checkpoint/config.json")
    set_help = "change a setting of config.py, as in TRAIN.batch_size=4; repeatable"
    add("--set", **repeated, dest="settings", metavar="KEY=VALUE", help=set_help)
    if mode == "srgan":
        add("--restart", action="store_true", help="start a new run and archive the old one")
        return parser.parse_args(argv)
    weights_help = "a weights file, or shipped weights: srgan, srresnet, photo ..."
    add("--weights", type=os.path.expanduser, metavar="NPZ", help=weights_help)
    if mode != "export":
        add("--engine", choices=ENGINES, help="inference engine; ncnn starts faster")
    if mode == "page":
        add("--host", default="127.0.0.1", help="address to listen on; default: this machine only")
        add("--port", type=port, metavar="PORT", default=7860, help="default: %(default)s; 0: any free port")
        return parser.parse_args(argv)
    add("--blend", **repeated, type=blended, metavar="NPZ=SHARE", help="blend in other weights; repeatable")
    if mode == "export":
        add("--format", choices=EXPORT_FORMATS, required=True)
        add("--output", **folder, required=True)
    else:
        paths = {"nargs": "+", "type": os.path.expanduser, "metavar": "PATH"}
        add("--input", **paths, required=mode == "benchmark", help="images or folders")
        add("--output", **folder, help="folder for results; for a single image also a file name")
        add("--self-ensemble", action="store_true", help="average over 8 rotations and flips")
    if mode == "evaluate":
        add("--format", choices=OUTPUT_FORMATS, help="format of the results; default: the input's")
        add("--outscale", type=output_factor, metavar="S", help="final scale; default: the network's")
        add("--shard", type=shard, metavar="I/N", help="process part I of N, for use on several machines")
        add("--compare", action="store_true", help="also write bicubic and the result side by side")
        add("--overwrite", action="store_true", help="overwrite existing results")
    args = parser.parse_args(argv)
    if sum(share for _, share in args.blend) > 1:
        raise UserError("the shares of --blend must add up to at most 1")
    if mode == "evaluate" and bool(args.input) != bool(args.output):
        raise UserError("--input and --output need each other: --input PATH... --output DIR")
    if mode == "evaluate" and not args.input:
        for option in ("format", "outscale", "shard", "compare", "overwrite"):
            if getattr(args, option):
                raise UserError(f"--{option} needs --input and --output")
    return args


def catch_ctrl_c() -> None:
    """Makes Ctrl-C raise KeyboardInterrupt; called after imports, in whose callbacks it could get lost."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def run(args: argparse.Namespace, recipe: str, config) -> int:
    """Runs `args.mode` and returns the exit code."""
    from tf1 import checkpoints
    from tf1.start import start_tensorflow

    if args.mode == "srgan":
        start_tensorflow()
        from training.train import train

        catch_ctrl_c()
        folder = args.checkpoint_dir or checkpoints.DEFAULT_DIR
        train(config, folder, args.samples_dir, recipe=recipe, restart=args.restart)
        return 0
    from upscaling.evaluate import chosen_generator, evaluate, find_weights

    catch_ctrl_c()
    if args.mode == "page":
        from upscaling.page import serve

        found = find_weights(args.weights, args.checkpoint_dir)
        own = found if args.weights or found != checkpoints.locate("srgan") else None
        return serve(config.RUNTIME, own, args.host, args.port, args.engine)
    if args.mode == "export":
        _, arrays, meta = chosen_generator(args)
        start_tensorflow()
        from upscaling.export import export

        export(arrays, meta, config.RUNTIME, args.output, args.format)
        return 0
    return evaluate(args, config)


def settings_of(args: argparse.Namespace):
    """Returns (recipe, config); logs the settings that the mode uses and that differ from config.py."""
    from common.settings import flatten, load_settings, make_config  # too slow to import for --help

    recipe, config = load_settings(args.recipe, args.config, args.settings)
    used = USED_SETTINGS[args.mode]
    for setting in args.settings:
        if setting.split(".")[0] not in used:
            raise UserError(f"--set {setting}: --mode={args.mode} uses only {' and '.join(used)} settings")
    if args.mode == "srgan":
        log.info("Recipe %s", recipe)
    defaults = dict(flatten(make_config()))
    for key, value in flatten(config):
        if value != defaults[key] and key.startswith(used):
            log.info("  %s = %r", key, value)
    return recipe, config


def open_missing_streams() -> None:
    """Opens missing standard streams as /dev/null.

    Otherwise the next file to be opened would take the number of stdout or stderr and receive messages.
    """
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def main(argv: list[str] | None = None) -> int:
    open_missing_streams()
    for stream in (sys.stdout, sys.stderr):  # a terminal may be unable to show a file name
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(format="%(message)s", stream=sys.stdout, level=logging.WARNING)
    log.setLevel(logging.INFO)
    try:
        args = parse_arguments(argv)
        return run(args, *settings_of(args))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
