"""The most bytes that the tensors of one update hold at a time, gradients left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile


@dataclass
class Peak:
    """Filled in when the update is over."""

    bytes: int = 0


@contextmanager
def measured(kept: Callable[[], Iterable[torch.Tensor]]) -> Iterator[Peak]:
    """Measure what is allocated meanwhile, without the memory of what ``kept`` yields afterwards.

    What was there before, such as parameters and inputs, is no allocation.
    """
    peak = Peak()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        yield peak
    spared = {x.untyped_storage().data_ptr() for x in kept()}
    peak.bytes = _most(record, spared)


def _most(record: Any, spared: set[int]) -> int:
    events = [e for e in _all(record.profiler.kineto_results.experimental_event_tree()) if _allocates(e)]
    changes = [(e.start_time_ns, e.extra_fields.ptr, e.extra_fields.alloc_size) for e in events]
    changes.sort(key=lambda change: change[0])
    final = {ptr: i for i, (_, ptr, size) in enumerate(changes) if size > 0 and ptr in spared}
    sizes: dict[int, int] = {}
    most = live = 0
    for i, (_, ptr, size) in enumerate(changes):
        if size > 0 and final.get(ptr) != i:
            sizes[ptr] = size
            live += size
        elif size < 0:
            live -= sizes.pop(ptr, 0)
        most = max(most, live)
    return most


def _allocates(event: Any) -> bool:
    return event.tag == _EventType.Allocation


def _all(events: Iterable[Any]) -> Iterator[Any]:
    for event in events:
        yield event
        yield from _all(event.children)
