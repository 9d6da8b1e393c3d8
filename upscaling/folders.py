"""Own pictures in, own pictures out: files and folders of any size, through any upscaler."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from common.errors import UserError
from common.files import require_writable
from images.files import (
    FORMAT_OF_SUFFIX,
    Picture,
    check_fits,
    list_pictures,
    read_picture,
    size_of,
    write_picture,
)

_OUTPUT_STEM = re.compile(r"(.+)_x\d+(\.\d+)?")

Upscale = Callable[[np.ndarray, Callable[[float], None]], np.ndarray]


@dataclass(frozen=True)
class Job:
    """One picture file and the file its upscaled picture goes to."""

    source: Path
    target: Path


def upscale_files(
    upscale: Upscale,
    inputs: Sequence[str],
    output_dir: str | os.PathLike,
    *,
    format: str | None = None,
    overwrite: bool = False,
    outscale: float = 4.0,
    scale: int = 4,
) -> int:
    """Upscales files and folders into `output_dir`; 0, or 1 if some pictures failed.

    `upscale(pixels, progress)` takes uint8 or uint16 [h, w, 3] to the same type, [scale * h,
    scale * w, 3], and tells `progress` the share that is done. A UserError of it is that picture's
    failure. Results that exist are left unless `overwrite`.
    """
    jobs = plan_outputs(inputs, output_dir, format=format, outscale=outscale)
    require_writable(output_dir, "--output")
    todo = [job for job in jobs if overwrite or not job.target.exists()]
    failures = _run(upscale, todo, outscale, scale)

    summary = [f"{len(todo) - len(failures)} of {len(jobs)} pictures upscaled to {output_dir}"]
    if len(todo) < len(jobs):
        summary.append(f"{len(jobs) - len(todo)} already done (--overwrite makes them again)")
    if failures:
        summary.append(f"{len(failures)} failed:")
    print(", ".join(summary), flush=True)
    for sentence in failures:
        print(f"  {sentence}", file=sys.stderr)
    return 1 if failures else 0


def plan_outputs(
    inputs: Sequence[str],
    output_dir: str | os.PathLike,
    *,
    format: str | None = None,
    outscale: float = 4.0,
) -> list[Job]:
    """One job for each picture, in order; UserError for whatever can be refused beforehand."""
    output_dir = Path(output_dir)

    jobs: dict[Path, Job] = {}  # by the real source, so that a picture named twice is done once
    source_of: dict[Path, Path] = {}
    for name in inputs:
        given = Path(name)
        if not os.path.exists(name):
            raise UserError(f"--input: there is no file or folder {name!r}.")
        folder = given if given.is_dir() else given.parent
        for source in _pictures_in(given, output_dir) if given.is_dir() else [given]:
            if source.resolve() in jobs:
                continue
            file_name = _output_name(source, format, outscale)
            target = output_dir / source.relative_to(folder).parent / file_name
            other = source_of.setdefault(target, source)
            if other is not source:
                raise UserError(
                    f"--input: {str(other)!r} and {str(source)!r} would both become "
                    f"{str(target)!r}; rename one or give them outputs of their own."
                )
            jobs[source.resolve()] = Job(source, target)
    for job in jobs.values():
        if job.target.resolve() in jobs:
            raise UserError(
                f"--output: the result of {str(job.source)!r} would overwrite the input "
                f"{str(job.target)!r}; name another folder."
            )
    return list(jobs.values())


def resize(pixels: np.ndarray, height: int, width: int, method: Image.Resampling) -> np.ndarray:
    """uint8 or uint16 [h, w] or [h, w, 3] -> the same type, [height, width] or with 3 channels."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(pixels).resize((width, height), method))
    resized = np.empty((height, width, *pixels.shape[2:]), np.uint16)
    for channel in np.ndindex(pixels.shape[2:]):  # Pillow resizes deep samples as floats only
        plane = Image.fromarray(pixels[(..., *channel)].astype(np.float32))
        plane = np.asarray(plane.resize((width, height), method))
        resized[(..., *channel)] = np.rint(plane.clip(0, 65535))
    return resized


def _pictures_in(folder: Path, output_dir: Path) -> list[Path]:
    """The folder's pictures, recursively, without the results of earlier runs."""
    real_folder, real_output = folder.resolve(), output_dir.resolve()
    if real_folder != real_output:
        return list_pictures(folder, "--input", skip=[real_output])
    found = list_pictures(folder, "--input")
    stems: dict[Path, set[str]] = {}
    for path in found:
        stems.setdefault(path.parent, set()).add(path.stem)
    return [path for path in found if not _is_result(path.stem, stems[path.parent])]


def _is_result(stem: str, stems: set[str]) -> bool:
    match = _OUTPUT_STEM.fullmatch(stem)
    return bool(match) and match[1] in stems


def _output_name(source: Path, format: str | None, outscale: float) -> str:
    suffix = source.suffix if source.suffix.lower() in FORMAT_OF_SUFFIX else ".png"
    if format is not None:
        suffix = f".{format.lower()}"
    return f"{source.stem}_x{outscale:g}{suffix}"


def _run(upscale: Upscale, jobs: list[Job], outscale: float, scale: int) -> list[str]:
    """Reads the next picture and writes the last one while one is computed; returns failures.

    At most three pictures are in memory. When an exception passes, the picture that is being
    written is finished, since its computing was the expensive part, and nothing more is begun.
    """
    sizes = [_pixels_in(job.source) for job in jobs]
    shows_bar = sys.stderr.isatty()
    failures: list[str] = []
    written: Future | None = None
    reader, writer = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
    with (
        logging_redirect_tqdm() if shows_bar else nullcontext(),
        tqdm(total=sum(sizes), unit="px", unit_scale=True, smoothing=0, disable=not shows_bar) as bar,
    ):
        try:
            for index, (job, read) in enumerate(_read_ahead(reader, jobs, outscale)):
                bar.set_postfix_str(job.source.name)
                show = partial(_show, bar, bar.n, sizes[index])
                if not shows_bar:
                    print(f"[{index + 1}/{len(jobs)}] {job.source}", file=sys.stderr, flush=True)
                try:
                    picture = read.result()
                    sr = _upscale(upscale, picture, job, scale, show)
                except UserError as error:
                    failures.append(str(error))
                else:
                    failures += _failure_of(written)
                    written = writer.submit(_write, job, picture, sr, outscale)
                    del picture, sr  # or they would last until the next ones are there
                show(1.0)
            failures += _failure_of(written)
        finally:
            reader.shutdown(cancel_futures=True)
            writer.shutdown()
    return failures


def _show(bar: tqdm, start: int, pixels: int, share: float) -> None:
    """Moves the bar to a picture's start and the share of its pixels that is done."""
    bar.update(start + round(share * pixels) - bar.n)


def _read_ahead(reader: ThreadPoolExecutor, jobs: list[Job], outscale: float) -> Iterator[tuple[Job, Future]]:
    ahead = [reader.submit(_read, job, outscale) for job in jobs[:1]]
    for job, following in zip(jobs, [*jobs[1:], None], strict=False):
        current = ahead.pop()
        wait([current])
        if following is not None:
            ahead.append(reader.submit(_read, following, outscale))
        yield job, current


def _read(job: Job, outscale: float) -> Picture:
    picture = read_picture(job.source)
    check_fits(job.target, *_final_size(picture, outscale))  # before an hour's work on it
    return picture


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
            rows, columns = ndimage.distance_transform_edt(
                hidden, return_distances=False, return_indices=True
            )
            pixels = pixels[rows, columns]
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def _write(job: Job, picture: Picture, sr: np.ndarray, outscale: float) -> None:
    height, width = _final_size(picture, outscale)
    try:
        if picture.pixels.ndim == 2:
            # Of three whole numbers the mean is never halfway between two.
            sr = ((sr.sum(axis=2, dtype=np.uint32) + 1) // 3).astype(sr.dtype)
        sr = resize(sr, height, width, Image.Resampling.LANCZOS)
        alpha = picture.alpha
        if alpha is not None:
            # Bicubic overshoots a step outwards only, where it is clipped: what is opaque stays
            # opaque. Lanczos rings inwards as well, and a network might.
            alpha = resize(alpha, height, width, Image.Resampling.BICUBIC)
        write_picture(job.target, replace(picture, pixels=sr, alpha=alpha))
    except MemoryError:
        raise UserError(f"cannot write {job.target}: there is not enough memory") from None


def _failure_of(written: Future | None) -> list[str]:
    """Waits for a picture to be written."""
    try:
        if written is not None:
            written.result()
    except UserError as error:
        return [str(error)]
    return []


def _final_size(picture: Picture, outscale: float) -> tuple[int, int]:
    height, width = picture.pixels.shape[:2]
    return max(1, round(height * outscale)), max(1, round(width * outscale))


def _pixels_in(path: Path) -> int:
    try:
        height, width = size_of(path)
    except UserError:  # reported when its turn comes
        return 0
    return height * width
