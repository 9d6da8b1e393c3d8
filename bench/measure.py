"""Contestants in processes of their own, which take turns; and the table and JSON of their times.

One process per contestant: each has its own threads, allocator and peak memory. Only the one that is
asked computes. Checked with two threads each: waiting, no engine takes more than 3 % of a core, and
turns in separate processes take the same time as turns in one (medians within 0.3 %).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the program's modules

SETTLE_SECONDS = 0.05  # for the previous contestant's threads to go to sleep


class Missing(Exception):
    """A package that a contestant needs is not installed."""


class Contestant:
    """`factory(*args)` made in a fresh process; `contestant(method, ...)` calls it there and waits."""

    def __init__(self, factory: Callable, *args):
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, factory, args), daemon=True)
        self._process.start()
        there.close()
        self._receive()

    def __call__(self, method: str, *args):
        self._pipe.send((method, args))
        return self._receive()

    def __enter__(self) -> Contestant:
        return self

    def __exit__(self, *_) -> None:
        self._pipe.close()
        self._process.join()

    def _receive(self):
        try:
            error, result = self._pipe.recv()
        except EOFError:
            self._process.join()
            raise MemoryError(f"a contestant ended with exit code {self._process.exitcode}") from None
        if error:
            raise error
        return result


def _serve(pipe, factory: Callable, args: tuple) -> None:
    """Makes the contestant, then answers calls until the pipe is closed."""
    try:
        contestant = factory(*args)
        pipe.send((None, None))
        while True:
            method, args = pipe.recv()
            pipe.send((None, getattr(contestant, method)(*args)))
    except EOFError:
        pass
    except ModuleNotFoundError as error:
        pipe.send((Missing(error.name), None))
    except Exception:
        pipe.send((RuntimeError(traceback.format_exc()), None))


def start_tensorflow() -> None:
    """Imports TensorFlow, TensorLayer and the program's graphs in the way the program does."""
    import main

    with main.tensorflow_start():
        import tensorflow as tf

        tf.config.list_physical_devices()
        tf.get_logger().setLevel("ERROR")
        from training import run  # noqa: F401
        from upscaling import evaluate  # noqa: F401


def use_threads(count: int) -> None:
    """The same number of threads for every library that a contestant may bring."""
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = str(count)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def describe_machine() -> str:
    """One line: processor, cores, memory."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GB"


def seconds_per_call(call: Callable, times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        call()
    return (time.perf_counter() - started) / times


def peak_mb() -> float:
    """The most resident memory that this process ever had, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def take_turns(contestants: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """{name: seconds of each round}: one measurement of each, then the next round."""
    seconds = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, measure in contestants.items():
            time.sleep(SETTLE_SECONDS)
            seconds[name].append(measure())
    return seconds


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Ours / theirs of each round: the median, the least and the largest."""
    ratios = [a / b for a, b in zip(ours, theirs)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def describe_ratio(value: dict[str, float]) -> str:
    return f"{value['median']:.2f} ({value['min']:.2f} - {value['max']:.2f})"


def write_json(path: str | None, results: dict) -> None:
    if path:
        Path(path).write_text(json.dumps(results, indent=2) + "\n")
