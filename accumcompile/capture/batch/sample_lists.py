"""A Python list as the batch: one tensor, or one container of tensors, for each sample.

Its length is the batch size. No graph can carry that as a size; so the graph breaks where the list becomes one tensor
(``capture/dynamo/python_lists.py``), and from there on that tensor is the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import torch

from .containers import NOT_DATA, members

FEWEST = 3  # samples in a list that is known by their shapes alone: two may be inputs and targets


@dataclass(frozen=True)
class Samples:
    """A list with an item for each sample: a tensor, or what holds some.

    first: the first tensor of each item.
    tensors: all tensors.
    alone: whether each item is a tensor, so that one may be made of all.
    """

    first: Sequence[torch.Tensor]
    tensors: Sequence[torch.Tensor]
    alone: bool

    def __len__(self) -> int:
        return len(self.first)

    @property
    def differ(self) -> bool:
        """Whether the samples have no leading size in common, which would be the batch's."""
        sizes = {tensor.shape[:1] for tensor in self.first}
        return len(self) >= FEWEST and (len(sizes) > 1 or sizes == {()})

    def stand_in(self) -> torch.Tensor:
        """A tensor without memory, with a row for each sample: what the batch of a list is known by."""
        return torch.empty(len(self), 0)


def lists_of_samples(named: Mapping[str, Any], known: Set[str]) -> dict[str, Samples]:
    """The lists among the arguments that hold an item for each sample, by name; ``known`` are those of earlier calls.

    Of samples of one shape nothing can be told by themselves. They count if as many rows, or samples, are elsewhere.
    """
    lists: dict[str, Samples] = {}
    rows: set[int] = set()
    for name, value in named.items():
        _collect(name, value, lists, rows)
    sure = {name for name, samples in lists.items() if name in known or samples.differ}
    lengths = rows | {len(lists[name]) for name in sure}
    return {n: v for n, v in lists.items() if n in sure or (len(v) in lengths and v.first[0].shape[0] not in rows)}


def _collect(name: str, value: Any, lists: dict[str, Samples], rows: set[int]) -> None:
    """The lists of like items, and the rows of all other tensors."""
    if isinstance(value, torch.Tensor):
        rows |= set(value.shape[:1]) if not value.requires_grad else set()
    elif (samples := _samples(value)) is not None:
        lists[name] = samples
    elif not isinstance(value, NOT_DATA):
        for suffix, _, item in members(value):
            _collect(name + suffix, item, lists, rows)


def _samples(value: Any) -> Samples | None:
    """The samples in a list of data tensors that differ in length at most, or of containers of such."""
    if type(value) not in (list, tuple) or len(value) < 2 or len({type(item) for item in value}) > 1:
        return None
    items = [list(_tensors(item)) for item in value]
    if not all(items) or any(tensor.requires_grad for tensors in items for tensor in tensors):
        return None
    kinds = {tuple((t.dtype, t.dim(), t.shape[1:]) for t in tensors) for tensors in items}
    tensors = [tensor for each in items for tensor in each]
    alone = isinstance(value[0], torch.Tensor)
    return Samples([each[0] for each in items], tensors, alone) if len(kinds) == 1 else None


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif not isinstance(value, NOT_DATA):
        for _, _, item in members(value):
            yield from _tensors(item)
