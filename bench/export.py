"""Exports beside the program: time of one picture, and PSNR on benchmark sets.

python bench/export.py --sets FOLDER         sets of HR/ and LR_bicubic_x4/, for the PSNR
Needs requirements-export.txt; with openvino installed, that too reads the ONNX files.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import measure
import numpy as np
from measure import Contestant

FORMATS = ("savedmodel", "onnx", "onnx-float16", "onnx-int8", "tflite", "tflite-float16")
LR_SIZE = (180, 320)


class Program:
    """The program's own upscaling, float32."""

    def __init__(self, threads: int):
        measure.start_tensorflow()
        from common.settings import make_config
        from tf1 import checkpoints
        from upscaling.upscaler import Upscaler, load_generator

        settings = make_config(settings=["RUNTIME.precision=float32", f"RUNTIME.intra_op_threads={threads}"])
        arrays, meta = load_generator(checkpoints.pretrained("g_srgan.npz"))
        self.upscale = Upscaler(arrays, meta["arguments"], settings.RUNTIME)
        self.arrays, self.meta, self.settings = arrays, meta, settings.RUNTIME

    def export(self, folder: Path, format: str) -> None:
        from upscaling.export import export

        export(self.arrays, self.meta, self.settings, folder, format)

    def seconds(self, lr: np.ndarray) -> float:
        return measure.seconds_per_call(lambda: self.upscale(lr), 1)

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


class Exported(Program):
    """A file run by its engine."""

    def __init__(self, path: Path, format: str, threads: int):
        measure.start_tensorflow()
        if format.startswith("openvino"):
            import openvino

            compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_NUM_THREADS": threads})
            run = lambda images: compiled(images)[0]  # noqa: E731
        else:
            from upscaling.engines import engine

            run = engine(path, format, threads)
        self.upscale = lambda lr: run(lr[None])[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sets", nargs="*", default=[], metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=measure.cores())
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    measure.use_threads(args.threads)
    lr = np.random.default_rng(0).integers(0, 256, (*LR_SIZE, 3), dtype=np.uint8)
    folder = Path(tempfile.mkdtemp(prefix="srgan-export-"))
    print(f"{measure.describe_machine()}, {args.threads} threads; x4 of {LR_SIZE[1]} x {LR_SIZE[0]} px")
    program = Contestant(Program, args.threads)
    contestants, sizes = {"program": program}, {}
    names = {**dict.fromkeys(FORMATS), "openvino": "onnx", "openvino-int8": "onnx-int8"}
    from upscaling.export import NAMES

    for name, of in names.items():
        if of is None:
            program("export", folder, name)
        path = folder / NAMES[of or name]
        try:
            contestants[name] = Contestant(Exported, path, name, args.threads)
        except (measure.Missing, RuntimeError) as error:
            print(f"{name} is left out: {str(error).splitlines()[-1]}")
            continue
        files = path.rglob("*") if path.is_dir() else [path]
        sizes[name] = sum(file.stat().st_size for file in files if file.is_file()) / 2**20
    seconds = measure.take_turns(
        {name: lambda c=contestant: c("seconds", lr) for name, contestant in contestants.items()}, args.rounds
    )
    results = {}
    for name, contestant in contestants.items():
        ratio = measure.ratio(seconds[name], seconds["program"])
        psnr = contestant("psnr", args.sets)
        results[name] = {"seconds": statistics.median(seconds[name]), "ratio": ratio, "psnr_db": psnr}
        print(
            f"{name:15} {results[name]['seconds']:6.2f} s  {measure.describe_ratio(ratio):20} "
            f"{sizes.get(name, 0):5.1f} MB  "
            + ", ".join(f"{key} {value:.2f}" for key, value in psnr.items()),
            flush=True,
        )
    measure.write_json(args.json, results)


if __name__ == "__main__":
    main()
