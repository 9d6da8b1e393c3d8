"""Trains for long with a fault every 20 seconds, and measures the memory of the process.

python tests/long/soak.py --minutes 30
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]
import numpy as np
from conftest import TINY, VGG_FILE

from images.files import write_rgb
from images.photos import sample_photos

ROOT = Path(__file__).resolve().parents[2]
FAULT_SECONDS = 20
SETTINGS = (
    *(*TINY, "TRAIN.n_epoch_init=3", "TRAIN.n_epoch=1000000", "TRAIN.save_every=20"),
    *("TRAIN.max_bad_images=0.5", "TRAIN.hr_img_path=photos", f"VGG.weights={VGG_FILE.name}"),
)


def faults(work: Path):
    """One fault after another, without end, as functions."""
    images = {path: path.read_bytes() for path in sorted((work / "photos").iterdir())[::2]}
    samples, checkpoint = work / "samples", work / "checkpoint"
    log = checkpoint / "train_log.jsonl"

    def cut_images(fraction):
        for path, data in images.items():
            path.write_bytes(data[: int(fraction * len(data))])

    return itertools.cycle(
        (
            lambda: cut_images(0.5),
            lambda: (shutil.rmtree(samples, ignore_errors=True), samples.touch()),  # a file in its place
            lambda: cut_images(1.0),
            lambda: samples.unlink(missing_ok=True),
            lambda: (log.unlink(missing_ok=True), log.mkdir()),
            log.rmdir,
            lambda: shutil.rmtree(checkpoint / "tensorboard", ignore_errors=True),
            lambda: [path.unlink(missing_ok=True) for path in checkpoint.glob("srgan_state*.npz")],
        )
    )


def resident_mb(process: subprocess.Popen) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="srgan-soak-"))
    (work / "photos").mkdir()
    for name, image in sample_photos().items():
        write_rgb(work / "photos" / f"{name}.png", image[:128, :128])
    shutil.copy(VGG_FILE, work)
    command = [sys.executable, str(ROOT / "main.py"), "--mode=srgan"]
    command += [argument for setting in SETTINGS for argument in ("--set", setting)]
    with open(work / "out.txt", "w") as out:
        process = subprocess.Popen(command, cwd=work, stdout=out, stderr=out)
    while not (work / "checkpoint/train_log.jsonl").exists():
        time.sleep(1)
        assert process.poll() is None, (work / "out.txt").read_text()
    done, memory, started, following = 0, [], time.monotonic(), faults(work)
    while (minutes := (time.monotonic() - started) / 60) < args.minutes:
        time.sleep(2)
        if process.poll() is not None:
            raise SystemExit(f"training ended with {process.returncode}: see {work}/out.txt")
        memory.append((minutes, resident_mb(process)))
        if minutes * 60 > (done + 1) * FAULT_SECONDS:
            next(following)()
            done += 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 128 + signal.SIGTERM, (work / "out.txt").read_text()
    later = np.array(memory[len(memory) // 4 :])
    slope, _ = np.polyfit(later[:, 0], later[:, 1], 1)
    steps = (work / "out.txt").read_text().count("epoch") * 3
    print(
        f"{args.minutes:g} minutes, {done} faults, about {steps} steps: no fault ended it; resident memory "
        f"{later[:, 1].min():.0f} to {later[:, 1].max():.0f} MB, {slope:+.2f} MB a minute"
    )
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
