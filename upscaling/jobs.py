"""Which picture goes to which file."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common.errors import UserError
from images.files import FORMAT_OF_SUFFIX, size_of
from images.listing import list_pictures

log = logging.getLogger("srgan")

_OUTPUT_STEM = re.compile(r"(.+?)_x\d+(\.\d+)?(_compare)?")


@dataclass(frozen=True)
class Job:
    """One picture file and the file its upscaled picture goes to."""

    source: Path
    target: Path


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
            name_of = partial(_output_name, source, format, outscale)
            target = output_dir / source.relative_to(folder).parent / name_of()
            twin = source_of.get(target)
            if twin is not None and twin.parent == source.parent and twin.suffix != source.suffix:
                target = target.with_name(name_of(with_suffix=True))
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


def part_of(jobs: list[Job], part: int, parts: int) -> list[Job]:
    """The jobs of one of `parts` machines, from 1 on: a function of the list alone, balanced by pixels."""
    if parts == 1:
        return jobs
    loads = [0] * parts
    mine = set()
    sizes = [pixels_in(job.source) for job in jobs]
    for index in sorted(range(len(jobs)), key=lambda index: (-sizes[index], index)):  # large ones first
        lightest = loads.index(min(loads))
        loads[lightest] += sizes[index]
        if lightest == part - 1:
            mine.add(index)
    return [job for index, job in enumerate(jobs) if index in mine]


def pixels_in(path: Path) -> int:
    try:
        height, width = size_of(path)
    except UserError:  # reported when its turn comes
        return 0
    return height * width


def _pictures_in(folder: Path, output_dir: Path) -> list[Path]:
    """The folder's pictures, recursively, without the results of earlier runs."""
    real_folder, real_output = folder.resolve(), output_dir.resolve()
    if real_folder != real_output:
        return list_pictures(folder, "--input", skip=[real_output])
    found = list_pictures(folder, "--input")
    stems: dict[Path, set[str]] = {}
    for path in found:
        stems.setdefault(path.parent, set()).update((path.stem, path.name))
    sources = [path for path in found if not _is_result(path.stem, stems[path.parent])]
    if len(sources) < len(found):
        left_out = len(found) - len(sources)
        log.info("%d pictures in %s are results of an earlier run: left out", left_out, folder)
    return sources


def _is_result(stem: str, stems: set[str]) -> bool:
    match = _OUTPUT_STEM.fullmatch(stem)
    return bool(match) and match[1] in stems


def _output_name(source: Path, format: str | None, outscale: float, *, with_suffix: bool = False) -> str:
    """photo.gif becomes photo_x4.png, or photo.gif_x4.png where that is the result of photo.png."""
    suffix = source.suffix if source.suffix.lower() in FORMAT_OF_SUFFIX else ".png"
    if format is not None:
        suffix = f".{format.lower()}"
    return f"{source.name if with_suffix else source.stem}_x{outscale:g}{suffix}"
