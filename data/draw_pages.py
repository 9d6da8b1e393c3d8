"""Pages of letters, lines and shapes in flat colours, drawn to train with beside photographs.

python data/draw_pages.py data/my_pictures/pages 120

Photographs hold few letters and few flat colours, and an SRGAN that saw nothing else sets dots and ripples
along them. A page for nine photographs is enough, with `LOSS.excess` as in the recipe `cpu` (docs/diary.md).
A number is the same page each time, with the same Pillow and the same fonts, which are matplotlib's. Pages
that are there are left as they are.
"""

from __future__ import annotations

import argparse
import colorsys
import random
import string
import sys
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the program's modules
from common.errors import UserError
from common.files import atomic

SIDE = 480  # px of a page
FINE = 4  # it is drawn so many times larger, for smooth edges
LETTERS = "etaoinshrdlucmfwypvbgkjqxz"


def draw_page(number: int) -> Image.Image:
    """RGB page of SIDE x SIDE: bands of panels, each with a ground, and text, lines or shapes on it."""
    rng = random.Random(1000 + number)
    page = Image.new("RGB", (SIDE * FINE, SIDE * FINE))
    top = 0
    while top < SIDE:
        height, left = rng.randint(90, 260), 0
        while left < SIDE:
            width = rng.choice([SIDE, SIDE, rng.randint(120, 300)])
            page.paste(draw_panel(rng, width, height), (left * FINE, top * FINE))
            left += width
        top += height
    return page.resize((SIDE, SIDE), Image.Resampling.BOX)


def draw_panel(rng: random.Random, width: int, height: int) -> Image.Image:
    """RGB panel of width x height px, FINE times larger, now and then with a ramp as ground, or tilted."""
    ground = any_colour(rng)
    panel = Image.new("RGB", (width * FINE, height * FINE), ground)
    if rng.random() < 0.2:
        end = tuple(min(255, max(0, level + rng.randint(-60, 60))) for level in ground)
        ramp = Image.linear_gradient("L").rotate(rng.choice([0, 90, 180, 270])).resize(panel.size)
        panel = Image.composite(Image.new("RGB", panel.size, end), panel, ramp)
    kind = rng.random()
    draw = draw_text if kind < 0.6 else draw_lines if kind < 0.85 else draw_shapes
    draw(rng, ImageDraw.Draw(panel), ground, width, height)
    if rng.random() < 0.15:
        panel = panel.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC, fillcolor=ground)
    return panel


def draw_text(rng, panel, ground, width, height) -> None:
    colour, top = other_colour(rng, ground), 2
    while top < height:
        size = rng.choice([9, 11, 12, 13, 14, 16, 18, 20, 24, 30, 40])
        font = ImageFont.truetype(rng.choice(fonts()), size * FINE)
        line = " ".join(word(rng) for _ in range(16))
        start = (rng.randint(0, 12) * FINE, top * FINE)
        panel.text(start, line, font=font, fill=colour if rng.random() < 0.8 else other_colour(rng, ground))
        top += int(size * rng.uniform(1.1, 1.8)) + 1


def draw_lines(rng, panel, ground, width, height) -> None:
    for _ in range(rng.randint(3, 12)):
        colour = other_colour(rng, ground)
        ends = [rng.randint(-20, side + 20) * FINE for side in (width, height, width, height)]
        panel.line(ends, fill=colour, width=rng.choice([2, 3, 4, 6, 8, 12, 20, 32]))


def draw_shapes(rng, panel, ground, width, height) -> None:
    for _ in range(rng.randint(2, 7)):
        x, y, side = rng.randint(-20, width), rng.randint(-20, height), rng.randint(8, 90)
        box = [x * FINE, y * FINE, (x + side) * FINE, (y + int(side * rng.uniform(0.4, 1.6))) * FINE]
        if rng.random() < 0.6:
            how = {"fill": other_colour(rng, ground)}
        else:
            how = {"outline": other_colour(rng, ground), "width": rng.choice([3, 4, 6, 10, 16])}
        rng.choice([panel.ellipse, panel.rectangle])(box, **how)


def any_colour(rng: random.Random) -> tuple[int, int, int]:
    """White and black often, then grays, then any."""
    kind = rng.random()
    if kind < 0.25:
        return (rng.choice([255, 255, 250, 0, 20]),) * 3
    if kind < 0.4:
        return (rng.randrange(256),) * 3
    hue, saturation, value = rng.random(), rng.random() ** 0.7, rng.random() ** 0.6
    return tuple(int(255 * level) for level in colorsys.hsv_to_rgb(hue, saturation, value))


def other_colour(rng: random.Random, ground: tuple[int, int, int]) -> tuple[int, int, int]:
    """One that is more than 70 levels from the ground in a channel."""
    while True:
        colour = any_colour(rng)
        if max(abs(a - b) for a, b in zip(colour, ground)) > 70:
            return colour


def word(rng: random.Random) -> str:
    letters = "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 9)))
    kind = rng.random()
    if kind < 0.25:
        return letters.capitalize()
    if kind < 0.4:
        return letters.upper()
    if kind < 0.5:
        return "".join(rng.choice(string.digits + ".,:-%") for _ in range(rng.randint(1, 6)))
    return letters + rng.choice(["", "", "", ",", ".", "?", "!", ";"])


def fonts() -> list[str]:
    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    found = sorted(folder.glob("DejaVuS*.ttf")) + sorted(folder.glob("STIXGeneral*.ttf"))
    return [str(path) for path in found if "Display" not in path.name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="where page_000.png, page_001.png, ... are written")
    parser.add_argument("count", type=int, help="how many")
    arguments = parser.parse_args()
    if arguments.count < 1:
        parser.error(f"count: one page at least, not {arguments.count}")
    paths = [arguments.folder / f"page_{number:03}.png" for number in range(arguments.count)]
    lacking = [(number, path) for number, path in enumerate(paths) if not path.exists()]
    try:
        for number, path in lacking:
            with atomic(path) as part:
                draw_page(number).save(part)
    except UserError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    print(f"{arguments.folder}: {len(paths)} pages, {len(lacking)} of them new")


if __name__ == "__main__":
    main()
