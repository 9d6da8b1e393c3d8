"""The samples of a run as one animation and one page, plain files that open without a server."""

from __future__ import annotations

import html
import re
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image

from common.files import atomic
from images.files import read_rgb

PHASES = {
    "srgan_ginit": "MSE pretraining",
    "srgan_gan": "Adversarial training",
}  # folders of samples, in order
MOST_FRAMES = 24
FRAME_WIDTH = 640  # px
FRAME_MS, LAST_FRAME_MS = 400, 2000


def sheets(samples_dir: Path) -> list[tuple[str, int, Path]]:
    """(folder, epoch, file) of all sample sheets, in the order of training."""
    found = []
    for folder in PHASES:
        numbered = [
            (int(match[1]), path)
            for path in (samples_dir / folder).glob("train_*.png")
            if (match := re.fullmatch(r"train_(\d+)", path.stem))
        ]
        found += [(folder, epoch, path) for epoch, path in sorted(numbered)]
    return found


def write_animation(samples_dir: Path) -> None:
    """`progress.webp`: the sheets of all epochs, or so many of them evenly spread, the last one longer."""
    paths = [path for *_, path in sheets(samples_dir)]
    if len(paths) > MOST_FRAMES:
        paths = [paths[i] for i in np.linspace(0, len(paths) - 1, MOST_FRAMES).round().astype(int)]
    frames = [Image.fromarray(read_rgb(path)) for path in paths]
    width = min(FRAME_WIDTH, frames[-1].width)
    size = width, max(1, round(frames[-1].height * width / frames[-1].width))
    frames = [np.asarray(frame.resize(size, Image.Resampling.LANCZOS)) for frame in frames]
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS]
    with atomic(samples_dir / "progress.webp") as path:
        iio.imwrite(path, frames, duration=durations, loop=0, quality=85)


def write_index(samples_dir: Path, line: dict) -> None:
    """`index.html`: where the run is (`line` of its log), curves, newest samples, the animation."""
    newest = {folder: (epoch, path) for folder, epoch, path in sheets(samples_dir)}
    pictures = [("Curves", "learning_curve.png")]
    for folder, (epoch, path) in reversed(newest.items()):
        pictures.append((f"{PHASES[folder]}, epoch {epoch}", f"{folder}/{path.name}"))
    pictures.append(("All epochs", "progress.webp"))
    shown = "\n".join(
        f'<h2>{html.escape(title)}</h2>\n<img src="{html.escape(file)}" alt="{html.escape(title)}">'
        for title, file in pictures
        if (samples_dir / file).exists()
    )
    facts = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(_text(value))}</td></tr>"
        for name, value in line.items()
    )
    with atomic(samples_dir / "index.html") as path:
        path.write_text(
            f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>SRGAN: samples</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em }}
img {{ max-width: 100% }}
th {{ text-align: left; font-weight: normal; padding-right: 2em }}
</style>
<h1>SRGAN: samples</h1>
<p>Columns: LR, bicubic, the generator, HR.</p>
<table>{facts}</table>
{shown}
</html>
""",
            encoding="utf-8",
        )


def _text(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
