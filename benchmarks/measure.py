"""Pairwise times and peak memory."""

import ctypes
import gc
import statistics
import time
from pathlib import Path

import torch
from variants import Step

Spread = tuple[float, float, float]  # median, least, greatest


def timed(step: Step) -> float:
    """Seconds of one update."""
    synchronize()
    start = time.perf_counter()
    step()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleave(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds per variant and round; each round runs every variant once and starts with the next one."""
    names = list(steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(timed(steps[name]))
    return times


def ratio(times: dict[str, list[float]], name: str, to: str) -> Spread | None:
    """The ratio of two variants, pair by pair within the rounds."""
    if to not in times or name == to:
        return None
    ratios = [a / b for a, b in zip(times[name], times[to], strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def peak_memory(step: Step, device: str, updates: int = 3) -> float:
    """The most MiB in use during a few updates: resident in the process, or allocated on the device."""
    reset_peak(device)
    for _ in range(updates):
        step()
    return read_peak(device)


def reset_peak(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    ctypes.CDLL(None).malloc_trim(0)  # what compiling has freed is still resident
    Path("/proc/self/clear_refs").write_text("5")


def read_peak(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**10
