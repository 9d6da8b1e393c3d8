"""SRGAN x4 super-resolution.

python main.py --mode=srgan                                 train, or continue a training
python main.py --mode=evaluate                              upscale the validation picture
python main.py --mode=evaluate --input PATH --output DIR    upscale your own pictures
python main.py --mode=benchmark --input FOLDER              PSNR and SSIM on a set of pictures
python main.py --mode=export --format onnx --output DIR     the generator for other programs
python main.py --mode=page                                  a page to drop pictures on
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":  # until main() takes over, Ctrl-C ends the program without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from common.errors import UserError
from common.settings import choose_recipe, flatten, make_config
from config import RECIPES

log = logging.getLogger("srgan")

OUTPUT_FORMATS = ("png", "jpg", "webp", "bmp", "tiff")
EXPORT_FORMATS = (
    *("savedmodel", "onnx", "tflite", "ncnn", "tensorlayer"),
    "all",  # savedmodel, onnx, tflite, ncnn
)
ENGINES = ("tensorflow", "ncnn")
MODES_OF = {
    "restart": ("srgan",),
    "host": ("page",),
    "port": ("page",),
    "weights": ("evaluate", "benchmark", "export", "page"),
    "blend": ("evaluate", "benchmark", "export"),
    "self_ensemble": ("evaluate", "benchmark"),
    "engine": ("evaluate", "benchmark", "page"),
    "input": ("evaluate", "benchmark"),
    "output": ("evaluate", "benchmark", "export"),
    "format": ("evaluate", "export"),
    "outscale": ("evaluate",),
    "overwrite": ("evaluate",),
    "shard": ("evaluate",),
    "compare": ("evaluate",),
}
TRAINING_HINT = (
    "; training pictures are named by --set TRAIN.hr_img_path=FOLDER, weights to start from by "
    "--set TRAIN.init_weights=NPZ"
)


def user_path(text: str) -> Path:
    """A path in which ~ is the home folder, also where the shell leaves it, as in --output=~/out."""
    return Path(text).expanduser()


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--mode", choices=("srgan", "evaluate", "benchmark", "export", "page"), default="srgan"
    )
    parser.add_argument(
        "--checkpoint-dir", type=user_path, metavar="DIR", help="a run's files; default: checkpoint"
    )
    parser.add_argument(
        "--samples-dir",
        type=user_path,
        metavar="DIR",
        default=Path("samples"),
        help="pictures of it; default: samples",
    )

    settings = parser.add_argument_group("settings (defaults are in config.py)")
    settings.add_argument("--recipe", help=f"{', '.join(RECIPES)}; default: the first")
    settings.add_argument("--config", metavar="FILE", help="JSON, such as checkpoint/config.json")
    settings.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="changes one of them, as in TRAIN.batch_size=4; may be repeated",
    )

    training = parser.add_argument_group("--mode=srgan")
    training.add_argument("--restart", action="store_true", help="begin anew, setting the old run aside")

    running = parser.add_argument_group("--mode=evaluate and --mode=benchmark")
    running.add_argument(
        "--weights", type=os.path.expanduser, metavar="NPZ", help="a file, or shipped: srgan, srresnet, photo"
    )
    running.add_argument("--blend", action="append", default=[], metavar="NPZ=SHARE")
    running.add_argument("--self-ensemble", action="store_true", help="mean of 8 turns and flips")
    running.add_argument(
        "--engine", choices=ENGINES, help="what computes; ncnn starts faster; default: tensorflow"
    )
    running.add_argument(
        "--input", nargs="+", type=os.path.expanduser, metavar="PATH", help="pictures or folders"
    )
    running.add_argument(
        "--output", type=user_path, metavar="DIR", help="where results go; for one image also a file"
    )

    own = parser.add_argument_group("--mode=evaluate --input")
    own.add_argument(
        "--format",
        metavar="FORMAT",
        help=f"of the results: {', '.join(OUTPUT_FORMATS)}; default: the input's; "
        f"with --mode=export: {', '.join(EXPORT_FORMATS)}",
    )
    own.add_argument("--outscale", type=float, metavar="S", help="final factor; default: 4")
    own.add_argument("--shard", metavar="I/N", help="do the I-th of N parts, for jobs on many machines")
    own.add_argument("--compare", action="store_true", help="also bicubic and result side by side")
    page = parser.add_argument_group("--mode=page")
    page.add_argument("--host", help="address to serve at; default: 127.0.0.1, this machine alone")
    page.add_argument(
        "--port", type=int, choices=range(2**16), metavar="PORT", help="default: 7860; 0: a free one"
    )

    own.add_argument("--overwrite", action="store_true", help="replace results that exist")
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> None:
    """Raises UserError for arguments that do not go together, before anything slow begins."""
    for option, modes in MODES_OF.items():
        if getattr(args, option) and args.mode not in modes:
            raise UserError(
                f"--{option.replace('_', '-')} belongs to --mode={' and --mode='.join(modes)}"
                + (TRAINING_HINT if args.mode == "srgan" else "")
            )
    formats = EXPORT_FORMATS if args.mode == "export" else OUTPUT_FORMATS
    if args.format and args.format not in formats:
        raise UserError(f"--format {args.format} is none of {', '.join(formats)}")
    if args.mode == "export" and not (args.format and args.output):
        raise UserError("--mode=export needs --format FORMAT and --output DIR")
    if args.mode == "evaluate" and not args.input:
        for option in ("format", "outscale", "overwrite", "shard", "compare"):
            if getattr(args, option) is not None and getattr(args, option) is not False:
                raise UserError(f"--{option} needs --input and --output")
    if args.mode == "benchmark" and not args.input:
        raise UserError("--mode=benchmark needs --input FOLDER with HR pictures")
    if args.mode == "evaluate" and bool(args.input) != bool(args.output):
        raise UserError("--input and --output go together: --input PATH... --output DIR")
    args.engine = args.engine or "tensorflow"
    if args.outscale is None:
        args.outscale = 4.0
    if not 0 < args.outscale <= 16:
        raise UserError(f"--outscale must be above 0 and at most 16, not {args.outscale:g}")
    args.shard = _parse_shard(args.shard) if args.shard else (1, 1)
    args.blend = [_parse_blend(text) for text in args.blend]
    if not 0 <= sum(share for _, share in args.blend) <= 1:
        raise UserError("the shares of --blend must add up to at most 1")


def _parse_shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts):
        return int(part), int(parts)
    raise UserError(f"--shard {text}: write I/N with I from 1 to N, as in 3/8")


def _parse_blend(text: str) -> tuple[str, float]:
    path, _, share = text.rpartition("=")
    try:
        if path and 0 <= float(share) <= 1:
            return path, float(share)
    except ValueError:
        pass
    raise UserError(f"--blend {text}: write NPZ=SHARE with a share from 0 to 1, as in b.npz=0.3")


@contextlib.contextmanager
def tensorflow_start():
    """Sets TensorFlow's environment and keeps its and TensorLayer's start-up messages from the user.

    They are written by C++ code to the process's error stream, before any logger can filter them;
    they appear if importing fails.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # real errors arrive as exceptions
    # TensorFlow itself turns oneDNN on for AVX-512 only, though it halves a step on AVX2 too
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as messages:
        os.dup2(messages.fileno(), 2)
        try:
            yield
        except BaseException:
            messages.seek(0)
            os.write(kept, messages.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def start_tensorflow(settings) -> None:
    """Imports TensorFlow and what prints messages with it; `settings` is config.RUNTIME."""
    log.info("Starting TensorFlow")
    with tensorflow_start():
        import tensorflow as tf

        tf.config.list_physical_devices()  # its complaints about missing GPU drivers come here
        tf.get_logger().setLevel("ERROR")
        from tf1 import layers, runtime  # noqa: F401
    runtime.configure(settings)


def run(args: argparse.Namespace, recipe: str, config) -> int:
    """Does what `args.mode` says; returns the exit code."""
    if args.engine == "tensorflow":
        start_tensorflow(config.RUNTIME)
    from tf1 import checkpoints
    from upscaling.evaluate import chosen_generator, evaluate, find_weights

    if args.mode == "srgan":
        from training.train import train

        folder = args.checkpoint_dir or checkpoints.DEFAULT_DIR
        train(config, folder, args.samples_dir, recipe=recipe, restart=args.restart)
        return 0
    if args.mode == "page":
        from upscaling.page import serve

        found = find_weights(args.weights, args.checkpoint_dir)
        own = found if args.weights or found != checkpoints.locate("srgan") else None
        port = 7860 if args.port is None else args.port
        return serve(config.RUNTIME, own, args.host or "127.0.0.1", port, args.engine)
    if args.mode == "export":
        from upscaling.export import export

        _, arrays, meta = chosen_generator(args)
        export(arrays, meta, config.RUNTIME, args.output, args.format)
        return 0
    return evaluate(args, config)


def _say_settings(mode: str, recipe: str, config) -> None:
    """Those that differ from config.py, of what the mode uses."""
    if mode == "srgan":
        log.info("Recipe %s", recipe)
    defaults = dict(flatten(make_config()))
    for key, value in flatten(config):
        if value != defaults[key] and (mode == "srgan" or key.startswith(("VALID.", "RUNTIME."))):
            log.info("  %s = %r", key, value)


def open_missing_streams() -> None:
    """Gives a process that was started without stdout or stderr some that lead nowhere.

    Without them the next file that is opened would take their number, and messages would go into it.
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
    for stream in (sys.stdout, sys.stderr):  # file names may hold what a terminal cannot show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    args = parse_arguments(argv)
    logging.basicConfig(format="%(message)s", stream=sys.stdout, level=logging.WARNING)
    log.setLevel(logging.INFO)
    try:
        check(args)
        recipe = choose_recipe(args.recipe, args.config)
        config = make_config(args.recipe, args.config, args.settings)
        _say_settings(args.mode, recipe, config)
        return run(args, recipe, config)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
