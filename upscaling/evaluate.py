"""Evaluation: the validation picture, benchmark sets, own pictures."""

from __future__ import annotations

import csv
import functools
import json
import logging
import time
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import atomic
from images import bicubic, metrics
from images.bicubic import SCALE
from images.files import list_pictures, read_rgb, write_rgb
from images.photos import validation_pair
from images.pixels import crop_to_multiple, enlarge, side_by_side
from tf1.checkpoints import pretrained
from upscaling import folders
from upscaling.upscaler import Upscaler, load_generator

log = logging.getLogger("srgan")

PROTOCOL = (
    f"PSNR and SSIM on Y (BT.601, 16-235) of 8-bit pictures, {metrics.BORDER} px border removed; "
    "LR is MATLAB's bicubic; SSIM with an 11 x 11 Gaussian window, sigma 1.5"
)


def find_weights(weights: str | None, checkpoint_dir: Path) -> Path:
    """The generator to use: the one named, else the run's, else the one that comes with the program."""
    if weights:
        return Path(weights)
    candidates = [
        checkpoint_dir / "g_srgan.npz",
        checkpoint_dir / "g_srgan_init.npz",
        pretrained("g_srgan.npz"),
        pretrained("g_srresnet.npz"),
    ]
    for path in candidates:
        if path.is_file():
            return path
    raise UserError(
        f"there are no weights in {checkpoint_dir}: train with --mode=srgan first, or name a file with "
        "--weights"
    )


def evaluate(args, config) -> int:
    """Does `--mode=evaluate` or `--mode=benchmark`; returns the exit code."""
    path = find_weights(args.weights, args.checkpoint_dir)
    arrays, meta = load_generator(path, args.blend)
    log.info("Weights %s (recipe %s, %d steps)", path, meta["recipe"], meta["step"])
    for other, share in args.blend:
        log.info("  blended with %g of %s", share, other)
    with Upscaler(arrays, meta["arguments"], config.RUNTIME, source=path) as upscaler:
        upscale = functools.partial(upscaler, self_ensemble=args.self_ensemble)
        if args.mode == "benchmark":
            output = args.output or args.samples_dir / "benchmark"
            benchmark(upscale, [Path(folder) for folder in args.input], output)
            return 0
        if args.input:
            return folders.upscale_files(
                upscale,
                args.input,
                args.output,
                format=args.format,
                overwrite=args.overwrite,
                outscale=args.outscale,
                scale=SCALE,
            )
        hr, lr = validation_pair(**config.VALID)
        evaluate_validation(upscale, hr, lr, args.samples_dir / "evaluate")
        return 0


def evaluate_validation(upscale, hr: np.ndarray, lr: np.ndarray, folder: Path) -> None:
    """Upscales the validation picture; writes valid_{gen,lr,hr,bicubic,compare}.png and prints scores."""
    log.info("Upscaling %d x %d to %d x %d", *lr.shape[1::-1], *hr.shape[1::-1])
    sr, cubic = upscale(lr), bicubic.upsample(lr)
    captions = []
    for name, picture in (("bicubic", cubic), ("SRGAN", sr)):
        psnr, ssim = metrics.psnr_y(picture, hr), metrics.ssim_y(picture, hr)
        log.info("  %-8s %6.2f dB  SSIM %.4f", name, psnr, ssim)
        captions.append(f"{name} {psnr:.2f} dB / {ssim:.4f}")
    log.info("%s", PROTOCOL)
    sheet = side_by_side([enlarge(lr, SCALE), cubic, sr, hr], ["LR", *captions, "HR"])
    files = {"gen": sr, "lr": lr, "hr": hr, "bicubic": cubic, "compare": sheet}
    for name, picture in files.items():
        write_rgb(folder / f"valid_{name}.png", picture)
    log.info("Wrote %s/valid_{%s}.png", folder, ",".join(files))


def benchmark(upscale, folders: list[Path], output: Path) -> None:
    """Scores bicubic and the network on sets of HR pictures; table on screen, CSV, JSON, pictures.

    A set is a folder of HR pictures, or one with `HR/` and `LR_bicubic_x4/` of the same file names.
    """
    sets = {folder.name or str(folder): pairs(folder) for folder in folders}
    results = []
    log.info("%s", _row(HEADINGS))
    for set_name, files in sets.items():
        for hr_path, lr_path in files:
            hr, lr = read_pair(hr_path, lr_path)
            started = time.perf_counter()
            sr = upscale(lr)
            seconds = time.perf_counter() - started
            cubic = bicubic.upsample(lr)
            row = {
                "set": set_name,
                "picture": hr_path.stem,
                "bicubic_psnr_db": metrics.psnr_y(cubic, hr),
                "bicubic_ssim": metrics.ssim_y(cubic, hr),
                "psnr_db": metrics.psnr_y(sr, hr),
                "ssim": metrics.ssim_y(sr, hr),
                "seconds_per_megapixel": seconds / (hr.shape[0] * hr.shape[1] / 1e6),
            }
            results.append(row)
            log.info("%s", _row(row))
            write_rgb(output / set_name / f"{hr_path.stem}_x4.png", sr)
    means = []
    for set_name in sets:
        rows = [row for row in results if row["set"] == set_name]
        mean = {key: float(np.mean([row[key] for row in rows])) for key in list(rows[0])[2:]}
        means.append({"set": set_name, "picture": f"mean of {len(rows)}", **mean})
    for mean in means:
        log.info("%s", _row(mean))
    log.info("%s", PROTOCOL)
    with atomic(output / "benchmark.csv") as path, open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(results[0]))
        writer.writeheader()
        writer.writerows(results + means)
    report = {"protocol": PROTOCOL, "pictures": results, "means": means}
    with atomic(output / "benchmark.json") as path:
        path.write_text(json.dumps(report, indent=2) + "\n")
    log.info("Wrote %s/benchmark.csv, benchmark.json and the pictures", output)


def pairs(folder: Path) -> list[tuple[Path, Path | None]]:
    """(HR, LR or None) files of a set."""
    if not (folder / "HR").is_dir():
        return [(path, None) for path in list_pictures(folder, "--input")]
    found = []
    for hr_path in list_pictures(folder / "HR", "--input"):
        lr_path = folder / "LR_bicubic_x4" / hr_path.relative_to(folder / "HR")
        if not lr_path.is_file():
            raise UserError(f"{folder}/HR has {hr_path.name}, but {folder}/LR_bicubic_x4 has not")
        found.append((hr_path, lr_path))
    return found


def read_pair(hr_path: Path, lr_path: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """uint8 HR, its sides cut to multiples of 4, and LR, read or made by MATLAB's bicubic."""
    hr = crop_to_multiple(read_rgb(hr_path), SCALE)
    lr = read_rgb(lr_path) if lr_path else bicubic.downsample(hr)
    if (lr.shape[0] * SCALE, lr.shape[1] * SCALE) != hr.shape[:2]:
        raise UserError(f"{lr_path} is not a quarter of {hr_path}")
    return hr, lr


HEADINGS = {
    "set": "set",
    "picture": "picture",
    "bicubic_psnr_db": "bicubic dB",
    "bicubic_ssim": "SSIM",
    "psnr_db": "network dB",
    "ssim": "SSIM",
    "seconds_per_megapixel": "s/Mpx",
}
DIGITS = {"psnr_db": 2, "bicubic_psnr_db": 2, "seconds_per_megapixel": 2}


def _row(values: dict) -> str:
    """One line of the table."""
    cells = [f"{values['set']:8}", f"{values['picture']:16}"]
    for key in list(HEADINGS)[2:]:
        value = values[key]
        cells.append(f"{value:>10}" if isinstance(value, str) else f"{value:10.{DIGITS.get(key, 4)}f}")
    return " ".join(cells)
