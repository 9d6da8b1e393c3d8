"""Kills a small training at random moments, continues it, and compares its files with an undisturbed one.

python tests/long/crash.py --kills 200 --seed 0

With --faults N, so many of its writes fail as on a full disk, one at a time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]
from conftest import TINY, VGG_FILE
from matplotlib.figure import Figure

from common.settings import make_config
from tf1 import checkpoints
from training.train import train as train_run

SETTINGS = [*TINY, "TRAIN.n_epoch_d=1", "TRAIN.ema_decay=0.9"]
# files of a save that a kill ended
LEFT_BY_A_KILL = ("previous", ".part", "_new.npz")


def train(folder: Path, fail_at: int) -> None:
    """A training run without output, of which one write may fail."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    fail_write(fail_at)
    config = make_config(settings=[*SETTINGS, f"VGG.weights={folder.parent / VGG_FILE.name}"])
    train_run(config, folder / "checkpoint", folder / "samples", recipe="tensorlayer", restart=False)


def in_child(folder: Path, seconds: float = 600, fail_at: int = 0) -> int:
    """Trains in a fork, killed after so many seconds; returns its exit status, -9 if it was killed.

    No session has been made here, so that there are no threads which the fork would lack.
    """
    child = multiprocessing.get_context("fork").Process(target=train, args=(folder, fail_at))
    child.start()
    child.join(seconds)
    child.kill()
    child.join()
    return child.exitcode


def left_by(folder: Path) -> dict:
    """The content of a run's files, without times."""
    left = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or any(word in name for word in LEFT_BY_A_KILL):
            continue
        if path.suffix == ".npz":
            arrays, meta = checkpoints.read_npz(path)
            meta.get("sums", {}).pop("seconds", None)
            left[name] = {key: array.tobytes() for key, array in arrays.items()} | {"meta": meta}
        elif path.suffix == ".png" and path.name != "learning_curve.png":
            left[name] = path.read_bytes()
        elif path.name == "train_log.jsonl":
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            left[name] = [{key: line[key] for key in line if key != "seconds"} for line in lines]
    return left


def differences(expected: dict, found: dict) -> list[str]:
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def kill(kills: int, seed: int, work: Path, expected: dict, whole_seconds: float) -> None:
    """Runs until there were so many kills; raises SystemExit at the first run that ends otherwise."""
    rng = random.Random(seed)
    killed = in_saves = runs = 0
    while killed < kills:
        folder = work / f"run{runs}"
        runs += 1
        status = -signal.SIGKILL
        while status == -signal.SIGKILL:
            # after enough kills the run goes on to its end
            seconds = rng.uniform(0.3, 1.0) * whole_seconds if killed < kills else 600
            status = in_child(folder, seconds)
            killed += status == -signal.SIGKILL
            in_saves += any(folder.rglob(".*.part*")) or any(folder.rglob("*_new.npz"))
        if status:
            raise SystemExit(f"seed {seed}: a run that was killed ended with {status} in {folder}")
        if wrong := differences(expected, left_by(folder)):
            raise SystemExit(f"seed {seed}: after kills these differ: {', '.join(wrong)} in {folder}")
        shutil.rmtree(folder)
    print(f"{killed} kills in {runs} runs, {in_saves} inside a write: every run ended bit-for-bit identical")


def fail_write(number: int) -> None:
    """Makes one of the calls that end a write fail, as on a full disk."""
    calls = itertools.count(1)

    def failing(function):
        def call(*args):
            if next(calls) == number:
                raise OSError(28, "No space left on device")
            return function(*args)

        return call

    os.fsync, os.replace = failing(os.fsync), failing(os.replace)


def fault(count: int, seed: int, work: Path, expected: dict) -> None:
    """Fails `count` writes of a run, chosen at random, one at a time; the run then goes on to its end."""
    ended = 0
    for number in sorted(random.Random(seed).sample(range(1, 101), count)):
        folder = work / f"fault{number}"
        ended += in_child(folder, fail_at=number) != 0
        if in_child(folder) != 0:
            raise SystemExit(f"a run did not go on after its write {number} had failed in {folder}")
        # a failed sample or numbered file is not written later, but the run is the same
        wrong = [name for name in differences(expected, left_by(folder)) if name.endswith("state.npz")]
        if wrong or not {"checkpoint/g_srgan.npz"} <= left_by(folder).keys():
            raise SystemExit(f"after a failed write {number} these differ: {', '.join(wrong)} in {folder}")
        shutil.rmtree(folder)
    print(f"{count} failed writes, {ended} of which ended the run: every run ended with the same state")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--faults", type=int, default=0, help="at most 100")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--without-plots", action="store_true", help="they take a third of such a run")
    args = parser.parse_args()
    if args.without_plots:
        Figure.savefig = lambda self, part, **_: Path(part).touch()
    work = Path(tempfile.mkdtemp(prefix="srgan-crash-"))
    shutil.copy(VGG_FILE, work)
    started = time.monotonic()
    assert in_child(work / "whole") == 0, "the undisturbed run failed"
    expected, seconds = left_by(work / "whole"), time.monotonic() - started
    if args.kills:
        kill(args.kills, args.seed, work, expected, seconds)
    if args.faults:
        fault(args.faults, args.seed, work, expected)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
