"""Evaluation: the validation image, benchmark sets, your own images."""

from __future__ import annotations

import contextlib
import csv
import functools
import itertools
import json
import logging
import os
import time
from pathlib import Path

import numpy as np

from common.errors import UserError
from common.files import atomic, require_writable
from images import bicubic, metrics
from images.files import read_rgb, write_rgb
from images.listing import list_images
from images.photos import validation_pair
from images.pixels import crop_to_multiple, enlarge, side_by_side
from tf1 import checkpoints
from upscaling.images import upscale_files
from upscaling.upscaler import Upscaler, load_generator

log = logging.getLogger("srgan")

PROTOCOL = (
    "PSNR and SSIM on Y (BT.601, 16-235) of 8-bit images, {} px border removed; "
    "LR is MATLAB's bicubic unless given; SSIM with an 11 x 11 Gaussian window, sigma 1.5"
)
COLUMNS = {  # of the benchmark's table: heading, format
    "set": ("set", "<8"),
    "image": ("image", "<16"),
    "bicubic_psnr_db": ("bicubic dB", ">10.2f"),
    "bicubic_ssim": ("SSIM", ">10.4f"),
    "psnr_db": ("network dB", ">10.2f"),
    "ssim": ("SSIM", ">10.4f"),
    "seconds_per_megapixel": ("s/Mpx", ">10.2f"),
}


def find_weights(weights: str | None, checkpoint_dir: Path | None) -> Path:
    """The generator to use: the one named, else the run's, else the one that comes with the program.

    checkpoint_dir: None where the user named none.
    """
    if weights:
        return checkpoints.locate(weights)
    folder = checkpoint_dir or checkpoints.DEFAULT_DIR
    candidates = [folder / "g_srgan.npz", folder / "g_srgan_init.npz"]
    if checkpoint_dir is None:
        candidates += [checkpoints.locate("srgan"), checkpoints.locate("srresnet")]
    for path in candidates:
        if path.is_file():
            return path
    raise UserError(
        f"there are no weights in {folder}: train with --mode=srgan first, or name a file with --weights"
    )


def chosen_generator(args) -> tuple[Path, dict, dict]:
    """(path, arrays, meta) of the generator that the command line asks for; says which that is."""
    path = find_weights(args.weights, args.checkpoint_dir)
    arrays, meta = load_generator(path, args.blend)
    log.info("Weights %s (recipe %s, %d steps)", path, meta["recipe"], meta["step"])
    for other, share in args.blend:
        log.info("  blended with %g of %s", share, other)
    return path, arrays, meta


def evaluate(args, config) -> int:
    """Does `--mode=evaluate` or `--mode=benchmark`; returns the exit code."""
    path, arrays, meta = chosen_generator(args)
    scale = meta["arguments"]["scale"]

    @contextlib.contextmanager
    def upscaling():
        """Starts the engine, which takes seconds: after everything else that could refuse the command."""
        with Upscaler(arrays, meta["arguments"], config.RUNTIME, source=path, engine=args.engine) as upscaler:
            log.info("Upscaling on %s", upscaler.engine.device)
            yield functools.partial(upscaler, self_ensemble=args.self_ensemble)

    if args.mode == "benchmark":
        output = args.output or args.samples_dir / "benchmark"
        return benchmark(upscaling(), scale, [Path(folder) for folder in args.input], output)
    if args.input:
        # what tells the results of one command from those of another
        network = json.dumps(meta["arguments"], sort_keys=True)
        return upscale_files(
            upscaling(),
            args.input,
            args.output,
            format=args.format,
            overwrite=args.overwrite,
            outscale=args.outscale,
            scale=scale,
            made_with=f"{checkpoints.digest(arrays)} {network} self-ensemble {args.self_ensemble}",
            shard=args.shard or (1, 1),
            compare=args.compare,
            suggest_photo=not args.weights and path == checkpoints.locate("srgan"),
        )
    hr, lr = validation_pair(scale, **config.VALID)
    name = "SRResNet" if meta.get("phase") == "pretrain" else "SRGAN"
    with upscaling() as upscale:
        evaluate_validation(upscale, hr, lr, args.samples_dir / "evaluate", name)
    return 0


def evaluate_validation(upscale, hr: np.ndarray, lr: np.ndarray, folder: Path, network: str) -> None:
    """Upscales the validation image; writes valid_{gen,lr,hr,bicubic,compare}.png and prints scores.

    network: what the generator is called.
    """
    log.info("Upscaling %d x %d to %d x %d", *lr.shape[1::-1], *hr.shape[1::-1])
    scale = hr.shape[0] // lr.shape[0]
    sr, cubic = upscale(lr), bicubic.upsample(lr, scale)
    captions = []
    for name, image in (("bicubic", cubic), (network, sr)):
        psnr, ssim = metrics.psnr_y(image, hr, scale), metrics.ssim_y(image, hr, scale)
        log.info("  %-8s %6.2f dB  SSIM %.4f", name, psnr, ssim)
        captions.append(f"{name} {psnr:.2f} dB / {ssim:.4f}")
    log.info("%s", PROTOCOL.format(scale))
    sheet = side_by_side([enlarge(lr, scale), cubic, sr, hr], ["LR", *captions, "HR"])
    files = {"gen": sr, "lr": lr, "hr": hr, "bicubic": cubic, "compare": sheet}
    for name, image in files.items():
        write_rgb(folder / f"valid_{name}.png", image)
    log.info("Wrote %s/valid_{%s}.png", folder, ",".join(files))


def benchmark(upscaling, scale: int, inputs: list[Path], output: Path) -> int:
    """Scores bicubic and the network on sets of HR images; table on screen, CSV, JSON, images.

    `upscaling` is a context manager that gives `upscale`, of uint8 [h, w, 3].

    Returns 0, or 1 if some images failed, which are reported at the end. The files are brought up to date
    after each image, so that a stop loses none.
    """
    sets = benchmark_sets(inputs, scale, output)
    require_writable(output, "--output")
    rows, means, failures = [], [], []
    with upscaling as upscale:
        log.info("%s", " ".join(f"{title:{form.partition('.')[0]}}" for title, form in COLUMNS.values()))
        for set_name, name, hr_path, lr_path in ((key, *pair) for key in sets for pair in sets[key]):
            try:
                scores, sr = _score(upscale, scale, *read_pair(scale, hr_path, lr_path))
            except UserError as error:
                failures.append(str(error))
                continue
            rows.append({"set": set_name, "image": name, **scores})
            log.info("%s", _line(rows[-1]))
            write_rgb(output / set_name / f"{name}_x{scale}.png", sr)
            means = _write_tables(output, scale, rows)
    if not rows:
        raise UserError(f"--input: no image could be scored ({failures[0]})")
    for mean in means:
        log.info("%s", _line(mean))
    log.info("%s", PROTOCOL.format(scale))
    log.info("Wrote %s/benchmark.csv, benchmark.json and the images", output)
    for sentence in failures:
        log.warning("WARNING: left out: %s", sentence)
    return 1 if failures else 0


def _line(row: dict) -> str:
    return " ".join(f"{row[key]:{form}}" for key, (_, form) in COLUMNS.items())


def _score(upscale, scale: int, hr: np.ndarray, lr: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """(scores, SR) of a pair; SR of an LR whose sides were rounded up is cut to HR's size."""
    height, width = hr.shape[:2]
    started = time.perf_counter()
    sr = upscale(lr)[:height, :width]
    seconds = time.perf_counter() - started
    cubic = bicubic.upsample(lr, scale)[:height, :width]
    scores = {
        "bicubic_psnr_db": metrics.psnr_y(cubic, hr, scale),
        "bicubic_ssim": metrics.ssim_y(cubic, hr, scale),
        "psnr_db": metrics.psnr_y(sr, hr, scale),
        "ssim": metrics.ssim_y(sr, hr, scale),
        "seconds_per_megapixel": seconds / (height * width / 1e6),
    }
    return scores, np.ascontiguousarray(sr)


def _write_tables(output: Path, scale: int, rows: list[dict]) -> list[dict]:
    """CSV and JSON with the means of the sets, which it returns.

    The PSNR of equal images is 'inf' in the one, null in the other.
    """
    means = []
    for name, group in itertools.groupby(rows, lambda row: row["set"]):
        of_set = list(group)
        mean = {key: float(np.mean([row[key] for row in of_set])) for key in list(COLUMNS)[2:]}
        means.append({"set": name, "image": f"mean of {len(of_set)}", **mean})
    with atomic(output / "benchmark.csv") as path, open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows + means)
    report = {"protocol": PROTOCOL.format(scale), "images": rows, "means": means}
    finite = json.loads(json.dumps(report), parse_constant=lambda _: None)
    with atomic(output / "benchmark.json") as path:
        path.write_text(json.dumps(finite, indent=2) + "\n", encoding="utf-8")
    return means


def benchmark_sets(
    inputs: list[Path], scale: int, output: Path
) -> dict[str, list[tuple[str, Path, Path | None]]]:
    """{set's name: (image's name, HR file, LR file or None)}; a folder of sets is its sets, a file is one."""
    folders = []
    for folder in inputs:
        if not folder.exists():
            raise UserError(f"--input: there is no file or folder {str(folder)!r}")
        below = sorted(path.parent for path in folder.glob("*/HR") if path.is_dir())
        folders += [folder] if (folder / "HR").is_dir() else below or [folder]
    sets = {}
    for folder in folders:
        name = as_text(folder.stem if folder.is_file() else folder.resolve().name) or "set"
        if name in sets:
            raise UserError(f"--input: two sets are called {name}: score them one after the other")
        sets[name] = [(name, folder, None)] if folder.is_file() else pairs(folder, scale, output)
    return sets


def pairs(folder: Path, scale: int, output: Path | None = None) -> list[tuple[str, Path, Path | None]]:
    """(name, HR, LR or None) of a set: of HR/ and LR_bicubic_xS/, of NAME_HR and NAME_LR, or of HR alone.

    In LR_bicubic_xS/, S being the scale, NAME.png may also be called NAMExS.png, as in DIV2K. A set without
    the LR of this scale is one of HR alone.
    """
    skip = [output.resolve()] if output else []
    hr_folder = folder / "HR" if (folder / "HR").is_dir() else folder
    lr_folder = folder / f"LR_bicubic_x{scale}"
    paths = list_images(hr_folder, "--input", skip=skip)
    stems = {path.with_suffix(""): path for path in paths}
    found = []
    for path in paths:
        name, lr = path.relative_to(hr_folder), None
        if lr_folder.is_dir():
            same = lr_folder / name
            candidates = (same, same.with_stem(f"{same.stem}x{scale}"))
            lr = next((candidate for candidate in candidates if candidate.is_file()), None)
            if lr is None:
                raise UserError(f"{hr_folder} has {path.name}, but {lr_folder} has no LR for it")
        elif path.stem.endswith("_LR") and path.with_name(f"{path.stem[:-3]}_HR") in stems:
            continue
        elif path.stem.endswith("_HR"):
            lr = stems.get(path.with_name(f"{path.stem[:-3]}_LR"))
        twin = stems[path.with_suffix("")] is not path  # another file of this name but for the suffix
        found.append((as_text((name if twin else name.with_suffix("")).as_posix()), path, lr))
    return found


def as_text(name: str | Path) -> str:
    """A file name for tables: what is not UTF-8 in it is replaced."""
    return os.fsencode(name).decode("utf-8", "replace")


def read_pair(scale: int, hr_path: Path, lr_path: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """uint8 HR and LR, read or made by MATLAB's bicubic; HR's sides are cut to multiples of the scale.

    An LR whose sides were rounded up, as MATLAB does, goes with the whole of HR.
    """
    whole = read_rgb(hr_path)
    hr = crop_to_multiple(whole, scale)
    if min(hr.shape[:2]) < (side := metrics.least_side(scale)):
        raise UserError(f"{hr_path} has sides below {side} px")
    if lr_path is None:
        return hr, bicubic.downsample(hr, scale)
    lr = read_rgb(lr_path)
    if lr.shape[:2] == tuple(-(-side // scale) for side in whole.shape[:2]):
        return whole, lr
    if lr.shape[:2] != tuple(side // scale for side in whole.shape[:2]):
        raise UserError(f"{lr_path} does not have 1/{scale} of the sides of {hr_path}")
    return hr, lr
