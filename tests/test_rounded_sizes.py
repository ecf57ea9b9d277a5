"""Sizes that are rounded down, such as ``len(x) // 2 * 2``: they are not the batch's, and nothing may take them so."""

from types import SimpleNamespace

import capturing
import pytest
import small
import sympy
import torch
from torch.nn import functional as F
from torch.utils._sympy.functions import CleanDiv, FloorDiv, Mod

from accumcompile.ir.divisibility import divisible
from accumcompile.ir.sizes import Batch

SIZE = sympy.Symbol("s", integer=True, positive=True)
EVEN = Batch.of([SIZE], [FloorDiv(SIZE, 2)], lambda by: by in (1, 2))
ANY = Batch.of([SIZE], [FloorDiv(SIZE, 2)], lambda by: by == 1)


def whole_pairs(z):
    return z[: len(z) // 2 * 2]


def differences(z):
    z = whole_pairs(z)
    return z[::2] - z[1::2]


def neighbours(z):
    z = whole_pairs(z)
    return z[1:] - z[:-1]


def in_threes(z):
    return z[: len(z) // 3 * 3].unflatten(0, (-1, 3)).std(1)


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("cut", [whole_pairs, differences, neighbours, in_threes])
def test_a_batch_that_is_cut_to_whole_groups(cut):
    """The step's own result, and one that is only returned."""

    def step(model, x, y):
        out = model(x)
        loss = cut(out).square().mean() + F.cross_entropy(out, y)
        loss.backward()
        with torch.no_grad():
            return loss.detach(), cut(out.detach()).exp().sum()

    capturing.same(step, small.net(), sizes=(12, 13, 7, 8))


GROUPS = {
    "view(B//2,2)": lambda z: z.view(len(z) // 2, 2, -1),
    "view(-1,2)": lambda z: z.view(-1, 2, z.shape[1]),
    "unflatten(-1,2)": lambda z: z.unflatten(0, (-1, 2)),
    "unflatten(B//3,3)": lambda z: z.unflatten(0, (len(z) // 3, 3)),
}


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("grouped", GROUPS.values(), ids=GROUPS)
def test_a_batch_of_groups_is_split_between_them(grouped):
    """However the groups are written, PyTorch checks that they are whole: one loop, and nothing is gathered."""

    def step(model, x, y):
        groups = grouped(model(x))
        loss = (groups[:, 0] - groups[:, 1]).square().mean() + groups.logsumexp(-1).mean()
        loss.backward()
        return loss.detach()

    ran = capturing.same(step, small.net(), sizes=(12, 24), steps=4)
    assert {len(run.plan.loops) for run in ran.runs} == {1}
    assert all(run.split.rows < run.split.batch for run in ran.runs)


@pytest.mark.parametrize(
    "check, implied, not_implied",
    [
        (3 * SIZE - 6 * FloorDiv(SIZE, 2), 2, 4),
        (SIZE - 3 * FloorDiv(SIZE, 3), 3, 2),
        (Mod(6 * SIZE, 24), 4, 8),
        (FloorDiv(SIZE + 1, 2) - FloorDiv(SIZE, 2), 2, 4),
        (SIZE - 2 * FloorDiv(SIZE, 2) - 1, 1, 2),  # odd
        (FloorDiv(SIZE, 2) - 3, 1, 2),  # 6 or 7
        (FloorDiv(FloorDiv(SIZE, 2), 3) * 6 - SIZE, 6, 4),
    ],
    ids=str,
)
def test_what_a_check_says_of_divisors(check, implied, not_implied):
    shape_env = SimpleNamespace(guards=[SimpleNamespace(expr=sympy.Eq(check, 0, evaluate=False))])
    size = SimpleNamespace(node=SimpleNamespace(expr=SIZE, shape_env=shape_env))
    divides = divisible([size])
    assert divides(implied) and not divides(not_implied)
    holds = [s for s in range(2, 200) if check.subs(SIZE, s) == 0]
    assert all(s % implied == 0 for s in holds) and any(s % not_implied for s in holds)


def test_a_rounded_size_is_the_batch_only_where_nothing_is_rounded():
    assert EVEN.equal(2 * FloorDiv(SIZE, 2), SIZE)
    assert not ANY.equal(2 * FloorDiv(SIZE, 2), SIZE)
    assert ANY.equal(FloorDiv(SIZE, 2) + SIZE, SIZE + FloorDiv(SIZE, 2))
    assert ANY.equal(2 * CleanDiv(SIZE, 2), SIZE)
    assert ANY.equal(FloorDiv(6 * SIZE, 3), 2 * SIZE)
    assert ANY.equal(FloorDiv(SIZE**2, SIZE), SIZE)
    assert EVEN.equal(FloorDiv(SIZE, FloorDiv(SIZE, 2)), 2)
    assert ANY.equal(FloorDiv(2 * SIZE + 1, 2), SIZE)
    assert EVEN.equal(FloorDiv(SIZE + 1, 2), SIZE / 2)
    assert not ANY.equal(FloorDiv(SIZE + 1, 2), SIZE / 2)


def test_a_size_that_is_the_same_for_every_batch_does_not_depend_on_it():
    rest = SIZE - 2 * FloorDiv(SIZE, 2) + 1
    assert not EVEN.in_size(rest)
    assert ANY.in_size(rest)


@pytest.mark.usefixtures("fresh_dynamo")
def test_the_last_row_found_by_a_rounded_size():
    """It is one row, for the batch is cut in three parts as well: one of the whole, and of no micro-batch."""

    def step(model, x, y):
        out = model(x)
        loss = out[len(out) // 3 * 3 - 1 :].square().sum() + out.reshape(3, -1, 3).tril().mean()
        loss.backward()
        return loss.detach()

    capturing.same(step, small.net(), sizes=(12, 9))


def test_a_sample_owns_no_rows_of_a_rounded_size():
    assert EVEN.per_sample(2 * FloorDiv(SIZE, 2)) == 1
    assert ANY.per_sample(2 * FloorDiv(SIZE, 2)) is None
    assert ANY.quotient(2 * FloorDiv(SIZE, 2), SIZE) is None


def test_half_of_the_batch_is_a_whole_number_only_of_even_batches():
    assert ANY.quotient(SIZE, 2) is None
    assert EVEN.quotient(SIZE, 2) == FloorDiv(SIZE, 2)


def test_a_rounded_size_stays_what_it_is():
    """It is a number of its own only while sizes are compared."""
    pairs = FloorDiv(SIZE, 2)
    assert ANY.quotient(pairs * SIZE, SIZE) == pairs
    assert ANY.per_sample(pairs * SIZE) == pairs
