"""The candidates for the batch among a step's undeclared arguments: one for each size, in the order of trial.

Which of them is split is a question of performance, not of correctness. The first is the first tensor's size; what
the captured graph does with them decides (``capture/dynamo/choice.py``), and the session remembers it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from ...session.choice import Choice, Larger

ONE_SAMPLE = "a batch of one runs as it is"

Key = tuple[str, int]  # an argument's name, and a dim


@dataclass(frozen=True, eq=False)
class Leaf:
    """A tensor among the arguments. ``dim`` is its batch dim, or None if it is not a batch input."""

    name: str
    tensor: torch.Tensor
    dim: int | None = None
    declared: bool = False
    leading: bool = False  # whether its size is the batch size, as nothing was declared
    sampled: bool = False  # one sample of a list of them, or of a part of one
    alone: bool = False  # that sample is the tensor alone
    beside: bool = False  # a batch of its own beside the call's, of another size

    @property
    def size(self) -> int:
        """The size of the batch dim."""
        return self.tensor.shape[self.dim or 0]

    @property
    def key(self) -> Key:
        """Its name and batch dim."""
        return self.name, self.dim or 0


@dataclass(frozen=True, eq=False)
class Candidate:
    """A size that may be the batch's, and the undeclared tensors that have it, the first of them first."""

    leaves: tuple[Leaf, ...]

    @property
    def leader(self) -> Leaf:
        """The tensor whose size it is."""
        return self.leaves[0]

    @property
    def size(self) -> int:
        """The batch size, should it be the batch."""
        return self.leader.size

    @property
    def bytes(self) -> int:
        """The bytes of its tensors."""
        return sum(leaf.tensor.nbytes for leaf in self.leaves)


@dataclass
class Candidates:
    """What a step remembers of its candidates from call to call. Arguments are known by name.

    taken: its dim 0 was used as a batch dim in some call so far.
    refused: it is not from now on, because its size differed from the batch's or became a constant.
    leader: the tensor whose size is the batch size.
    constant: those whose size user code makes a constant, and the largest such size: they cannot be the batch.
    lost: those that were tried, and would shard fewer bytes than another.
    sharded: the bytes that the leader shards in the graphs captured so far.
    stale: whether something was captured for another leader.
    beside: those that are batches of their own beside the leader's, and along which dim.
    why: why the leader was chosen, in words.
    lists: the Python lists of one tensor for each sample.
    """

    taken: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    leader: Key | None = None
    constant: dict[Key, int] = field(default_factory=dict)
    lost: set[Key] = field(default_factory=set)
    sharded: int = 0
    captured: bool = False
    stale: bool = False
    beside: dict[str, int] = field(default_factory=dict)
    why: str = ""
    lists: set[str] = field(default_factory=set)

    def lead(self, leader: Key, why: str = "") -> None:
        """From now on the batch is that of ``leader``; nothing that was learned beside another holds for it."""
        if leader == self.leader:
            return
        self.stale |= self.captured
        self.leader, self.why, self.sharded, self.captured = leader, why, 0, False
        self.taken.clear()
        self.beside.clear()
        self.refused &= {name for name, _ in self.constant}

    def is_open(self, leaf: Leaf) -> bool:
        """Whether its size may be the batch's: it is not known to become a constant."""
        return leaf.size > self.constant.get(leaf.key, -1)

    def copy(self) -> Candidates:
        """What is remembered now."""
        kept = replace(self)
        vars(kept).update({n: v.copy() for n, v in vars(self).items() if isinstance(v, (set, dict))})
        return kept

    def restore(self, before: Candidates) -> None:
        """Forget what was learned since ``before``, but not which candidates failed."""
        failed = {"constant": before.constant | self.constant, "lost": before.lost | self.lost}
        vars(self).update(vars(before) | failed)


def first_data(open_: Sequence[tuple[str, torch.Tensor]]) -> list[tuple[str, torch.Tensor]]:
    """Those that do not require grad, as data seldom does; all, if all do."""
    return [each for each in open_ if not each[1].requires_grad] or list(open_)


def ranked(open_: Sequence[tuple[str, torch.Tensor]], state: Candidates) -> list[Candidate]:
    """The candidates, the one to be tried first in front. A dim of 1 is none, while there is another.

    The leader of earlier calls is kept, also where it has one sample now. Of a single row, such as packed tokens of
    shape [1, total], the first larger dim is a candidate, after those that have rows.
    """
    data = first_data(open_)
    rows = [Leaf(n, t, 0) for n, t in data if t.shape[0] != 1]
    ones = [Leaf(n, t, 0) for n, t in data if t.shape[0] == 1]
    packed = [Leaf(n, t, dim) for n, t in data if (dim := _packed_dim(t)) is not None]
    kept = _candidates(*(list(filter(state.is_open, each)) for each in (rows, packed)))
    kept.sort(key=lambda c: c.leader.key in state.lost)
    if any(leaf.key == state.leader for leaf in ones):
        return [Candidate(tuple(ones)), *kept]
    known = [c for c in kept if state.leader in {leaf.key for leaf in c.leaves}]
    if known:
        return [_led(known[0], state.leader), *(c for c in kept if c is not known[0])]
    if ones and _largest(ones) >= _largest(rows):  # one sample, perhaps
        kept.append(Candidate(tuple(ones)))
    return kept or [max(_candidates(rows, packed), key=lambda c: c.bytes)]


def _largest(leaves: Sequence[Leaf]) -> int:
    return max((leaf.tensor.nbytes for leaf in leaves), default=0)


def _packed_dim(tensor: torch.Tensor) -> int | None:
    if tensor.shape[0] != 1:
        return None
    return next((dim for dim, size in enumerate(tensor.shape) if size > 1), None)


def _candidates(rows: Sequence[Leaf], packed: Sequence[Leaf]) -> list[Candidate]:
    return [*_by_size(rows), *_by_size(packed, rows)]


def _by_size(leaves: Sequence[Leaf], further: Sequence[Leaf] = ()) -> Iterator[Candidate]:
    """A candidate for each size of ``leaves``, with those of ``further`` that share it."""
    sizes = dict.fromkeys(leaf.size for leaf in leaves)
    for size in sizes:
        yield Candidate(tuple(leaf for leaf in (*leaves, *further) if leaf.size == size))


def _led(candidate: Candidate, leader: Key | None) -> Candidate:
    """The candidate with ``leader`` in front."""
    return Candidate(tuple(sorted(candidate.leaves, key=lambda leaf: leaf.key != leader)))


# What is said about it

_KEY = re.compile(r"\['(\w+)'\]")


def declaration(leaves: Sequence[Leaf]) -> str:
    """The ``batch_dims`` that would choose these leaves; of arguments that are containers, all that it can."""
    dims: dict = {}
    for leaf in leaves:
        argument, keys = re.split(r"[\[.]", leaf.name, maxsplit=1)[0], _KEY.findall(leaf.name)
        if argument + "".join(f"['{key}']" for key in keys) != leaf.name:
            dims[argument] = leaf.dim or 0
            continue
        *above, last = [argument, *keys]
        within = dims
        for key in above:
            within = within.setdefault(key, {})
        if isinstance(within, dict):
            within[last] = leaf.dim or 0
    return f"batch_dims={dims!r}".replace("'", '"')


def choice(leaves: Sequence[Leaf], size: int, why: str, others: Sequence[Candidate], beside: Sequence[Leaf]) -> Choice:
    """What explain() says of a call that is split along ``leaves``, where ``others`` are further candidates.

    Those ``beside`` are batches of their own.
    """
    rows = [leaf for leaf in leaves if leaf.dim and not leaf.declared and leaf.tensor.shape[0] == 1]
    inputs = [(leaf.name, leaf.dim or 0) for leaf in leaves]
    own = [(leaf.name, leaf.dim or 0, leaf.size) for leaf in beside]
    return Choice(inputs, size, why, declaration(rows) if rows else "", _larger(leaves, others), own)


def _larger(chosen: Sequence[Leaf], others: Sequence[Candidate]) -> Larger | None:
    """The largest input of another candidate, if it is larger than all of the chosen."""
    leaves = [(leaf, c) for c in others if c.size > 1 for leaf in c.leaves]
    leaf, of = max(leaves, key=lambda each: each[0].tensor.nbytes, default=(None, None))
    if leaf is None or of is None or leaf.tensor.nbytes <= _largest(chosen):
        return None
    return Larger(leaf.name, leaf.dim or 0, leaf.size, leaf.tensor.nbytes, declaration(of.leaves))
