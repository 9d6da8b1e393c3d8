"""Checks a GPU in six minutes: are its results correct and deterministic, and how fast is it?

python bench/gpu_check.py                 or: make gpu-check
python bench/gpu_check.py --device cpu    the same on the CPU, to test this script
"""

import os
import sys
from unittest import mock

import measure
import numpy as np
from measure import Contestant
from train_step import PHASES, Ours, settings_of

LOSS_TOLERANCE = 1e-3  # relative; convolutions add in a different order
MAX_DIFFERENCE = 1  # between tiles and the whole image, in 8-bit values


class Checked(Ours):
    """The training step and the upscaler, for use in a separate process."""

    def train(self, start: dict | None) -> tuple[dict, list[dict[str, float]], dict]:
        """Runs a step per phase, from `start` if given; returns (weights before, losses, weights after)."""
        from tf1 import checkpoints

        if start:
            params = self.g.net_g.all_params + self.g.net_d.all_params + self.g.net_vgg.all_params
            checkpoints.assign(self.session, params, start, "the CPU's weights")
        return self.weights(), [self.step(phase) for phase in PHASES], self.weights()

    def peak_gpu_mb(self) -> float:
        import tensorflow as tf

        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20

    def difference_of_tiles(self) -> int:
        """Returns the largest difference between upscaling in tiles and in one piece, in 8-bit values."""
        from images.photos import validation_photo
        from upscaling.upscaler import Upscaler, load_generator

        lr = validation_photo()[:128, :128]
        arrays, meta = load_generator("srgan")
        with Upscaler(arrays, meta["arguments"], self.config.RUNTIME) as upscaler:
            whole = upscaler(lr).astype(int)
            upscaler._trunk_px, upscaler._head_px = 100 * 100, 40 * 40
            return int(np.abs(upscaler(lr) - whole).max())


def main() -> int:
    parser = measure.make_parser(__doc__)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    parser.add_argument("--steps", type=int, default=20, help="timed steps per phase")
    args = parser.parse_args()
    on_gpu, failed = args.device == "gpu", []
    exact = [*settings_of("float32", 0), "RUNTIME.deterministic=True"]

    def verdict(name: str, is_right: bool, words: str) -> None:
        print(f"{'ok  ' if is_right else 'FAIL'} {name}: {words}", flush=True)
        failed.extend([] if is_right else [name])

    with mock.patch.dict(os.environ, CUDA_VISIBLE_DEVICES="-1"), Contestant(Checked, exact) as cpu:
        start, expected, _ = cpu("train", None)
    if not on_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    runs = []
    for _ in range(2):
        with Contestant(Checked, exact) as checked:
            device = checked(measure.describe_device)
            if on_gpu and not device.startswith("GPU"):
                print("error: TensorFlow finds no GPU", file=sys.stderr)
                return 2
            runs.append(checked("train", start))
            if len(runs) == 2:
                difference = checked("difference_of_tiles")
    print(device)
    for title, losses, of_cpu in zip(PHASES.values(), runs[0][1], expected):
        worst = max(abs(losses[name] / value - 1) for name, value in of_cpu.items())
        verdict(f"{title} matches the CPU", worst <= LOSS_TOLERANCE, f"losses differ by at most {worst:.1e}")
    same = all(np.array_equal(array, runs[1][2][name]) for name, array in runs[0][2].items())
    verdict("deterministic", same, f"two processes ended with {'the same' if same else 'different'} weights")
    verdict("tiles", difference <= MAX_DIFFERENCE, f"at most {difference} of 255 from the whole image")

    precision = "bfloat16" if on_gpu else "float32"
    for xla in (False, True):
        with Contestant(Checked, [*settings_of(precision, 0), f"RUNTIME.xla={xla}"]) as checked:
            for phase, title in PHASES.items():
                checked(measure.seconds, "step", (phase,), 3)  # warms up
                seconds = checked(measure.seconds, "step", (phase,), args.steps)
                print(f"     {title}, {precision}{', XLA' if xla else ''}: {seconds:.4f} s")
            if on_gpu:
                print(f"     peak GPU memory: {checked('peak_gpu_mb'):.0f} MB")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
