"""What PSNR does not see: colour shifts, a checkerboard, blur, and the distance of VGG19 features.

python bench/quality.py Set5 sample --vgg FILE --weights a/g_srgan.npz b/g_srgan.npz

A set is a folder as of `--mode=benchmark`, or 'sample': the embedded photographs. Means over its pictures:

colour      the largest difference of a channel's mean from HR's, of all pictures, levels
grid        the upsampling's checkerboard where HR is plain, levels (`metrics.grid`), and HR's own
sharpness   mean absolute gradient of Y, as a share of HR's
VGG         squared difference of VGG19's conv1_2, conv2_2 and conv3_4, each position's features scaled
            to unit length (Zhang et al. 2018, without their learned weights); less is nearer to HR
"""

from __future__ import annotations

import argparse
from pathlib import Path

import measure
import numpy as np

from common.errors import UserError
from common.settings import make_config
from images import metrics
from images.photos import SAMPLE, sample_photos
from images.pixels import crop_to_multiple

SCALE = 4
FEATURES = ("conv1_2", "conv2_2", "conv3_4")


def read_set(name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """(HR, LR) pictures."""
    from images import bicubic
    from upscaling.evaluate import pairs, read_pair

    if name != SAMPLE:
        return [read_pair(*files) for files in pairs(Path(name))]
    photos = [crop_to_multiple(photo, SCALE) for photo in sample_photos().values()]
    return [(hr, bicubic.downsample(hr)) for hr in photos]


class VggDistance:
    """`distance(sr, hr)` of two uint8 pictures of one size."""

    def __init__(self, path: str):
        import tensorflow as tf

        import vgg19
        from tf1.checkpoints import assign

        with tf.Graph().as_default() as graph:
            self._pictures = tf.compat.v1.placeholder(tf.float32, [2, None, None, 3])
            net, _ = vgg19.Vgg19_simple_api(self._pictures / 255.0, layer=FEATURES[-1])
            features = [tf.math.l2_normalize(net.tensors[name], -1, epsilon=1e-8) for name in FEATURES]
            squares = [
                tf.reduce_sum(tf.math.squared_difference(a, b), -1) for a, b in map(tf.unstack, features)
            ]
            self._distance = tf.add_n([tf.reduce_mean(square) for square in squares]) / len(FEATURES)
            arrays = vgg19.read_weights(path, FEATURES[-1])
            self._session = tf.compat.v1.Session(graph=graph)
            assign(self._session, net.all_params, {f"VGG19/{k}": v for k, v in arrays.items()}, path)

    def __call__(self, sr: np.ndarray, hr: np.ndarray) -> float:
        return float(self._session.run(self._distance, {self._pictures: np.stack([sr, hr])}))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="+", metavar="SET")
    parser.add_argument("--weights", nargs="+", default=[], metavar="NPZ")
    parser.add_argument("--vgg", required=True, metavar="FILE")
    args = parser.parse_args()
    try:
        compare(args.sets, args.weights, args.vgg)
    except UserError as error:
        parser.error(str(error))


def compare(names: list[str], weights: list[str], vgg: str) -> None:
    measure.start_tensorflow()
    from images import bicubic
    from upscaling.upscaler import Upscaler, load_generator

    sets = {name: read_set(name) for name in names}
    distance = VggDistance(vgg)

    def report(title: str, upscale) -> None:
        print(title)
        for name, pictures in sets.items():
            rows = []
            for hr, lr in pictures:
                sr = upscale(lr)
                rows.append(
                    (
                        metrics.psnr_y(sr, hr),
                        metrics.ssim_y(sr, hr),
                        metrics.colour_shift(sr, hr),
                        metrics.grid(sr, hr),
                        metrics.grid(hr, hr),
                        metrics.sharpness(sr, hr),
                        distance(sr, hr),
                    )
                )
            means = np.nanmean(rows, axis=0)  # NaN where a picture has no plain area
            psnr, ssim, _, of_sr, of_hr, sharp, of_vgg = means
            colour = max(row[2] for row in rows)
            print(
                f"  {Path(name).name:8} {psnr:6.2f} dB  SSIM {ssim:.4f}  colour {colour:.1f}  "
                f"grid {of_sr:.2f} (HR {of_hr:.2f})  sharpness {sharp:.2f}  VGG {of_vgg:.4f}",
                flush=True,
            )

    report("bicubic", bicubic.upsample)
    for path in weights:
        arrays, meta = load_generator(path)
        with Upscaler(arrays, meta["arguments"], make_config().RUNTIME, source=path) as upscaler:
            report(path, upscaler)


if __name__ == "__main__":
    main()
