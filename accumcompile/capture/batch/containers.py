"""What arguments hold: the items of containers, and what never holds data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch

# Types of arguments that never hold a part of the batch.
NOT_DATA = (
    torch.nn.Module,
    torch.nn.Parameter,
    torch.optim.Optimizer,
    torch.optim.lr_scheduler.LRScheduler,
    str,
    bytes,
)


def members(value: Any) -> Iterator[tuple[str, Any, Any]]:
    """(suffix of the name, key, value) of each item of a container; nothing for other values."""
    if isinstance(value, Mapping):  # dicts, and UserDicts such as BatchEncoding
        yield from ((f"[{key!r}]", key, value[key]) for key in value)
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from ((f".{name}", i, item) for i, (name, item) in enumerate(zip(value._fields, value, strict=True)))
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{i}]", i, item) for i, item in enumerate(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((f".{f.name}", f.name, getattr(value, f.name, None)) for f in dataclasses.fields(value))
    elif hasattr(type(value), "__attrs_attrs__"):
        yield from ((f".{a.name}", a.name, getattr(value, a.name, None)) for a in type(value).__attrs_attrs__)
    elif isinstance(value, SimpleNamespace):
        yield from ((f".{name}", name, item) for name, item in vars(value).items())
