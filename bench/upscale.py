"""Time of x4 upscaling by the program, by PyTorch and by what the program exports, on the same picture.

python bench/upscale.py                      ours and every engine that is installed, in turns
python bench/upscale.py --sets FOLDER ...    and PSNR on sets of HR/ and LR_bicubic_x4/
python bench/upscale.py --big                a 1920 x 1080 picture: seconds per megapixel, peak memory
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from pathlib import Path

import measure
import numpy as np
from measure import Contestant, Missing

from common.settings import make_config

SIZE, BIG = (180, 320), (1080, 1920)
TOLERANCE = 1  # levels of 255 that float32 results may differ by
EXPORTS = ("savedmodel", "onnx", "tflite")


def picture(size: tuple[int, int]) -> np.ndarray:
    """uint8 [h, w, 3]: an embedded photograph, repeated as often as it takes."""
    from images.photos import validation_photo

    photo = validation_photo()
    repeats = [-(-side // have) for side, have in zip(size, photo.shape)]
    return np.tile(photo, (*repeats, 1))[: size[0], : size[1]]


# --- The contestants, each in its own process: from a uint8 picture to a uint8 picture ------------


class Engine:
    """`upscale` of pictures, by the shipped generator."""

    def __init__(self, precision: str, threads: int, size: tuple[int, int], *rest):
        measure.start_tensorflow()
        from tf1 import checkpoints
        from upscaling.upscaler import load_generator

        self.image = picture(size)
        settings = [f"RUNTIME.precision={precision}", f"RUNTIME.intra_op_threads={threads}"]
        self.settings = make_config(settings=settings).RUNTIME
        self.arrays, self.meta = load_generator(checkpoints.locate("srgan"))
        self.prepare(precision, threads, *rest)

    def result(self) -> np.ndarray:
        return self.upscale(self.image)

    def seconds(self, times: int) -> float:
        """Seconds per picture."""
        return measure.seconds_per_call(self.result, times)

    def peak_mb(self) -> float:
        return measure.peak_mb()

    def psnr(self, sets: list[str]) -> dict[str, float]:
        """Mean PSNR on Y of each set, dB."""
        from images import metrics
        from upscaling.evaluate import benchmark_sets, read_pair

        found = benchmark_sets([Path(folder) for folder in sets], Path("none")) if sets else {}
        result = {}
        for name, pairs in found.items():
            pictures = [read_pair(hr, lr) for _, hr, lr in pairs]
            result[name] = statistics.mean(metrics.psnr_y(self.upscale(lr), hr) for hr, lr in pictures)
        return result


class Ours(Engine):
    """The program's upscaler, with its tiles."""

    def prepare(self, precision, threads):
        from upscaling.upscaler import Upscaler

        self.upscale = Upscaler(self.arrays, self.meta["arguments"], self.settings)

    def export(self, folder: Path, format: str) -> float:
        """Size of the file, MB."""
        from upscaling.export import NAMES, export

        export(self.arrays, self.meta, self.settings, folder, format)
        path = folder / NAMES[format]
        files = path.rglob("*") if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files if file.is_file()) / 2**20

    def describe(self) -> tuple[str, bool]:
        """Device; whether bfloat16 is worth while."""
        from tf1 import runtime

        return runtime.describe_device(), runtime.has_bfloat16()


class AsTrained(Engine):
    """The training graph's generator: variables, batch norm not folded."""

    def prepare(self, precision, threads):
        import tensorflow as tf

        from model import SRGAN_g
        from tf1 import checkpoints, runtime
        from training.graph import to_pixels, to_range

        with tf.Graph().as_default():
            t_image = tf.compat.v1.placeholder(tf.uint8, [None, None, None, 3])
            net = SRGAN_g(to_range(t_image), **self.meta["arguments"])
            output = to_pixels(net.outputs)
            session = tf.compat.v1.Session(config=runtime.session_config(self.settings))
            checkpoints.assign(session, net.all_params, self.arrays, "the benchmark")
        self.upscale = lambda image: session.run(output, {t_image: image[None]})[0]


class PyTorch(Engine):
    """channels_last, batch norm folded, autocast for bfloat16."""

    def prepare(self, precision, threads):
        import tensorflow as tf
        import torch
        import twin

        from model import SRGAN_g
        from tf1.folding import fold_batch_norm

        with tf.Graph().as_default():
            norms = SRGAN_g(tf.zeros([1, 8, 8, 3]), **self.meta["arguments"]).norms
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = True
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        net = twin.Generator(fold_batch_norm(self.arrays, norms), self.meta["arguments"]).eval()
        net = net.to(device, memory_format=torch.channels_last)

        @torch.inference_mode()
        def upscale(image):
            lr = torch.from_numpy(image).to(device)[None].permute(0, 3, 1, 2).float() / 127.5 - 1.0
            with torch.autocast(device.type, torch.bfloat16, precision == "bfloat16"):
                sr = net(lr)
            pixels = sr.add_(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
            return pixels[0].permute(1, 2, 0).cpu().numpy()

        self.upscale = upscale


class Exported(Engine):
    """A file that the program exported, run by the engine it is meant for."""

    def prepare(self, precision, threads, folder, format):
        from upscaling.engines import engine
        from upscaling.export import NAMES

        run = engine(folder / NAMES[format], format, threads)
        self.upscale = lambda image: run(image[None])[0]


class OpenVino(Engine):
    """It reads the ONNX file."""

    def prepare(self, precision, threads, folder, format):
        import openvino

        from upscaling.export import NAMES

        hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
        options = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
        compiled = openvino.Core().compile_model(folder / NAMES[format], "CPU", options)
        self.upscale = lambda image: compiled(image[None])[0][0]


# (name, engine, precision, export that it reads); the first of a precision is ours
CONTESTANTS = (
    ("ours", Ours, "float32", None),
    ("TensorFlow as trained", AsTrained, "float32", None),
    ("PyTorch", PyTorch, "float32", None),
    *((name, Exported, "float32", name) for name in EXPORTS),
    ("OpenVINO, onnx", OpenVino, "float32", "onnx"),
    ("ours", Ours, "bfloat16", None),
    ("PyTorch", PyTorch, "bfloat16", None),
    ("OpenVINO, onnx", OpenVino, "bfloat16", "onnx"),
)


# --- The comparison -------------------------------------------------------------------------------


def compare(args: argparse.Namespace, ours: Contestant, precisions: list[str]) -> dict:
    """Prints and returns every contestant's seconds and its ratios to ours."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        contestants, sizes = {"ours float32": ours}, {}
        for name, engine, precision, format in CONTESTANTS:
            label = f"{name} {precision}"
            if precision not in precisions or label in contestants:
                continue
            if format and format not in sizes:
                try:
                    sizes[format] = ours("export", folder, format)
                except RuntimeError as error:  # of a converter that is not installed
                    sizes[format] = None
                    print(f"no {format}: {str(error).splitlines()[-1]}")
            if format and sizes[format] is None:
                continue
            files = (folder, format) if format else ()
            try:
                one = Contestant(engine, precision, args.threads, SIZE, *files)
            except Missing as missing:
                print(f"{label}: skipped, {missing} is not installed")
                continue
            contestants[label] = stack.enter_context(one)
        differences = check(contestants)
        turns = {name: lambda one=one: one("seconds", args.pictures) for name, one in contestants.items()}
        times = measure.take_turns(turns, args.rounds)
        psnr = {name: one("psnr", args.sets) for name, one in contestants.items()}

    results = {}
    firsts = [f"ours {precision}" for precision in precisions]
    print(f"{'':32}{'s':>7}   off by  " + "".join(f"{name + ' / it':28}" for name in firsts))
    for name, seconds in times.items():
        ratios = {one: measure.ratio(times[one], seconds) for one in firsts}
        results[name] = {"seconds": seconds, "off_by": differences[name], "ratio": ratios, **psnr[name]}
        print(
            f"  {name:30}{statistics.median(seconds):7.3f}  {differences[name]:6}   "
            + "".join(f"{measure.describe_ratio(ratio):28}" for ratio in ratios.values())
            + ", ".join(f"{key} {value:.2f}" for key, value in psnr[name].items()),
            flush=True,
        )
    print(", ".join(f"{name} {size:.1f} MB" for name, size in sizes.items() if size))
    return {"engines": results, "mb": sizes}


def check(contestants: dict[str, Contestant]) -> dict[str, int]:
    """Levels that each result is off from ours; stops if one in float32 is off by more than 1."""
    results = {name: one("result").astype(int) for name, one in contestants.items()}
    differences = {name: int(abs(result - results["ours float32"]).max()) for name, result in results.items()}
    for name, difference in differences.items():
        if name.endswith("float32") and difference > TOLERANCE:
            sys.exit(f"error: {name} is off by {difference} of 255: it does not run the same network")
    return differences


def compare_big(args: argparse.Namespace, precisions: list[str]) -> dict:
    """Seconds per megapixel of LR, small and big in turns; peak memory of a process that does the big."""
    results = {}
    for precision in precisions:
        with contextlib.ExitStack() as stack:
            turns, peaks = {}, {}
            for size in (SIZE, BIG):
                one = stack.enter_context(Contestant(Ours, precision, args.threads, size))
                one("seconds", 1)  # warms up
                peaks[size] = one("peak_mb")
                megapixels = size[0] * size[1] / 1e6
                times = max(1, int(BIG[0] * BIG[1] / 1e6 / megapixels / 4))  # turns of a similar length
                turns[size] = lambda one=one, times=times, mp=megapixels: one("seconds", times) / mp
            seconds = measure.take_turns(turns, args.rounds)
        ratio = measure.ratio(seconds[BIG], seconds[SIZE])
        for size, values in seconds.items():
            print(
                f"{precision:9} {size[1]:5} x {size[0]:<5} {statistics.median(values):7.2f} s per megapixel"
                f"  {peaks[size]:6,.0f} MB at most"
            )
        print(f"{precision:9} big / small {measure.describe_ratio(ratio)}", flush=True)
        results[precision] = {
            "ratio": ratio,
            "seconds_per_megapixel": {f"{w} x {h}": values for (h, w), values in seconds.items()},
            "peak_mb": {f"{w} x {h}": peak for (h, w), peak in peaks.items()},
        }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--sets", nargs="*", default=[], metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--pictures", type=int, default=2, help="per turn")
    parser.add_argument("--threads", type=int, default=measure.cores(), help="default: the cores")
    parser.add_argument("--big", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    measure.use_threads(args.threads)

    with Contestant(Ours, "float32", args.threads, SIZE) as ours:
        device, has_bfloat16 = ours("describe")
        precisions = ["float32", "bfloat16"][: 1 + has_bfloat16]
        results = {"machine": measure.describe_machine(), "device": device, "threads": args.threads}
        print(f"{results['machine']}; {device}, {args.threads} threads each")
        if args.big:
            results["big"] = compare_big(args, precisions)
        else:
            print(f"x4 of a {SIZE[0]} x {SIZE[1]} picture, {args.rounds} rounds of {args.pictures}")
            results |= compare(args, ours, precisions)
    measure.write_json(args.json, results)


if __name__ == "__main__":
    main()
