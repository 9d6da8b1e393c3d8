"""Your own images in, enlarged images out: files and folders of any size, through any upscaler."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from common.errors import UserError
from common.files import require_writable
from common.machine import memory_limit
from images.files import WRITE_SUFFIXES, Picture, Source, check_fits, write_picture, write_rgb
from images.pixels import resize, side_by_side, to_rgb8
from upscaling.jobs import Job, add_notes, notes_of, part_of, pixels_in, plan_outputs

log = logging.getLogger("srgan")

COMPARED_PX = 1024  # at most, of each side of a comparison
MAX_NAME_BYTES = 255
# RGB of 16 bits, held twice while the next image is computed; half of it for 8 bits
BYTES_PER_RESULT_PX = 12

Upscale = Callable[[np.ndarray, Callable[[float], None]], np.ndarray]


def upscale_files(
    upscale: Upscale,
    inputs: Sequence[str],
    output: str | os.PathLike,
    *,
    format: str | None = None,
    overwrite: bool = False,
    outscale: float = 4.0,
    scale: int = 4,
    made_with: str = "",
    shard: tuple[int, int] = (1, 1),
    compare: bool = False,
    suggest_photo: bool = False,
) -> int:
    """Upscales files and folders to `output`, a folder or the file for one image; 0, or 1 if some failed.

    `upscale(pixels, progress)` takes uint8 or uint16 [h, w, 3] to the same type, [scale * h, scale * w, 3],
    and tells `progress` the fraction that is done. Whatever goes wrong with an image is that image's failure.

    Results that exist are left unless `overwrite`; those that this program made from a source that has
    changed since are made again, and UserError is raised if some were not `made_with` the same weights.
    shard: (i, n) does the i-th of n parts. compare: also writes bicubic and result side by side.
    suggest_photo: says once that there are weights for JPEG, if some images are.
    """
    jobs = plan_outputs(inputs, output, format=format, outscale=outscale, compare=compare)
    for folder in {job.target.parent for job in jobs}:
        require_writable(folder, "--output")
    jobs = part_of(jobs, *shard)
    if suggest_photo and any(WRITE_SUFFIXES.get(job.source.suffix.lower()) == "JPEG" for job in jobs):
        log.info("Some of these images are JPEG: --weights photo removes its artefacts as well")
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
    failures = _run(upscale, todo, outscale, scale, made_with, overwrite)

    summary = [f"{len(todo) - len(failures)} of {len(jobs)} images upscaled to {output}"]
    if changed:
        summary.append(f"{changed} of them again, as their sources have changed")
    if len(todo) < len(jobs):
        summary.append(f"{len(jobs) - len(todo)} already there (--overwrite makes them again)")
    if failures:
        summary.append(f"{len(failures)} failed:")
    with suppress(BrokenPipeError):  # nobody reads it any more, and the results are there
        print(", ".join(summary), flush=True)
    for sentence in failures:
        print(f"  {sentence}", file=sys.stderr)
    return 1 if failures else 0


def _run(
    upscale: Upscale, jobs: list[Job], outscale: float, scale: int, made_with: str, overwrite: bool
) -> list[str]:
    """Reads the next image and writes the last one while one is computed; returns failures.

    At most three images are in memory. When an exception passes, the image that is being written is finished,
    since its computing was the expensive part, and nothing more is begun.
    """
    sizes = [pixels_in(job.source) for job in jobs]
    shows_bar = sys.stderr.isatty()
    failures: list[str] = []
    written: Future | None = None
    last = None  # whose image that is
    reader, writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    with (
        logging_redirect_tqdm() if shows_bar else nullcontext(),
        tqdm(total=sum(sizes), unit="px", unit_scale=True, smoothing=0, disable=not shows_bar) as bar,
    ):
        try:
            for index, (job, read) in enumerate(_read_ahead(reader, jobs, outscale, scale, overwrite)):
                bar.set_postfix_str(job.source.name)
                show = partial(_show, bar, bar.n, sizes[index])
                if not shows_bar:
                    print(f"[{index + 1}/{len(jobs)}] {job.source}", file=sys.stderr, flush=True)
                try:
                    picture, state = read.result()
                    sr = _upscale(upscale, picture, job, scale, show)
                except Exception as error:
                    failures.append(_sentence(error, job))
                else:
                    failures += _failure_of(written, last)
                    written = writer.submit(_write, job, picture, sr, outscale, made_with, state)
                    last = job
                    del picture, sr  # or they would last until the next ones are there
                show(1.0)
            failures += _failure_of(written, last)
        finally:
            reader.shutdown(cancel_futures=True)
            writer.shutdown()
    return failures


def upscale_image(upscale: Upscale, job: Job, outscale: float, scale: int = 4) -> None:
    """One image file; UserError if it cannot be done."""
    picture, state = _read(job, outscale, scale)
    _write(job, picture, _upscale(upscale, picture, job, scale, lambda fraction: None), outscale, "", state)


def _show(bar: tqdm, start: int, pixels: int, fraction: float) -> None:
    """Moves the bar to an image's start and the fraction of its pixels that is done."""
    bar.update(start + round(fraction * pixels) - bar.n)


def _read_ahead(
    reader: ThreadPoolExecutor, jobs: list[Job], outscale: float, scale: int, overwrite: bool
) -> Iterator[tuple[Job, Future]]:
    ahead = [reader.submit(_read, job, outscale, scale, overwrite) for job in jobs[:1]]
    for job, following in zip(jobs, [*jobs[1:], None], strict=False):
        current = ahead.pop()
        wait([current])
        if following is not None:
            ahead.append(reader.submit(_read, following, outscale, scale, overwrite))
        yield job, current


def _read(job: Job, outscale: float, scale: int, overwrite: bool = True) -> tuple[Picture, list[int]]:
    """The image and its file's state; its result is known to fit its format and the memory."""
    source = Source(job.source)
    final = final_size(source.height, source.width, outscale)
    check_fits(job.target, *final)
    for file in filter(None, (job.target, job.sheet)):
        if len(os.fsencode(file.name)) > MAX_NAME_BYTES:
            raise UserError(f"cannot upscale {job.source}: the name of its result, {file.name}, is too long")
    if (
        job.sheet
        and job.sheet.exists()
        and not overwrite
        and job.sheet.name not in notes_of(job.sheet.parent)
    ):
        raise UserError(f"cannot upscale {job.source}: {job.sheet} exists; --overwrite replaces it")
    largest = max(math.prod(final), scale**2 * source.height * source.width)
    needed = BYTES_PER_RESULT_PX * largest
    if needed > memory_limit():
        raise UserError(
            f"cannot upscale {job.source}: {source.width} x {source.height} px become "
            f"{final[1]} x {final[0]}, which takes about {needed / 1e9:.0f} GB of memory, "
            f"and there are {memory_limit() / 1e9:.0f}"
        )
    state = job.source_state()  # before it is read: what changes in between is made again
    return source.read(), state


def _upscale(upscale: Upscale, picture: Picture, job: Job, scale: int, progress: Callable) -> np.ndarray:
    try:
        sr = upscale(_network_input(picture), progress)
    except UserError as error:
        raise UserError(f"cannot upscale {job.source}: {error}") from error
    height, width = picture.pixels.shape[:2]
    assert sr.shape == (height * scale, width * scale, 3), sr.shape
    assert sr.dtype == picture.pixels.dtype, sr.dtype
    return sr


def _network_input(picture: Picture) -> np.ndarray:
    """[h, w, 3]; what is wholly transparent takes the colour of the nearest visible pixel.

    Such pixels hold any colour, often black, which the network would spread into their neighbours.
    """
    pixels = picture.pixels
    if picture.alpha is not None:
        hidden = picture.alpha == 0
        if hidden.any() and not hidden.all():
            from scipy import ndimage  # here, as it takes a fifth of a second to import

            rows, columns = ndimage.distance_transform_edt(
                hidden, return_distances=False, return_indices=True
            )
            pixels = pixels[rows, columns]
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def _write(
    job: Job, picture: Picture, sr: np.ndarray, outscale: float, made_with: str, state: list[int]
) -> None:
    height, width = final_size(*picture.pixels.shape[:2], outscale)
    try:
        if picture.pixels.ndim == 2:
            # Of three whole numbers the mean is never halfway between two.
            sr = ((sr.sum(axis=2, dtype=np.uint32) + 1) // 3).astype(sr.dtype)
        sr = resize(sr, height, width, Image.Resampling.LANCZOS)
        alpha = picture.alpha
        if alpha is not None:
            # Bicubic overshoots a step outwards only, where it is clipped: what is opaque stays opaque.
            # Lanczos rings inwards as well, and a network might.
            alpha = resize(alpha, height, width, Image.Resampling.BICUBIC)
        if job.sheet:  # first: where the result is, the image is done
            write_rgb(job.sheet, _comparison(picture.pixels, sr))
        write_picture(job.target, replace(picture, pixels=sr, alpha=alpha))
        add_notes(job, made_with, state)
    except MemoryError:
        raise UserError(f"cannot write {job.target}: there is not enough memory") from None


def _comparison(pixels: np.ndarray, sr: np.ndarray) -> np.ndarray:
    """Bicubic | result, of the middle of a large image."""
    cubic = resize(pixels, *sr.shape[:2], Image.Resampling.BICUBIC)
    top, left = (max(0, (side - COMPARED_PX) // 2) for side in sr.shape[:2])
    halves = [to_rgb8(image[top : top + COMPARED_PX, left : left + COMPARED_PX]) for image in (cubic, sr)]
    return side_by_side(halves, ["bicubic", "result"])


def _failure_of(written: Future | None, job: Job | None) -> list[str]:
    """Waits for an image to be written."""
    try:
        if written is not None:
            written.result()
    except Exception as error:
        return [_sentence(error, job)]
    return []


def _sentence(error: Exception, job: Job) -> str:
    """One line for an image's failure, of whatever kind."""
    if isinstance(error, UserError):
        return str(error)
    reason = str(error).splitlines()[0] if str(error) else ""
    return f"cannot upscale {job.source}: {type(error).__name__} {reason}".rstrip()


def final_size(height: int, width: int, outscale: float) -> tuple[int, int]:
    return max(1, round(height * outscale)), max(1, round(width * outscale))
