"""Contestants in processes of their own that take turns, and the ratios of their times.

Each process has its own threads, allocator and peak memory; only the one that is called computes.
"""

from __future__ import annotations

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

SETTLE_S = 0.05  # for the previous contestant's threads to go to sleep


class Contestant:
    """`factory(*args)` made in a new process; `contestant(method, ...)` calls a method there and waits."""

    def __init__(self, factory: Callable, *args):
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self._pool.submit(_make, factory, args).result()

    def __call__(self, method: str, *args):
        return self._pool.submit(_call, method, args).result()

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, *_) -> None:
        self._pool.shutdown()


_contestant = None  # of a contestant's process


def _make(factory: Callable, args: tuple) -> None:
    global _contestant
    _contestant = factory(*args)


def _call(method: str, args: tuple):
    return getattr(_contestant, method)(*args)


def start_tensorflow() -> None:
    """Imports TensorFlow, TensorLayer and the program's graphs the way the program does."""
    import main

    with main.tensorflow_start():
        import tensorflow as tf

        tf.config.list_physical_devices()
        tf.get_logger().setLevel("ERROR")
        from training import run  # noqa: F401
        from upscaling import evaluate  # noqa: F401


def make_parser(doc: str, rounds: int = 0) -> argparse.ArgumentParser:
    """With `rounds`, their default: the options of scripts whose contestants take turns."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=doc, formatter_class=formatter, allow_abbrev=False)
    if rounds:
        cores = len(os.sched_getaffinity(0))
        parser.add_argument("--precision", nargs="+", choices=("float32", "bfloat16"), help="default: all")
        parser.add_argument("--rounds", type=int, default=rounds)
        parser.add_argument("--threads", type=int, default=cores, help="default: the cores")
    return parser


def use_threads(count: int) -> None:
    """The same number of threads for every library that a contestant may use."""
    os.environ |= {f"{library}_NUM_THREADS": str(count) for library in ("OMP", "MKL", "OPENBLAS")}


def describe_machine() -> str:
    """One line: processor, cores, memory."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "CPU")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GB"


def seconds_per_call(call: Callable, times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - started) / times


def take_turns(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """{name: seconds of each round}: one measurement of each, then the next round."""
    seconds = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, measure in contestants.items():
            time.sleep(SETTLE_S)
            seconds[name].append(measure())
    return seconds


def ratio(ours: list[float], theirs: list[float]) -> str:
    """Ours / theirs per round: median (least - largest)."""
    ratios = [a / b for a, b in zip(ours, theirs)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"
