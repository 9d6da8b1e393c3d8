"""Makes LR from HR as cameras, phones and websites do: blur, resizing, noise, JPEG.

After Zhang et al. 2021, "Designing a Practical Degradation Model for Deep Blind Image Super-Resolution"
(BSRGAN), section 3, and Wang et al. 2021, "Real-ESRGAN", section 3. The ranges are narrower than theirs: an
image that a user wants to enlarge was usually downsized only once and saved once or twice.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.special import j1

from images import bicubic

# Fractions of all patches; the others get a pass of blur, resizing, noise and JPEG
BICUBIC_RATE = 0.35  # MATLAB's bicubic alone: clean images must stay clean
BICUBIC_JPEG_RATE = 0.25  # MATLAB's bicubic, then JPEG: the most common case
# Fraction of the others that get a second pass ("high-order", Real-ESRGAN 3.3)
TWICE_RATE = 0.35

# Rate of each operation within one pass
BLUR_RATE = 0.8  # Real-ESRGAN 4.1 has 1.0 in the first pass, 0.8 in the second
SINC_RATE = 0.1  # fraction of the blurs (Real-ESRGAN 4.1)
ANISOTROPIC_RATE = 0.5  # fraction of the Gaussian blurs (BSRGAN 3.2)
NOISE_RATE = 0.6
GRAY_NOISE_RATE = 0.4  # fraction of the noise (Real-ESRGAN 4.1)
POISSON_RATE = 0.3  # fraction of the noise; Real-ESRGAN 4.1 has 0.5
JPEG_RATE = 0.85
CHROMA_420_RATE = 0.7  # fraction of the JPEGs with 4:2:0 chroma; the others have 4:4:4

# Ranges of uniform distributions, unless noted
HR_BLUR_SIGMA = (0.2, 2.8)  # px of HR (BSRGAN 3.2: up to 2.8 at scale 4)
MID_BLUR_SIGMA = (0.2, 1.2)  # px of the image between the two passes (Real-ESRGAN 4.1: up to 1.5)
SINC_CUTOFF = (np.pi / 3, np.pi)  # radians per px (Real-ESRGAN 4.1)
MID_SIDE = (0.8, 3.0)  # side of the image between the two passes, relative to LR's
RESIZE_MODES = {"area": cv2.INTER_AREA, "bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}
RESIZE_RATES = (0.5, 0.25, 0.25)  # OpenCV's last two alias when downsizing, as fast resizers do
NOISE_SIGMA = (0.5, 10.0)  # 8-bit values; Real-ESRGAN 4.1: 1 to 30
POISSON_PEAK = (300.0, 5000.0)  # photons at white, drawn log-uniformly: sigma there is 15 to 3.6
JPEG_QUALITY = (40, 95)  # Real-ESRGAN 4.1: 30 to 95

MARGIN_PX = 32  # HR px around a patch, so that blur, JPEG and resizing use its real neighbours
_KERNEL_RADIUS = 10  # Real-ESRGAN's largest kernel is 21 x 21
_JPEG_BLOCK = 8

Operation = tuple[str, dict]  # name and arguments


def sample_operations(rng: np.random.Generator) -> list[Operation]:
    """Draws the operations from HR to LR, in order. A resize gives its side relative to LR's."""
    kind = rng.random()
    if kind < BICUBIC_RATE:
        return [("matlab_bicubic", {})]
    if kind < BICUBIC_RATE + BICUBIC_JPEG_RATE:
        return [("matlab_bicubic", {}), _sample_jpeg(rng)]
    if rng.random() >= TWICE_RATE:
        return _sample_pass(rng, HR_BLUR_SIGMA, 1.0)
    first = _sample_pass(rng, HR_BLUR_SIGMA, rng.uniform(*MID_SIDE))
    return first + _sample_pass(rng, MID_BLUR_SIGMA, 1.0)


def _sample_pass(rng: np.random.Generator, sigmas: tuple[float, float], side: float) -> list[Operation]:
    operations = []
    if rng.random() < BLUR_RATE:
        if rng.random() < SINC_RATE:
            operations.append(("sinc", {"cutoff": rng.uniform(*SINC_CUTOFF)}))
        else:
            sigma_x = rng.uniform(*sigmas)
            sigma_y = rng.uniform(*sigmas) if rng.random() < ANISOTROPIC_RATE else sigma_x
            angle = rng.uniform(0, np.pi)
            operations.append(("gaussian", {"sigma_x": sigma_x, "sigma_y": sigma_y, "angle": angle}))
    operations.append(("resize", {"side": side, "mode": rng.choice(list(RESIZE_MODES), p=RESIZE_RATES)}))
    if rng.random() < NOISE_RATE:
        noise = {"gray": rng.random() < GRAY_NOISE_RATE, "seed": rng.integers(2**32)}
        if rng.random() < POISSON_RATE:
            operations.append(("poisson", {"peak": np.exp(rng.uniform(*np.log(POISSON_PEAK))), **noise}))
        else:
            operations.append(("noise", {"sigma": rng.uniform(*NOISE_SIGMA), **noise}))
    if rng.random() < JPEG_RATE:
        operations.append(_sample_jpeg(rng))
    return operations


def _sample_jpeg(rng: np.random.Generator) -> Operation:
    """Draws a JPEG operation; a random crop before encoding shifts the patch relative to JPEG's blocks."""
    top, left = rng.integers(_JPEG_BLOCK, size=2)
    quality = rng.integers(JPEG_QUALITY[0], JPEG_QUALITY[1] + 1)
    return "jpeg", {"quality": quality, "is_420": rng.random() < CHROMA_420_RATE, "top": top, "left": left}


def degrade(hr: np.ndarray, scale: int, rng: np.random.Generator) -> np.ndarray:
    """HR uint8 [h, w, 3], sides multiples of `scale` -> LR uint8 [h / scale, w / scale, 3], aligned."""
    assert hr.dtype == np.uint8 and not any(side % scale for side in hr.shape[:2]), (hr.dtype, hr.shape)
    return apply_operations(hr, scale, sample_operations(rng))


def apply_operations(hr: np.ndarray, scale: int, operations: list[Operation]) -> np.ndarray:
    """Applies `operations` to `hr`; types and shapes as in `degrade`."""
    lr_shape = np.array(hr.shape[:2]) // scale
    image = hr.astype(np.float32)  # 0 to 255 until the end
    for name, arguments in operations:
        if name == "matlab_bicubic":
            image = bicubic.downsample(hr, scale).astype(np.float32)
        elif name == "resize":
            image = _resize(image, lr_shape, **arguments)
        else:
            image = _OPERATIONS[name](image, **arguments)
    return _to_uint8(image)


def gaussian(image: np.ndarray, sigma_x: float, sigma_y: float, angle: float) -> np.ndarray:
    """Blurs with a Gaussian whose axes are rotated by `angle` radians; sigmas in px."""
    y, x = np.mgrid[-_KERNEL_RADIUS : _KERNEL_RADIUS + 1, -_KERNEL_RADIUS : _KERNEL_RADIUS + 1]
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return _filter(image, np.exp(-0.5 * ((along / sigma_x) ** 2 + (across / sigma_y) ** 2)))


def sinc(image: np.ndarray, cutoff: float) -> np.ndarray:
    """Applies an ideal circular low-pass filter, which rings like sharpening (Real-ESRGAN 3.4)."""
    y, x = np.mgrid[-_KERNEL_RADIUS : _KERNEL_RADIUS + 1, -_KERNEL_RADIUS : _KERNEL_RADIUS + 1]
    radius = np.hypot(x, y)
    radius[_KERNEL_RADIUS, _KERNEL_RADIUS] = 1.0
    kernel = cutoff * j1(cutoff * radius) / (2 * np.pi * radius)
    kernel[_KERNEL_RADIUS, _KERNEL_RADIUS] = cutoff**2 / (4 * np.pi)  # the limit at radius 0
    return _filter(image, kernel)


def noise(image: np.ndarray, sigma: float, gray: bool, seed: int) -> np.ndarray:
    """Adds Gaussian noise, the same in all channels if `gray`."""
    shape = (*image.shape[:2], 1) if gray else image.shape
    return image + sigma * np.random.default_rng(seed).standard_normal(shape, np.float32)


def poisson(image: np.ndarray, peak: float, gray: bool, seed: int) -> np.ndarray:
    """Adds shot noise of `peak` photons at white; if `gray`, that of the channels' mean to all channels."""
    source = image.mean(2, keepdims=True) if gray else image
    photons = np.clip(source, 0, 255) * (peak / 255)
    counts = np.random.default_rng(seed).poisson(photons)
    return image + ((counts - photons) * (255 / peak)).astype(np.float32)


def jpeg(image: np.ndarray, quality: int, is_420: bool, top: int, left: int) -> np.ndarray:
    """Encodes and decodes as JPEG, except for the rows above `top` and the columns before `left`."""
    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if is_420 else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    settings = [cv2.IMWRITE_JPEG_QUALITY, int(quality), cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    bgr = np.ascontiguousarray(_to_uint8(image)[top:, left:, ::-1])
    _, encoded = cv2.imencode(".jpg", bgr, settings)
    image = image.copy()
    image[top:, left:] = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]
    return image


_OPERATIONS = {"gaussian": gaussian, "sinc": sinc, "noise": noise, "poisson": poisson, "jpeg": jpeg}


def _resize(image: np.ndarray, lr_shape: np.ndarray, side: float, mode: str) -> np.ndarray:
    h, w = np.rint(lr_shape * side).astype(int).tolist()
    return cv2.resize(image, (w, h), interpolation=RESIZE_MODES[mode])


def _filter(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    kernel = (kernel / kernel.sum()).astype(np.float32)
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101)


def _to_uint8(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)
