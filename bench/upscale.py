"""Time of x4 upscaling by the program, by PyTorch and by the program's exports, on the same image.

python bench/upscale.py                      the program and every engine that is installed, in turns
python bench/upscale.py --big                the command on one 6000 x 4000 JPEG: seconds, peak memory
python bench/upscale.py --big 1200x800       the same on a smaller one
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measure
import numpy as np
from measure import Contestant
from PIL import Image

from common.errors import UserError
from common.settings import make_config
from images.photos import validation_photo

HEIGHT, WIDTH = 180, 320
MAX_DIFFERENCE = 1  # of float32 results, 8-bit values


class Engine:
    """`upscale`: uint8 [h, w, 3] -> [4h, 4w, 3], by the shipped SRGAN generator."""

    def __init__(self, precision: str, threads: int, *export_format: str):
        measure.start_tensorflow()
        from tf1 import checkpoints
        from upscaling.upscaler import load_generator

        self.image = validation_photo()[:HEIGHT, :WIDTH]
        settings = [f"RUNTIME.precision={precision}", f"RUNTIME.intra_op_threads={threads}"]
        self.settings = make_config(settings=settings).RUNTIME
        self.arrays, self.meta = load_generator(checkpoints.locate("srgan"))
        self.upscale = self.prepare(precision, threads, *export_format)

    def result(self) -> np.ndarray:
        return self.upscale(self.image)

    def seconds(self, times: int) -> float:
        """Seconds per image."""
        return measure.seconds_per_call(self.result, times)


class Ours(Engine):
    def prepare(self, precision, threads):
        from upscaling.upscaler import Upscaler

        return Upscaler(self.arrays, self.meta["arguments"], self.settings)

    def describe(self) -> tuple[str, bool]:
        """Device; whether bfloat16 is worth using."""
        from tf1 import runtime

        return runtime.describe_device(), runtime.has_bfloat16()


class PyTorch(Engine):
    """channels_last, batch norm folded, autocast for bfloat16."""

    def prepare(self, precision, threads):
        import tensorflow as tf
        import torch
        import twin

        from model import SRGAN_g
        from upscaling.upscaler import fold_batch_norm

        with tf.Graph().as_default():
            norms = SRGAN_g(tf.zeros([1, 8, 8, 3]), **self.meta["arguments"]).norms
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = True
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        net = twin.Generator("SRGAN_g", fold_batch_norm(self.arrays, norms), self.meta["arguments"])
        net = net.eval().to(device, memory_format=torch.channels_last)

        @torch.inference_mode()
        def upscale(image):
            lr = torch.from_numpy(image).to(device)[None].permute(0, 3, 1, 2).float() / 127.5 - 1.0
            with torch.autocast(device.type, torch.bfloat16, precision == "bfloat16"):
                sr = net(lr)
            pixels = sr.add_(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
            return pixels[0].permute(1, 2, 0).cpu().numpy()

        return upscale


class Exported(Engine):
    """A file that the program exports, run by the engine it is meant for."""

    def prepare(self, precision, threads, format):
        from upscaling.export import NAMES, export

        with tempfile.TemporaryDirectory() as folder:
            export(self.arrays, self.meta, self.settings, Path(folder), format)
            run = self.load(Path(folder, NAMES[format]), precision, threads, format)
        return lambda image: run(image[None])[0]

    def load(self, path, precision, threads, format):
        from upscaling.engines import engine

        return engine(path, format, threads)


class OpenVino(Exported):
    def load(self, path, precision, threads, format):
        import openvino

        hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
        options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
        compiled = openvino.Core().compile_model(path, "CPU", options)
        return lambda images: compiled(images)[0]


CONTESTANTS = (  # name, engine, precisions, export that it reads
    ("ours", Ours, ("float32", "bfloat16")),
    ("PyTorch", PyTorch, ("float32", "bfloat16")),
    ("TensorFlow, savedmodel", Exported, ("float32",), "savedmodel"),
    ("ONNX Runtime, onnx", Exported, ("float32",), "onnx"),
    ("LiteRT, tflite", Exported, ("float32",), "tflite"),
    ("OpenVINO, onnx", OpenVino, ("float32", "bfloat16"), "onnx"),
)


def compare(args: argparse.Namespace) -> None:
    """Prints each contestant's seconds and the ratios of ours to them."""
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(Contestant(Ours, "float32", args.threads))
        device, has_bfloat16 = ours("describe")
        precisions = args.precision or ["float32", "bfloat16"][: 1 + has_bfloat16]
        print(
            f"{device}, {args.threads} threads each; x4 of {WIDTH} x {HEIGHT} px, {args.rounds} rounds of 2"
        )
        contestants = {"ours float32": ours}
        for name, factory, supported, *export_format in CONTESTANTS:
            for precision in supported:
                label = f"{name} {precision}"
                if precision in precisions and label not in contestants:
                    try:
                        one = Contestant(factory, precision, args.threads, *export_format)
                        contestants[label] = stack.enter_context(one)
                    except (ModuleNotFoundError, UserError) as error:
                        print(f"{label}: skipped: {error}")
        expected = ours("result").astype(int)
        differences = {name: int(abs(one("result") - expected).max()) for name, one in contestants.items()}
        for name, difference in differences.items():
            if name.endswith("float32") and difference > MAX_DIFFERENCE:
                sys.exit(f"error: {name} differs by {difference} of 255: it does not run the same network")
        turns = {name: lambda one=one: one("seconds", 2) for name, one in contestants.items()}
        times = measure.take_turns(turns, args.rounds)
    firsts = [name for name in times if name.startswith("ours")]
    print(f"{'':32}{'s':>7}   differs by  " + "".join(f"{name + ' / it':28}" for name in firsts))
    for name, seconds in times.items():
        ratios = "".join(f"{measure.ratio(times[first], seconds):28}" for first in firsts)
        print(f"  {name:30}{statistics.median(seconds):7.3f}   {differences[name]:10}  {ratios}")


def upscale_big(size: str, threads: int) -> None:
    """Runs the command on one JPEG: seconds with start, reading and writing; peak memory of the process."""
    width, height = map(int, size.split("x"))
    photo = validation_photo()
    repeats = -(-height // photo.shape[0]), -(-width // photo.shape[1]), 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "big.jpg")
        Image.fromarray(np.tile(photo, repeats)[:height, :width]).save(path)
        command = [sys.executable, measure.ROOT / "main.py", "--mode=evaluate", "--weights", "srgan"]
        command += ["--input", path, "--output", Path(folder, "large")]
        started = time.perf_counter()
        subprocess.run([*command, "--set", f"RUNTIME.intra_op_threads={threads}"], check=True)
        seconds = time.perf_counter() - started
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    print(f"{width} x {height} to {4 * width} x {4 * height}: {seconds:.0f} s, at most {peak_mb:,.0f} MB")


def main() -> None:
    parser = measure.make_parser(__doc__, rounds=9)
    parser.add_argument("--big", nargs="?", const="6000x4000", metavar="WIDTHxHEIGHT")
    args = parser.parse_args()
    measure.use_threads(args.threads)
    print(measure.describe_machine())
    upscale_big(args.big, args.threads) if args.big else compare(args)


if __name__ == "__main__":
    main()
