"""A Python list of tensors as the batch: one tensor for each sample.

Its length is the batch size. No graph can carry that as a size; so the graph breaks where the list becomes one tensor
(``capture/dynamo/python_lists.py``), and from there on that tensor is the batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch

from .containers import NOT_DATA, members

Lists = dict[str, Sequence[torch.Tensor]]
FEWEST = 3  # tensors in a list that is known by their shapes alone: two may be inputs and targets


def lists_of_samples(named: Mapping[str, Any], known: Set[str]) -> Lists:
    """The lists among the arguments that hold a tensor for each sample, by name; ``known`` are those of earlier calls.

    Of samples of one shape nothing can be told by themselves. They count if as many rows, or samples, are elsewhere.
    """
    lists: Lists = {}
    rows: set[int] = set()
    for name, value in named.items():
        _collect(name, value, lists, rows)
    sure = {name for name, values in lists.items() if name in known or _differ(values)}
    lengths = rows | {len(lists[name]) for name in sure}
    return {n: v for n, v in lists.items() if n in sure or (len(v) in lengths and v[0].shape[0] not in rows)}


def stand_in(samples: Sequence[torch.Tensor]) -> torch.Tensor:
    """A tensor without memory, with a row for each sample: what the batch of a list is known by."""
    return torch.empty(len(samples), 0)


def _collect(name: str, value: Any, lists: Lists, rows: set[int]) -> None:
    """The lists of like tensors, and the rows of all other tensors."""
    if isinstance(value, torch.Tensor):
        rows |= set(value.shape[:1]) if not value.requires_grad else set()
    elif _are_alike(value):
        lists[name] = value
    elif not isinstance(value, NOT_DATA):
        for suffix, _, item in members(value):
            _collect(name + suffix, item, lists, rows)


def _are_alike(value: Any) -> bool:
    """Whether a value is a list of data tensors that differ in length at most."""
    if type(value) not in (list, tuple) or len(value) < 2 or not all(type(item) is torch.Tensor for item in value):
        return False
    kinds = {(item.dtype, item.dim(), item.shape[1:], item.requires_grad) for item in value}
    return len(kinds) == 1 and not value[0].requires_grad


def _differ(values: Sequence[torch.Tensor]) -> bool:
    """Whether they have no leading size in common, which would be the batch's."""
    return len(values) >= FEWEST and (values[0].dim() == 0 or len({value.shape[0] for value in values}) > 1)
