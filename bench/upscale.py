"""Time of x4 upscaling beside other engines running the same generator on the same picture.

python bench/upscaler.py            ours and every engine that is installed, in turns
python bench/upscaler.py --big      a 1920 x 1080 picture: seconds per megapixel, peak memory
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import warnings
from pathlib import Path

import measure
import numpy as np
from measure import Contestant, Missing

from common.settings import make_config

SCALE = 4
BIG = 1080, 1920
TOLERANCE = 1  # levels of 255 that float32 results may differ by
SEED = 0
OUTPUT_SCALE = 0.05  # of the last filters, lest random weights saturate tanh and hide differences


def picture(size: tuple[int, int]) -> np.ndarray:
    """uint8 [h, w, 3]: an embedded photograph, repeated as often as it takes."""
    from training.dataset import validation_photo

    photo = validation_photo()
    repeats = [-(-side // have) for side, have in zip(size, photo.shape)]
    return np.tile(photo, (*repeats, 1))[: size[0], : size[1]]


def to_pixels(sr: np.ndarray) -> np.ndarray:
    """float [3, 4h, 4w] in [-1, 1], overwritten -> uint8 [4h, 4w, 3]."""
    sr += 1.0
    sr *= 127.5
    return np.rint(sr, out=sr).clip(0, 255, out=sr).astype(np.uint8).transpose(1, 2, 0)


# --- The contestants, each in its own process: from a uint8 picture to a uint8 picture ------------


class Engine:
    """`upscale` of a picture of `size`, by the generator whose weights `arrays` are."""

    def __init__(self, arrays, precision: str, threads: int, size: tuple[int, int], folder: str):
        self.image = picture(size)
        self.config = make_config(
            settings=[
                f"RUNTIME.precision={precision}",
                f"RUNTIME.intra_op_threads={threads}",
            ]
        )
        self.prepare(arrays, precision, threads, Path(folder))

    def result(self) -> np.ndarray:
        return self.upscale(self.image)

    def seconds(self, times: int) -> float:
        """Seconds per picture."""
        return measure.seconds_per_call(lambda: self.upscale(self.image), times)

    def peak_mb(self) -> float:
        return measure.peak_mb()

    def lr(self) -> np.ndarray:
        """float32 [1, h, w, 3] in [-1, 1]."""
        return self.image[None].astype(np.float32) / 127.5 - 1.0


class Weights:
    """A generator with random weights, as the engines need them."""

    def __init__(self):
        measure.start_tensorflow()

    def arrays(self) -> tuple[dict, dict]:
        """As trained, with batch norm; and folded."""
        import tensorflow as tf

        from model import SRGAN_g
        from tf1 import checkpoints
        from upscaling import upscaler

        arguments = {**make_config().MODEL.generator, "init": "fan_in"}
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            net = SRGAN_g(tf.zeros([1, 8, 8, 3]), **arguments)
            session.run(tf.compat.v1.global_variables_initializer())
            arrays = checkpoints.fetch(session, net.all_params)
        rng = np.random.default_rng(SEED)
        for name, array in arrays.items():  # as if moved by training
            if name.endswith("/moving_mean"):
                arrays[name] = rng.normal(0, 0.1, array.shape).astype(np.float32)
            elif name.endswith("/moving_var"):
                arrays[name] = rng.uniform(0.5, 1.5, array.shape).astype(np.float32)
        arrays["SRGAN_g/out/filters"] *= OUTPUT_SCALE
        return arrays, upscaler.fold_batch_norm(arrays, net.norms)

    def describe(self) -> tuple[str, bool]:
        from tf1 import runtime

        return runtime.describe_device(), runtime.has_bfloat16()


class Ours(Engine):
    """The program's upscaler, with its tiles."""

    def prepare(self, arrays, precision, threads, folder):
        measure.start_tensorflow()
        from upscaling import upscaler

        generator = self.config.MODEL.generator
        self.upscale = upscaler.Upscaler(arrays["as trained"], generator, self.config.RUNTIME)


class AsTrained(Engine):
    """The training graph's generator: variables, batch norm not folded."""

    def prepare(self, arrays, precision, threads, folder):
        measure.start_tensorflow()
        import tensorflow as tf

        from model import SRGAN_g
        from tf1 import checkpoints, runtime
        from training import graph

        with tf.Graph().as_default():
            t_image = tf.compat.v1.placeholder(tf.uint8, [None, None, None, 3])
            net = SRGAN_g(graph.to_range(t_image), **self.config.MODEL.generator)
            output = graph.to_pixels(net.outputs)
            session = tf.compat.v1.Session(config=runtime.session_config(self.config.RUNTIME))
        with session.graph.as_default():
            checkpoints.assign(session, net.all_params, arrays["as trained"], "the benchmark")
        self.upscale = lambda image: session.run(output, {t_image: image[None]})[0]


class PyTorch(Engine):
    """channels_last, batch norm folded, autocast for bfloat16."""

    def prepare(self, arrays, precision, threads, folder):
        import torch
        import twin

        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = True
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        net = twin.Generator(arrays["folded"], self.config.MODEL.generator).eval()
        net = net.to(device, memory_format=torch.channels_last)

        @torch.inference_mode()
        def upscale(image):
            lr = torch.from_numpy(image).to(device)[None].permute(0, 3, 1, 2).float() / 127.5 - 1.0
            with torch.autocast(device.type, torch.bfloat16, precision == "bfloat16"):
                sr = net(lr)
            pixels = sr.add_(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
            return pixels[0].permute(1, 2, 0).cpu().numpy()

        self.upscale = upscale


def export_onnx(arrays, generator: dict, size: tuple[int, int], folder: Path) -> str:
    """Path of the folded generator for pictures of `size`, which lets engines plan ahead."""
    import onnx  # noqa: F401
    import torch
    import twin

    path = folder / "generator.onnx"
    net = twin.Generator(arrays["folded"], generator).eval()
    with warnings.catch_warnings():  # the exporter notes that sizes become constants, as they should
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (torch.zeros(1, 3, *size),), str(path), dynamo=False)
    return str(path)


class OnnxRuntime(Engine):
    def prepare(self, arrays, precision, threads, folder):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        path = export_onnx(arrays, self.config.MODEL.generator, self.image.shape[:2], folder)
        session = onnxruntime.InferenceSession(path, options, onnxruntime.get_available_providers())
        name = session.get_inputs()[0].name

        def upscale(image):
            return to_pixels(session.run(None, {name: self.lr().transpose(0, 3, 1, 2)})[0][0])

        self.upscale = upscale


class OpenVino(Engine):
    def prepare(self, arrays, precision, threads, folder):
        import openvino

        path = export_onnx(arrays, self.config.MODEL.generator, self.image.shape[:2], folder)
        options = {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = openvino.Core().compile_model(path, "CPU", options).create_infer_request()

        def upscale(image):
            request.infer([np.ascontiguousarray(self.lr().transpose(0, 3, 1, 2))])
            return to_pixels(request.get_output_tensor().data[0])

        self.upscale = upscale


# (name, engine, precision); the first of a precision is ours
CONTESTANTS = (
    ("ours", Ours, "float32"),
    ("TensorFlow as trained", AsTrained, "float32"),
    ("PyTorch", PyTorch, "float32"),
    ("ONNX Runtime", OnnxRuntime, "float32"),
    ("OpenVINO", OpenVino, "float32"),
    ("ours", Ours, "bfloat16"),
    ("PyTorch", PyTorch, "bfloat16"),
    ("OpenVINO", OpenVino, "bfloat16"),
)


# --- The comparison -------------------------------------------------------------------------------


def compare(args: argparse.Namespace, arrays: dict, precisions: list[str]) -> dict:
    """Prints and returns every contestant's seconds and its ratios to ours."""
    with contextlib.ExitStack() as stack:
        contestants = {}
        for name, engine, precision in CONTESTANTS:
            if precision not in precisions:
                continue
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            try:
                one = Contestant(engine, arrays, precision, args.threads, args.size, folder)
            except Missing as missing:
                print(f"{name} {precision}: skipped, {missing} is not installed")
                continue
            contestants[f"{name} {precision}"] = stack.enter_context(one)
        differences = check(contestants)
        turns = {name: lambda one=one: one("seconds", args.pictures) for name, one in contestants.items()}
        times = measure.take_turns(turns, args.rounds)

    results = {}
    ours = [f"ours {precision}" for precision in precisions]
    print(f"{'':32}{'s':>7}   off by  " + "".join(f"{name + ' / it':28}" for name in ours))
    for name, seconds in times.items():
        ratios = {one: measure.ratio(times[one], seconds) for one in ours}
        results[name] = {"seconds": seconds, "off_by": differences[name], "ratio": ratios}
        print(
            f"  {name:30}{statistics.median(seconds):7.3f}  {differences[name]:6}   "
            + "".join(f"{measure.describe_ratio(ratio):28}" for ratio in ratios.values())
        )
    return results


def check(contestants: dict[str, Contestant]) -> dict[str, int]:
    """Levels that each result is off from our first; stops if one in float32 is off by more than 1."""
    results = {name: one("result").astype(int) for name, one in contestants.items()}
    ours = next(iter(results.values()))
    print(f"result: mean {ours.mean():.0f}, standard deviation {ours.std():.0f} of 255")
    differences = {name: int(abs(result - ours).max()) for name, result in results.items()}
    for name, difference in differences.items():
        if name.endswith("float32") and difference > TOLERANCE:
            sys.exit(f"error: {name} is off by {difference} of 255: it does not run the same network")
    return differences


def compare_big(args: argparse.Namespace, arrays: dict, precisions: list[str]) -> dict:
    """Seconds per megapixel of LR, small and big in turns; peak memory of a process that does the big."""
    results = {}
    for precision in precisions:
        with contextlib.ExitStack() as stack:
            turns, peaks = {}, {}
            for size in (args.size, BIG):
                one = stack.enter_context(Contestant(Ours, arrays, precision, args.threads, size, ""))
                one("seconds", 1)  # warms up
                peaks[size] = one("peak_mb")
                megapixels = size[0] * size[1] / 1e6
                times = max(1, int(BIG[0] * BIG[1] / 1e6 / megapixels / 4))  # turns of a similar length
                turns[size] = lambda one=one, times=times, mp=megapixels: one("seconds", times) / mp
            seconds = measure.take_turns(turns, args.rounds)
        ratio = measure.ratio(seconds[BIG], seconds[args.size])
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


def parse_size(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--size", type=parse_size, default=(180, 320), metavar="HxW")
    parser.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), help="default: all")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--pictures", type=int, default=2, help="per turn")
    parser.add_argument("--threads", type=int, default=measure.cores(), help="default: the cores")
    parser.add_argument("--big", action="store_true")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    measure.use_threads(args.threads)

    with Contestant(Weights) as weights:
        arrays = dict(zip(("as trained", "folded"), weights("arrays")))
        device, has_bfloat16 = weights("describe")
    precisions = args.precision or ["float32", "bfloat16"][: 1 + has_bfloat16]
    results = {"machine": measure.describe_machine(), "device": device, "threads": args.threads}
    print(f"{results['machine']}; {device}, {args.threads} threads each")
    if args.big:
        results["big"] = compare_big(args, arrays, precisions)
    else:
        print(f"x4 of a {args.size[0]} x {args.size[1]} picture, {args.rounds} rounds of {args.pictures}")
        results["size"] = args.size
        results["engines"] = compare(args, arrays, precisions)
    measure.write_json(args.json, results)


if __name__ == "__main__":
    main()
