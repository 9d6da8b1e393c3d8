"""Damages files at random and reads them: each is read or refused in a sentence, in bounded time and memory.

python tests/long/fuzz.py --files 10000 --seed 0
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import cv2
import h5py
import numpy as np
import tifffile
from PIL import Image

import vgg19
from common.errors import UserError
from common.settings import make_config
from images.files import Source, write_image
from model import layout
from tf1 import checkpoints

MAX_SECONDS = 10
MAX_BYTES = 2**30
LETTERS = b'\0\1\xff\x7f\x80 {}[]:,"PK<>IHDR'
EXTREMES = (b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\x7f\xff\xff\xff")
READERS = {
    "image": lambda path: write_image(path.with_name("written.tiff"), Source(path).read()),
    "checkpoint": lambda path: checkpoints.read_network(path, "SRGAN_g", layout),
    "settings": lambda path: make_config(file=str(path)),
    "vgg": lambda path: vgg19.read_weights(path, "conv1_1"),
}


def make_files(folder: Path) -> list[tuple[Path, str]]:
    """Small intact files of all kinds that the program reads, with their kind."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (19, 23, 3), dtype=np.uint8)
    deep = rng.integers(0, 65536, (19, 23, 3), dtype=np.uint16)
    image = Image.fromarray(rgb)
    exif = Image.Exif()
    exif[271], exif[274] = "maker", 6
    for suffix in ("png", "jpg", "webp", "bmp", "tiff"):
        image.save(folder / f"a.{suffix}", exif=exif.tobytes())
    for suffix in ("avif", "ppm", "tga", "jp2"):
        image.save(folder / f"a.{suffix}")
    image.save(folder / "a.gif", save_all=True, append_images=[image.rotate(90)])
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.convert("1").save(folder / "bits.png")
    image.convert("P").save(folder / "palette.png")
    image.convert("P").save(folder / "palette.tiff")
    image.quantize(3).save(folder / "clear.png", transparency=1, bits=2)
    image.save(folder / "lzw.tiff", compression="tiff_lzw")
    exif[0x8769] = {37500: bytes(range(64)), 40962: 23}
    exif[0x8825] = {1: "N", 2: (1.0, 2.0, 3.0)}
    image.save(folder / "ifd.jpg", exif=exif.tobytes())
    image.save(folder / "ifd.webp", exif=exif.tobytes(), lossless=True)
    # none by libvips, which starts threads: the reader is a fork of this process
    cv2.imwrite(str(folder / "deep.png"), np.dstack([deep, deep[..., 0]]))
    tifffile.imwrite(folder / "deep.tiff", deep, photometric="rgb", compression="zlib")
    tifffile.imwrite(folder / "half.tiff", (rgb / 255).astype(np.float16), photometric="rgb")
    with tifffile.TiffWriter(folder / "sub.tiff") as writer:
        writer.write(deep, photometric="rgb", subifds=1)
        writer.write(deep[::2, ::2], photometric="rgb", subfiletype=1)
    meta = {"network": "SRGAN_g", "arguments": {"num_blocks": 1}, "recipe": "cpu", "step": 3}
    checkpoints.write_npz(folder / "checkpoint.npz", {"SRGAN_g/a": np.ones((3, 4), np.float32)}, meta)
    weights = {"kernel": rng.random((3, 3, 3, 64), np.float32), "bias": rng.random(64, np.float32)}
    np.savez_compressed(folder / "vgg.npz", **{f"block1_conv1/{name}": a for name, a in weights.items()})
    np.save(folder / "vgg.npy", {"conv1_1": list(weights.values())}, allow_pickle=True)
    with h5py.File(folder / "vgg.h5", "w") as file:
        for name, array in weights.items():
            file[f"block1_conv1/block1_conv1/{name}:0"] = array
    (folder / "settings.json").write_text(json.dumps({"TRAIN": {"batch_size": 2, "lr_init": 0.5}}))
    return [(path, path.stem if path.stem in READERS else "image") for path in sorted(folder.iterdir())]


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The data with a few bytes changed, removed, doubled or inserted."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(min(len(data), 200))
        removed, inserted = rng.choice(
            (
                (1, [data[at] ^ 1 << rng.randrange(8)]),
                (1, [rng.choice(LETTERS)]),
                (4, rng.choice(EXTREMES)),
                (len(data) if rng.random() < 0.3 else 1, b""),
                (0, data[at : at + rng.randrange(64)]),
                (rng.randrange(1, 9), b""),
            )
        )
        data[at : at + removed] = inserted
        data = data or bytearray(1)
    return bytes(data)


def be_quiet() -> None:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    logging.disable()
    warnings.simplefilter("ignore")


def read(path: Path, kind: str) -> tuple[str, int]:
    """The outcome, and the peak memory of this process so far; a file that hangs ends the process."""
    signal.alarm(MAX_SECONDS)
    try:
        READERS[kind](path)
        outcome = "read"
    except UserError as error:
        outcome = "refused" if "\n" not in str(error) else f"refused in several lines: {error!r}"
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"
    signal.alarm(0)
    return outcome, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def new_reader() -> ProcessPoolExecutor:
    """A process that reads files."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("fork"), be_quiet)


def fuzz(count: int, seed: int, folder: Path) -> list[str]:
    """The faults found; the file of each is kept in the folder."""
    rng = random.Random(seed)
    originals = [(path, kind, path.read_bytes()) for path, kind in make_files(folder)]
    reader, faults, outcomes, slowest = new_reader(), [], Counter(), 0.0
    for path, kind, _ in originals:
        outcome, base = reader.submit(read, path, kind).result()
        assert outcome == "read", (path, outcome)
    most = base
    for number in range(count):
        path, kind, data = rng.choice(originals)
        file = folder / f"{number}_{path.name}"
        file.write_bytes(damaged(data, rng))
        started = time.monotonic()
        try:
            outcome, memory = reader.submit(read, file, kind).result()
        except BrokenProcessPool:
            outcome, memory = f"ends the process, or hangs for {MAX_SECONDS} s", 0
        slowest, most = max(slowest, time.monotonic() - started), max(most, memory)
        if memory - base > MAX_BYTES:
            outcome = f"takes {(memory - base) / 2**20:.0f} MB"
        outcomes[outcome] += 1
        if outcome in ("read", "refused"):
            file.unlink()
        else:
            faults.append(f"{file}: {outcome}")
            reader.shutdown()
            reader = new_reader()
    reader.shutdown()
    print(
        f"{count} files: {outcomes['read']} read, {outcomes['refused']} refused, {len(faults)} faults; "
        f"slowest {slowest:.2f} s, {(most - base) / 2**20:.0f} MB at most"
    )
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="srgan-fuzz-"))
    faults = fuzz(args.files, args.seed, folder)
    if faults:
        print("\n".join(faults))
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
