"""Random steps, as Hypothesis draws and shrinks them."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import assume, reject
from hypothesis import strategies as st

from . import moves, routing, selected, state  # noqa: F401  (their generators enter the table)
from .losses import LOSSES
from .maker import Maker, Unfit, Value
from .ops import OPS
from .program import OPTIMIZERS, Op, Program

# Mostly many rows a sample: activations shall be larger than parameters, or memory says nothing.
INPUTS = (*["torch.randn(B, {t}, {h})"] * 5, "torch.randn(B, {h})")
FIRST = ("x @ {w}", "torch.tanh(x @ {w})", "torch.relu(x @ {w})")
NAMES = [name for name, (_, weight) in OPS.items() for _ in range(weight)]
TRIES = 8  # generators that may find nothing to work with, in a row
MOST_TERMS = 3
SMALLEST_BATCH, LARGEST_BATCH = 2, 13
SHORTEST, LONGEST = 5, 40  # ops of a step
LONGEST_COMPILED = 8  # through Inductor: each kernel costs a second, whatever its length and the level of optimisation


@st.composite
def programs(draw: Callable, least: int = SHORTEST, most: int = LONGEST) -> Program:
    """A step of that many ops. ``granule`` samples may be grouped, and divide every batch."""

    def below(n: int) -> int:
        return draw(st.integers(0, n - 1))

    granule = (1, 1, 1, 2, 3, 4)[below(6)]
    m = Maker(below, granule)
    features, length = (16, 8, 24, 32)[below(4)], (8, 12, 16)[below(3)]
    m.input("x", m.one_of(INPUTS).format(h=features, t=length))
    first = m.line("h", m.one_of(FIRST).format(w=m.parameter(features, 16, scale=f" / {features}**0.5")))
    wanted = least + min(below(most - least + 1) for _ in range(3))  # long ones are rare
    ops = [Op("first", "h", first), *(draw(_ops(m, i)) for i in range(wanted - 1))]
    terms, returned = _end(m)
    assume(terms)
    runs = _runs(below, granule)
    return Program(
        m.parameters,
        m.inputs,
        tuple(ops),
        tuple(terms),
        tuple(returned),
        runs,
        optimizer=list(OPTIMIZERS)[below(4) == 3],
        groups=1 + (below(4) == 3 and len(m.parameters) > 1),
    )


@st.composite
def _ops(draw: Callable, m: Maker, index: int) -> Op:
    """One line, by the first generator drawn that finds something to work with."""
    m._draw = lambda n: draw(st.integers(0, n - 1))
    for _ in range(TRIES):
        kind = m.one_of(NAMES)
        made = m.attempt(lambda m: m.line(f"v{index}", OPS[kind][0](m)))  # noqa: B023  (called at once)
        if made is not None:
            return Op(kind, f"v{index}", made)
    return reject()


def _end(m: Maker) -> tuple[list[str], list[str]]:
    """Terms of the loss for what nothing has read yet; what no parameter went into is returned, mostly as a number."""
    left, terms = m.unused[::-1], []
    trained = [v for v in left if v.trained]
    terms = [_term(m, v) if i < MOST_TERMS else f"{v}.mean()" for i, v in enumerate(trained)]
    returned = [str(v) if m.chance(20) else f"{v}.sum()" for v in left if not v.trained]
    return terms, returned + [str(v) for v in trained[:1] if m.chance(20)]


def _term(m: Maker, v: Value) -> str:
    for _ in range(3):
        generator = m.one_of(LOSSES)
        code = m.attempt(lambda m: _checked(m, generator(m, v)))  # noqa: B023  (called at once)
        if code is not None:
            return code
    return f"{v}.square().mean()"


def _checked(m: Maker, code: str) -> str:
    """The term, if it is a well-scaled number."""
    values, unused = list(m.values), list(m.unused)
    code = m.line("term", code)
    rank, m.values, m.unused = m.values[-1].rank, values, unused
    if rank:
        raise Unfit
    return code


def _runs(below: Callable[[int], int], granule: int) -> tuple[tuple[int, int], ...]:
    """Two numbers of micro-batches, now and then of batches of two sizes, which may have to be captured anew."""
    first, second = _batch(below, granule), _batch(below, granule)
    sizes = (first, second if below(4) == 3 else first)
    return tuple((size, 1 + below(size + 1)) for size in sizes)


def _batch(below: Callable[[int], int], granule: int) -> int:
    """A multiple of the granule, small ones first."""
    least, most = -(-SMALLEST_BATCH // granule), LARGEST_BATCH // granule
    return granule * (least + below(most - least + 1))
