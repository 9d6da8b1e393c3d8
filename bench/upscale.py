"""Times x4 upscaling by the program and by its exports in their own engines, on the same image.

python bench/upscale.py                      the program and every installed engine, in turns
python bench/upscale.py --big                the command on a 6000 x 4000 JPEG: time and peak memory
python bench/upscale.py --big 1200x800       the same on a smaller image
"""

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
from tf1.start import start_tensorflow

HEIGHT, WIDTH = 180, 320
MAX_DIFFERENCE = 1  # between float32 results, in 8-bit values
CONTESTANTS = {
    "float32": ("savedmodel", "onnx", "tflite", "ncnn", "OpenVINO"),
    "bfloat16": ("ours", "OpenVINO"),
}


class Engine:
    """`upscale`: uint8 [h, w, 3] -> [4h, 4w, 3] with the shipped SRGAN generator."""

    def __init__(self, name: str, precision: str, threads: int):
        start_tensorflow()
        from upscaling.upscaler import load_generator

        self.image = validation_photo()[:HEIGHT, :WIDTH]
        self.precision, self.threads = precision, threads
        settings = [f"RUNTIME.precision={precision}", f"RUNTIME.intra_op_threads={threads}"]
        self.settings = make_config(settings=settings).RUNTIME
        self.arrays, self.meta = load_generator("srgan")
        engines = {"ours": self.ours, "OpenVINO": self.openvino}
        self.upscale = engines[name]() if name in engines else self.exported(name)

    def ours(self):
        from upscaling.upscaler import Upscaler

        return Upscaler(self.arrays, self.meta["arguments"], self.settings)

    def openvino(self):
        import openvino

        def load(path, *_):
            hint = {"float32": "f32", "bfloat16": "bf16"}[self.precision]
            options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": self.threads}
            compiled = openvino.Core().compile_model(path, "CPU", options)
            return lambda images: compiled(images)[0]

        return self.exported("onnx", load)

    def exported(self, format: str, load=None):
        """Exports the generator and loads it in the format's own engine, or with `load`."""
        from upscaling.export import NAMES, engine, export

        with tempfile.TemporaryDirectory() as folder:
            export(self.arrays, self.meta, self.settings, Path(folder), format)
            run = (load or engine)(Path(folder, NAMES[format].format(4)), format, self.threads)
        return lambda image: run(image[None])[0]

    def result(self) -> np.ndarray:
        return self.upscale(self.image)


def compare(args: argparse.Namespace) -> None:
    """Prints each contestant's time in seconds and the ratios of our times to it."""
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(Contestant(Engine, "ours", "float32", args.threads))
        print(f"{ours(measure.describe_device)}, {args.threads} threads each; x4 of {WIDTH} x {HEIGHT} px")
        contestants = {"ours float32": ours}
        for precision in args.precision:
            for name in CONTESTANTS[precision]:
                try:
                    one = stack.enter_context(Contestant(Engine, name, precision, args.threads))
                    contestants[f"{name} {precision}"] = one
                except (ModuleNotFoundError, UserError) as error:
                    print(f"{name} {precision}: skipped: {error}")
        expected = ours("result").astype(int)
        differences = {name: int(abs(one("result") - expected).max()) for name, one in contestants.items()}
        for name, difference in differences.items():
            if name.endswith("float32") and difference > MAX_DIFFERENCE:
                sys.exit(f"error: {name} differs by {difference} of 255: not the same network")
        times = measure.take_turns(contestants, args.rounds, "result", (), 2)
    firsts = [name for name in times if name.startswith("ours")]
    print(f"{'':22}{'s':>7}  differs by  " + "".join(f"{name + ' / it':24}" for name in firsts))
    for name, seconds in times.items():
        ratios = "".join(f"{measure.ratio(times[first], seconds):24}" for first in firsts)
        print(f"  {name:20}{statistics.median(seconds):7.3f}  {differences[name]:10}  {ratios}")


def upscale_big(size: str, threads: int) -> None:
    """Times the command on one JPEG, including start-up, reading and writing, and prints peak memory."""
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
    print(f"{width} x {height} to {4 * width} x {4 * height}: {seconds:.0f} s, peak memory {peak_mb:,.0f} MB")


def main() -> None:
    parser = measure.make_parser(__doc__, rounds=9)
    parser.add_argument("--big", nargs="?", const="6000x4000", metavar="WIDTHxHEIGHT")
    args = parser.parse_args()
    measure.use_threads(args.threads)
    upscale_big(args.big, args.threads) if args.big else compare(args)


if __name__ == "__main__":
    main()
