"""SRGAN x4 super-resolution.

python main.py --mode=srgan                                 train, or continue a training
python main.py --mode=evaluate                              upscale the validation picture
python main.py --mode=evaluate --input PATH --output DIR    upscale your own pictures
python main.py --mode=benchmark --input FOLDER              PSNR and SSIM on a set of pictures
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

from common.errors import UserError
from common.settings import flatten, make_config
from config import RECIPES

log = logging.getLogger("srgan")

OUTPUT_FORMATS = ("png", "jpg", "webp", "bmp", "tiff")


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--mode", choices=("srgan", "evaluate", "benchmark"), default="srgan")
    parser.add_argument("--checkpoint-dir", type=Path, default=Path("checkpoint"), metavar="DIR")
    parser.add_argument("--samples-dir", type=Path, default=Path("samples"), metavar="DIR")

    settings = parser.add_argument_group("settings (defaults are in config.py)")
    settings.add_argument("--recipe", default="tensorlayer", help=", ".join(RECIPES))
    settings.add_argument("--config", metavar="FILE", help="JSON, such as checkpoint/config.json")
    settings.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")

    training = parser.add_argument_group("--mode=srgan")
    training.add_argument("--restart", action="store_true", help="begin anew, overwriting the run")

    running = parser.add_argument_group("--mode=evaluate and --mode=benchmark")
    running.add_argument("--weights", metavar="NPZ", help="generator; default: the run's, else ours")
    running.add_argument("--blend", action="append", default=[], metavar="NPZ=SHARE")
    running.add_argument("--self-ensemble", action="store_true", help="mean of 8 turns and flips")
    running.add_argument("--input", nargs="+", metavar="PATH", help="pictures or folders")
    running.add_argument("--output", type=Path, metavar="DIR", help="where results go")

    own = parser.add_argument_group("--mode=evaluate --input")
    own.add_argument("--format", choices=OUTPUT_FORMATS, help="of the results; default: the input's")
    own.add_argument("--outscale", type=float, default=4.0, metavar="S", help="final factor")
    own.add_argument("--overwrite", action="store_true", help="replace results that exist")
    return parser.parse_args(argv)


def check(args: argparse.Namespace) -> None:
    """Raises UserError for arguments that do not go together, before anything slow begins."""
    if args.mode == "srgan" and (args.input or args.weights or args.blend):
        raise UserError(
            "--input, --weights and --blend belong to --mode=evaluate; training pictures are named by "
            "--set TRAIN.hr_img_path=FOLDER, weights to start from by --set TRAIN.init_weights=NPZ"
        )
    if args.mode != "srgan" and args.restart:
        raise UserError("--restart belongs to --mode=srgan")
    if args.mode == "benchmark" and not args.input:
        raise UserError("--mode=benchmark needs --input FOLDER with HR pictures")
    if args.mode == "evaluate" and bool(args.input) != bool(args.output):
        raise UserError("--input and --output go together: --input PATH... --output DIR")
    if not 0 < args.outscale <= 16:
        raise UserError(f"--outscale must be above 0 and at most 16, not {args.outscale:g}")
    args.blend = [_parse_blend(text) for text in args.blend]
    if not 0 <= sum(share for _, share in args.blend) <= 1:
        raise UserError("the shares of --blend must add up to at most 1")


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


def run(args: argparse.Namespace, config) -> int:
    """Imports TensorFlow and does what `args.mode` says; returns the exit code."""
    log.info("Starting TensorFlow")
    with tensorflow_start():
        import tensorflow as tf

        tf.config.list_physical_devices()  # its complaints about missing GPU drivers come here
        tf.get_logger().setLevel("ERROR")
        from training.run import train
        from upscaling.evaluate import evaluate
    if args.mode == "srgan":
        train(config, args.checkpoint_dir, args.samples_dir, recipe=args.recipe, restart=args.restart)
        return 0
    return evaluate(args, config)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    logging.basicConfig(format="%(message)s", stream=sys.stdout, level=logging.WARNING)
    log.setLevel(logging.INFO)
    try:
        check(args)
        config = make_config(args.recipe, args.config, args.settings)
        defaults = dict(flatten(make_config()))
        log.info("Recipe %s", args.recipe)
        for key, value in flatten(config):
            if value != defaults[key]:
                log.info("  %s = %r", key, value)
        return run(args, config)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
