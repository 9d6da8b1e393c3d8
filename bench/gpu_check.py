"""Five minutes on a GPU that was never tried: is it right, is it steady, is it used?

python bench/gpu_check.py             or: make gpu-check
python bench/gpu_check.py --device cpu    the same on the CPU, to try the check itself
"""

from __future__ import annotations

import argparse
import os
import sys

import measure
import numpy as np
from measure import Contestant
from train_step import ADVERSARIAL, PHASES, PRETRAIN, Ours, settings_of

STEPS = (PRETRAIN, ADVERSARIAL)
LOSS_TOLERANCE = 1e-3  # relative; convolutions add up in another order
LEVELS = 1  # of 255, by which tiles may differ from the whole picture


class Checked(Ours):
    """The training step and the upscaler in a process of their own."""

    def losses(self) -> list[dict[str, float]]:
        return [self.step(phase) for phase in STEPS]

    def start_from(self, arrays: dict[str, np.ndarray]) -> None:
        from tf1 import checkpoints

        checkpoints.assign(self.session, self.params(), arrays, "the CPU's")

    def start(self) -> dict[str, np.ndarray]:
        from tf1 import checkpoints

        return checkpoints.fetch(self.session, self.params())

    def device(self) -> str:
        from tf1 import runtime

        return runtime.describe_device()

    def peak_gpu_mb(self) -> float:
        import tensorflow as tf

        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20

    def upscaling(self) -> tuple[int, float]:
        """The largest difference between tiles and the whole, in levels; seconds per megapixel of HR."""
        from images import photos
        from tf1 import checkpoints
        from upscaling.upscaler import Upscaler, load_generator

        _, lr = photos.validation_pair("sample")
        arrays, meta = load_generator(checkpoints.locate("srgan"))
        with Upscaler(arrays, meta["arguments"], self.config.RUNTIME) as upscaler:
            whole = upscaler(lr)
            seconds = measure.seconds_per_call(lambda: upscaler(lr), 3)
            upscaler._trunk_px, upscaler._head_px = 100 * 100, 40 * 40
            difference = np.abs(upscaler(lr).astype(int) - whole).max()
        return int(difference), seconds / (whole.shape[0] * whole.shape[1] / 1e6)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--steps", type=int, default=20, help="timed, of each phase")
    args = parser.parse_args()
    on_gpu = args.device == "gpu"
    visible, failed = os.environ.get("CUDA_VISIBLE_DEVICES"), []
    exact = [*settings_of("float32", 0), "RUNTIME.deterministic=True"]

    def verdict(name: str, is_right: bool, words: str) -> None:
        print(f"{'ok  ' if is_right else 'FAIL'} {name}: {words}", flush=True)
        if not is_right:
            failed.append(name)

    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    with Contestant(Checked, exact) as reference:
        start, expected = reference("start"), reference("losses")
    os.environ.pop("CUDA_VISIBLE_DEVICES")
    if visible is not None or not on_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible if on_gpu else "-1"

    runs = []
    for _ in range(2):
        with Contestant(Checked, exact) as checked:
            device = checked("device")
            if on_gpu and not device.startswith("GPU"):
                print("error: TensorFlow finds no GPU", file=sys.stderr)
                return 2
            checked("start_from", start)
            runs.append((checked("losses"), checked("start")))
    print(f"{device}, {measure.describe_machine()}")
    for phase, ours, cpus in zip(STEPS, runs[0][0], expected):
        worst = max(abs(ours[name] / value - 1) for name, value in cpus.items())
        verdict(
            f"{PHASES[phase]} as on the CPU",
            worst <= LOSS_TOLERANCE,
            f"losses differ by {worst:.1e} at most, relative",
        )
    same = all(np.array_equal(array, runs[1][1][name]) for name, array in runs[0][1].items())
    verdict("deterministic", same, "two processes end with the same bits" if same else "they differ")

    precision = "bfloat16" if on_gpu else "float32"
    for xla in (False, True):
        with Contestant(Checked, [*settings_of(precision, 0), f"RUNTIME.xla={xla}"]) as checked:
            for phase in STEPS:
                checked("seconds", phase, 3)
                seconds = checked("seconds", phase, args.steps)
                print(f"     {PHASES[phase]}, {precision}{', XLA' if xla else ''}: {seconds:.4f} s")
            if on_gpu:
                print(f"     at most {checked('peak_gpu_mb'):.0f} MB of the GPU's memory")
            if not xla:
                difference, seconds = checked("upscaling")
                verdict(
                    "tiles", difference <= LEVELS, f"differ from the whole by {difference} levels at most"
                )
                print(f"     upscaling, {precision}: {seconds:.3f} s per megapixel of HR")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
