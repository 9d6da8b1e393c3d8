"""Plans output files, and keeps notes of which weights and sources made the results in a folder."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from common.errors import UserError
from images.files import WRITE_SUFFIXES, Source
from images.listing import list_images

log = logging.getLogger("srgan")

NOTES_FILE = ".srgan_results.jsonl"


@dataclass(frozen=True)
class Job:
    """An image file, its result file and, optionally, its comparison file."""

    source: Path
    target: Path
    sheet: Path | None = None

    @property
    def outputs(self) -> list[Path]:
        return [file for file in (self.target, self.sheet) if file]

    def source_state(self) -> list[int]:
        """Returns the source's size in bytes and its modification time in ns."""
        stat = self.source.stat()
        return [stat.st_size, stat.st_mtime_ns]


def plan_outputs(
    inputs: Sequence[str],
    output: str | os.PathLike,
    *,
    outscale: float,
    format: str | None = None,
    compare: bool = False,
) -> list[Job]:
    """Returns one job per image, in order; raises UserError for mistakes found before any work.

    The result of photo.jpg is photo_x4.jpg, or photo.jpg_x4.png if the suffix changes: the name does not
    depend on other inputs.
    """
    notes_of.cache_clear()
    output = Path(output)
    jobs: dict[Path, Job] = {}  # by resolved source, so that an image named twice is upscaled once
    is_file = output.suffix.lower() in WRITE_SUFFIXES and not output.is_dir()
    if is_file and (len(inputs) > 1 or Path(inputs[0]).is_dir()):
        raise UserError(f"--output: {str(output)!r} is a file name; name a folder for several images")
    if is_file and format and WRITE_SUFFIXES[f".{format}"] != WRITE_SUFFIXES[output.suffix.lower()]:
        raise UserError(f"--output: {str(output)!r} is not a {format} file; change one, or omit --format")
    for given in map(Path, inputs):
        if not os.path.exists(given):
            raise UserError(f"--input: there is no file or folder {str(given)!r}")
        folder = given if given.is_dir() else given.parent
        for source in _images_in(given, output) if given.is_dir() else [given]:
            name = source.relative_to(folder).with_name(_output_name(source, format, outscale))
            target = output if is_file else output / name
            sheet = target.with_name(f"{target.name}_compare.png") if compare else None
            jobs.setdefault(source.resolve(), Job(source, target, sheet))
    owners: dict[Path, Job] = {}
    for job in jobs.values():
        for file in job.outputs:
            if (owner := owners.setdefault(file, job)) is not job:
                raise UserError(
                    f"--input: {str(owner.source)!r} and {str(job.source)!r} would both become "
                    f"{str(file)!r}; rename one or give them separate outputs"
                )
            if file.resolve() in jobs:
                raise UserError(
                    f"--output: the result of {str(job.source)!r} would overwrite the input "
                    f"{str(file)!r}; name another folder"
                )
    return list(jobs.values())


def _output_name(source: Path, format: str | None, outscale: float) -> str:
    suffix = source.suffix if source.suffix.lower() in WRITE_SUFFIXES else ".png"
    if format is not None:
        suffix = f".{format}"
    stem = source.stem if suffix.lower() == source.suffix.lower() else source.name
    return f"{stem}_x{outscale:g}{suffix}"


def _images_in(folder: Path, output: Path) -> list[Path]:
    """Returns a folder's images, recursively, without results of earlier runs if there are other images."""
    skip = [output.resolve()] if folder.resolve() != output.resolve() else []
    found = list_images(folder, "--input", skip=skip)
    sources = [path for path in found if path.name not in notes_of(path.parent)]
    if sources and len(sources) < len(found):
        log.info("Skipped %d images in %s: results of an earlier run", len(found) - len(sources), folder)
    return sources or found


def part_of(jobs: list[Job], part: int, parts: int) -> list[Job]:
    """Returns the jobs of machine `part` of `parts`, counted from 1; balances pixels, deterministically."""
    if parts == 1:
        return jobs
    sizes = {job: _pixels_in(job.source) for job in jobs}
    loads, mine = [0] * parts, set()
    for job in sorted(jobs, key=sizes.get, reverse=True):
        least = loads.index(min(loads))
        loads[least] += sizes[job]
        if least == part - 1:
            mine.add(job)
    return [job for job in jobs if job in mine]


def _pixels_in(path: Path) -> int:
    try:
        source = Source(path)
    except UserError:  # reported when the job runs
        return 0
    return source.height * source.width


@cache
def notes_of(folder: Path) -> dict[str, dict]:
    """Returns {result name: note} from the folder's notes file."""
    notes = {}
    with suppress(OSError):
        for line in (folder / NOTES_FILE).read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, KeyError, TypeError):  # an incomplete line
                note = json.loads(line)
                notes[note["name"]] = {key: note[key] for key in ("made_with", "source")}
    return notes


def add_notes(job: Job, made_with: str, source: list[int]) -> None:
    """Appends one line per output in a single write, so that several runs can share a folder."""
    lines = [
        json.dumps({"name": file.name, "made_with": made_with, "source": source}) + "\n"
        for file in job.outputs
    ]
    with suppress(OSError), open(job.target.parent / NOTES_FILE, "a", encoding="utf-8") as file:
        file.write("".join(lines))
