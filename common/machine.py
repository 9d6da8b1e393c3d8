"""Memory and cores available to this process."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_OF_PROCESS = Path("/proc/self/cgroup")
UNKNOWN_MACHINE_BYTES = 4 * 2**30
DEFAULT_MEMORY_BYTES = 1280 * 2**20  # for upscaling, including the result; larger tiles are no faster
MIN_MEMORY_BYTES = 256 * 2**20  # for tensors when the result is large; costs 3 % in time


def usable_cores() -> int:
    """Cores available to this process, given its CPU affinity and its cgroup v2 quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # the quota is 'max' or the file does not exist
        quota, period = map(int, (CGROUP_ROOT / "cpu.max").read_text().split())
        cores = min(cores, max(1, quota // period))
    return cores


def memory_limit() -> int:
    """Bytes of memory this process may use: the machine's memory or a lower cgroup limit."""
    try:
        limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return UNKNOWN_MACHINE_BYTES
    for file in _limit_files():
        with contextlib.suppress(OSError, ValueError):  # the limit is 'max' or the file does not exist
            limit = min(limit, int(file.read_text()))
    return limit


def _limit_files():
    """Memory limit files of this process's cgroups and their parents, for cgroup v2 and v1."""
    groups = {"/"}
    with contextlib.suppress(OSError):
        groups |= {line.split(":", 2)[2] for line in CGROUP_OF_PROCESS.read_text().splitlines()}
    for group in groups:
        for name in (group, *map(str, Path(group).parents)):
            yield CGROUP_ROOT / name.strip("/") / "memory.max"
            yield CGROUP_ROOT / "memory" / name.strip("/") / "memory.limit_in_bytes"


def memory_budget(memory_mb: int, result_bytes: int = 0) -> int:
    """Bytes that upscaling may use for its tensors: RUNTIME.memory_mb, unless it is 0.

    If it is 0: the default minus the size of a large result, at most a quarter of the available memory.
    """
    if memory_mb:
        return memory_mb * 2**20
    taken = result_bytes if result_bytes > MIN_MEMORY_BYTES else 0
    return min(max(DEFAULT_MEMORY_BYTES - taken, MIN_MEMORY_BYTES), memory_limit() // 4)
