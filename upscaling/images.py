"""Image files and folders of any size in, enlarged images out, through any upscaler."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from PIL import Image
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from common.errors import UserError
from common.files import require_writable
from common.machine import memory_limit
from images.files import WRITE_SUFFIXES, ImageData, Source, check_fits, write_image, write_rgb
from images.pixels import resize, side_by_side, to_rgb8
from upscaling.jobs import Job, add_notes, notes_of, part_of, plan_outputs

log = logging.getLogger("srgan")

COMPARED_PX = 1024  # largest side of each half of a comparison
MAX_NAME_BYTES = 255
# 16-bit RGB, held twice while the next image is computed; 8 bits take half of it
BYTES_PER_RESULT_PX = 12

Upscale = Callable[[np.ndarray, Callable[[float], None]], np.ndarray]


def upscale_files(
    upscaling: AbstractContextManager[Upscale],
    inputs: Sequence[str],
    output: str | os.PathLike,
    *,
    scale: int,
    outscale: float | None = None,
    format: str | None = None,
    overwrite: bool = False,
    made_with: str = "",
    shard: tuple[int, int] = (1, 1),
    compare: bool = False,
    suggest_photo: bool = False,
) -> int:
    """Upscale files and folders to `output`, a folder or the file for one image; 0, or 1 if some failed.

    `upscaling` is entered when there is something to do. It gives `upscale(pixels, progress)`, which maps
    uint8 or uint16 [h, w, 3] to the same type, [scale * h, scale * w, 3], and calls `progress` with the
    fraction that is done. An error in one image does not stop the others.

    Existing results are left unless `overwrite`, but made again if their source has changed since; UserError
    if some were not `made_with` the same weights. outscale: the final factor; None: the scale. shard: (i, n)
    does the i-th of n parts. compare: also writes bicubic and result side by side. suggest_photo: mentions
    the weights for JPEG if some images are.
    """
    outscale = outscale or scale
    jobs = plan_outputs(inputs, output, format=format, outscale=outscale, compare=compare)
    for folder in {job.target.parent for job in jobs}:
        require_writable(folder, "--output")
    jobs = part_of(jobs, *shard)
    if suggest_photo and any(WRITE_SUFFIXES.get(job.source.suffix.lower()) == "JPEG" for job in jobs):
        log.info("Some of these images are JPEG: --weights photo removes its artefacts too")
    todo, changed, others = [], 0, []
    for job in jobs:
        note = notes_of(job.target.parent).get(job.target.name)
        if overwrite or not os.path.exists(job.target):
            todo.append(job)
        elif note and note["made_with"] != made_with:
            others.append(job)
        elif note and note["source"] != job.source_state():
            todo.append(job)
            changed += 1
    if others:
        raise UserError(
            f"--output: {len(others)} results such as {str(others[0].target)!r} were made with other weights "
            "or options: --overwrite makes them again, or name another folder"
        )
    failures = {}
    if todo:
        with upscaling as upscale:
            failures = _Run(upscale, outscale, scale, made_with, overwrite).do(todo)

    summary = [f"{len(todo) - len(failures)} of {len(jobs)} images upscaled to {output}"]
    if changed:
        summary.append(f"{changed} of them again, as their sources have changed")
    if len(todo) < len(jobs):
        summary.append(f"{len(jobs) - len(todo)} already there (--overwrite makes them again)")
    if failures:
        summary.append(f"{len(failures)} failed:")
    with suppress(BrokenPipeError):  # the results are there, though nobody reads this
        print(", ".join(summary), flush=True)
    for job in filter(failures.get, todo):
        print(f"  {failures[job]}", file=sys.stderr)
    return 1 if failures else 0


def upscale_image(upscale: Upscale, job: Job, outscale: float, scale: int) -> None:
    """Upscale one image file; UserError if it cannot be done."""
    run = _Run(upscale, outscale, scale, made_with="", overwrite=True)
    image, state = run.read(job)
    run.write(job, run.upscaled(job, image, lambda fraction: None), image, state)


@dataclass
class _Run:
    upscale: Upscale
    outscale: float
    scale: int
    made_with: str
    overwrite: bool

    def do(self, jobs: list[Job]) -> dict[Job, str]:
        """Read the next image and write the last one while one is computed; returns failures by job.

        At most three images are in memory. When interrupted, the image that is being written is finished,
        since computing it was the expensive part, and no other is begun.
        """
        failures = {}

        def attempt(step: Callable, job: Job, *args):
            """The step's result, or None if it failed."""
            try:
                return step(job, *args)
            except UserError as error:
                failures[job] = str(error)
            except Exception as error:
                reason = str(error).splitlines()[0] if str(error) else ""
                failures[job] = f"cannot upscale {job.source}: {type(error).__name__} {reason}".rstrip()

        def show(fraction: float) -> None:
            bar.update(number - 1 + fraction - bar.n)

        shows_bar = sys.stderr.isatty()
        with (
            logging_redirect_tqdm() if shows_bar else nullcontext(),
            tqdm(total=len(jobs), unit="image", unit_scale=True, smoothing=0, disable=not shows_bar) as bar,
            ThreadPoolExecutor(1) as reader,
            ThreadPoolExecutor(1) as writer,
        ):
            reading = jobs and reader.submit(attempt, self.read, jobs[0])
            writing = None
            for number, (job, following) in enumerate(pairwise([*jobs, None]), 1):
                read = reading.result()
                if following:
                    reading = reader.submit(attempt, self.read, following)
                bar.set_postfix_str(job.source.name)
                if not shows_bar:
                    print(f"[{number}/{len(jobs)}] {job.source}", file=sys.stderr, flush=True)
                sr = attempt(self.upscaled, job, read[0], show) if read else None
                if sr is not None:
                    if writing:
                        writing.result()
                    writing = writer.submit(attempt, self.write, job, sr, *read)
                del read, sr  # or they would be held until the next ones are there
                show(1.0)
        return failures

    def read(self, job: Job) -> tuple[ImageData, list[int]]:
        """The image and its file's state; UserError if its result cannot be written or held in memory."""
        source = Source(job.source)
        height, width = self._final_size(source.height, source.width)
        check_fits(job.target, height, width)
        for file in job.outputs:
            if len(os.fsencode(file.name)) > MAX_NAME_BYTES:
                raise UserError(
                    f"cannot upscale {job.source}: the name of its result, {file.name}, is too long"
                )
        sheet = job.sheet if not self.overwrite else None
        if sheet and sheet.exists() and sheet.name not in notes_of(sheet.parent):
            raise UserError(f"cannot upscale {job.source}: {sheet} exists; --overwrite replaces it")
        needed = BYTES_PER_RESULT_PX * max(height * width, self.scale**2 * source.height * source.width)
        if needed > memory_limit():
            raise UserError(
                f"cannot upscale {job.source}: {source.width} x {source.height} px become "
                f"{width} x {height}, which takes about {needed / 1e9:.0f} GB of memory, "
                f"and there are {memory_limit() / 1e9:.0f}"
            )
        state = job.source_state()  # before decoding: a change during it is noticed by the next run
        return source.read(), state

    def upscaled(self, job: Job, image: ImageData, progress: Callable[[float], None]) -> np.ndarray:
        """The network's RGB [scale * h, scale * w, 3], of the image's type."""
        try:
            sr = self.upscale(_network_input(image), progress)
        except UserError as error:
            raise UserError(f"cannot upscale {job.source}: {error}") from error
        height, width = image.pixels.shape[:2]
        assert sr.shape == (height * self.scale, width * self.scale, 3), sr.shape
        assert sr.dtype == image.pixels.dtype, sr.dtype
        return sr

    def write(self, job: Job, sr: np.ndarray, image: ImageData, state: list[int]) -> None:
        size = self._final_size(*image.pixels.shape[:2])
        try:
            if image.pixels.ndim == 2:
                # The mean of three integers is never halfway between two.
                sr = ((sr.sum(axis=2, dtype=np.uint32) + 1) // 3).astype(sr.dtype)
            sr = resize(sr, *size, Image.Resampling.LANCZOS)
            alpha = image.alpha
            if alpha is not None:
                # Bicubic overshoots a step outwards only, where it is clipped: opaque pixels stay opaque.
                # Lanczos rings inwards as well, and a network might.
                alpha = resize(alpha, *size, Image.Resampling.BICUBIC)
            if job.sheet:  # written first, because an existing result marks the image as done
                write_rgb(job.sheet, _comparison(image.pixels, sr))
            write_image(job.target, replace(image, pixels=sr, alpha=alpha))
            add_notes(job, self.made_with, state)
        except MemoryError:
            raise UserError(f"cannot write {job.target}: there is not enough memory") from None

    def _final_size(self, height: int, width: int) -> tuple[int, int]:
        return max(1, round(height * self.outscale)), max(1, round(width * self.outscale))


def _network_input(image: ImageData) -> np.ndarray:
    """[h, w, 3]; fully transparent pixels take the colour of the nearest visible one.

    They may hold any colour, often black, which the network would spread into their neighbours.
    """
    pixels = image.pixels
    if image.alpha is not None and (image.alpha > 0).any():
        from scipy import ndimage  # here, as it takes a fifth of a second to import

        hidden = image.alpha == 0
        nearest = ndimage.distance_transform_edt(hidden, return_distances=False, return_indices=True)
        pixels = pixels[tuple(nearest)]
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def _comparison(pixels: np.ndarray, sr: np.ndarray) -> np.ndarray:
    """Bicubic | result, of the middle of a large image."""
    cubic = resize(pixels, *sr.shape[:2], Image.Resampling.BICUBIC)
    top, left = (max(0, (side - COMPARED_PX) // 2) for side in sr.shape[:2])
    halves = [to_rgb8(image[top : top + COMPARED_PX, left : left + COMPARED_PX]) for image in (cubic, sr)]
    return side_by_side(halves, ["bicubic", "result"])
