"""What the generator makes in mid-training: sample sheets, and the validation picture's PSNR."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from images import bicubic, metrics
from images.bicubic import SCALE
from images.files import write_rgb
from images.pixels import enlarge, side_by_side
from tf1 import checkpoints
from training.schedule import PRETRAIN

log = logging.getLogger("srgan")

SAMPLE_PATCHES = 4
MOST_VALID_SIDE = 1024  # px of HR: the picture is fed whole, and takes about 1 kB a pixel


def within_memory(hr: np.ndarray, lr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The validation pair, or the middle of it."""
    side = MOST_VALID_SIDE // SCALE
    if max(lr.shape[:2]) <= side:
        return hr, lr
    top, left = (max(0, (length - side) // 2) for length in lr.shape[:2])
    log.info("Of the validation picture, training looks at the middle %d px only", MOST_VALID_SIDE)
    lr = lr[top : top + side, left : left + side]
    hr = hr[SCALE * top :, SCALE * left :][: SCALE * lr.shape[0], : SCALE * lr.shape[1]]
    return hr, lr


class Sampler:
    """Looks at the generator of a session by the same pictures each time."""

    def __init__(self, graph, session, dataset, valid: tuple[np.ndarray, np.ndarray], samples_dir: Path):
        self.graph, self.session, self.dataset = graph, session, dataset
        self.valid_hr, self.valid_lr = valid
        self.samples_dir = samples_dir

    def sample(self, phase: str, epoch: int, weights: dict[str, np.ndarray]) -> float:
        """Writes LR | bicubic | SR | HR of fixed patches, made with `weights`; returns the PSNR, dB."""
        kept = checkpoints.fetch(self.session, self.graph.g_params)
        checkpoints.assign(self.session, self.graph.g_params, weights, "the moving average")
        try:
            lr, hr = self.dataset.fixed_patches(SAMPLE_PATCHES)
            sr, valid_sr = self.upscale(lr), self.upscale(self.valid_lr[None])[0]
        finally:
            checkpoints.assign(self.session, self.graph.g_params, kept, "the weights in training")
        folder = self.samples_dir / ("srgan_ginit" if phase == PRETRAIN else "srgan_gan")
        # named after the note's patch sizes, whatever the recipe's
        write_rgb(folder / "_train_sample_96.png", np.hstack(lr))
        write_rgb(folder / "_train_sample_384.png", np.hstack(hr))
        columns = [
            np.vstack([enlarge(low, SCALE) for low in lr]),
            np.vstack([bicubic.upsample(low) for low in lr]),
            np.vstack(sr),
            np.vstack(hr),
        ]
        sheet = side_by_side(columns, ["LR", "bicubic", "SRResNet" if phase == PRETRAIN else "SRGAN", "HR"])
        write_rgb(folder / f"train_{epoch}.png", sheet)
        return metrics.psnr_y(valid_sr, self.valid_hr)

    def upscale(self, images: np.ndarray) -> np.ndarray:
        """uint8 LR [N, h, w, 3] -> SR by the generator as it is now, in inference mode."""
        # Two pictures at least: for one, oneDNN without AVX-512 falls to a kernel ten times as slow.
        batch = images if len(images) > 1 else np.repeat(images, 2, axis=0)
        return self.session.run(self.graph.output_image, {self.graph.input_image: batch})[: len(images)]
