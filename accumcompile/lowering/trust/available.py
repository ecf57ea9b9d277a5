"""How much memory is available for optional work."""

from __future__ import annotations

import sys
from pathlib import Path

import torch


def available(device: torch.device) -> int:
    """Bytes that can be allocated on ``device`` now; no limit if that is unknown."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(_in_the_system(), _in_the_group())


def _in_the_system() -> int:
    """Linux's estimate, which includes caches that it would release."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return sys.maxsize
    kilobytes = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return 1024 * next(kilobytes, sys.maxsize)


def _in_the_group() -> int:
    """What a container's memory limit leaves."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such limit
        return sys.maxsize
    return limit - used + int(counts.get("inactive_file", 0))
