"""Runs contestants in separate processes, in turns, and compares their times.

Each process has its own threads, allocator and peak memory, and computes only when called.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the program's modules

PRECISIONS = ("float32", "bfloat16")
SETTLE_S = 0.05  # wait until the previous contestant's threads sleep


class Contestant(ProcessPoolExecutor):
    """Creates `factory(*args)` in a new process and calls its methods, or functions, there."""

    def __init__(self, factory: Callable, *args):
        super().__init__(1, multiprocessing.get_context("spawn"))
        self.submit(_make, factory, args).result()

    def __call__(self, method: str | Callable, *args):
        return self.submit(_call, method, args).result()


_contestant = None  # set in a contestant's process


def _make(factory: Callable, args: tuple) -> None:
    global _contestant
    _contestant = factory(*args)


def _call(method: str | Callable, args: tuple):
    return (method if callable(method) else getattr(_contestant, method))(*args)


def seconds(method: str, args: tuple, times: int) -> float:
    """Returns seconds per call of the contestant's method; runs in the contestant's process."""
    started = time.perf_counter()
    for _ in range(times):
        _call(method, args)
    return (time.perf_counter() - started) / times


def make_parser(doc: str, rounds: int = 0) -> argparse.ArgumentParser:
    """Returns a parser; given a default for `rounds`, with the options of scripts that take turns."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=doc, formatter_class=formatter, allow_abbrev=False)
    if rounds:
        cores = len(os.sched_getaffinity(0))
        parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["float32"])
        parser.add_argument("--rounds", type=int, default=rounds)
        parser.add_argument("--threads", type=int, default=cores, help="default: the number of cores")
    return parser


def use_threads(count: int) -> None:
    """Sets the number of threads for every library that a contestant may use."""
    os.environ |= {f"{library}_NUM_THREADS": str(count) for library in ("OMP", "MKL", "OPENBLAS")}


def describe_device() -> str:
    """Names the device that TensorFlow uses."""
    from tf1 import runtime

    return runtime.describe_device()


def take_turns(contestants: dict[str, Contestant], rounds: int, *call) -> dict[str, list[float]]:
    """Measures every contestant once per round; returns {name: `seconds(*call)` of each round}."""
    times = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            time.sleep(SETTLE_S)
            times[name].append(contestant(seconds, *call))
    return times


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Formats ours / theirs over the rounds as median (minimum - maximum)."""
    ratios = [a / b for a, b in zip(ours, theirs)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
