"""The oracle on a fixed sample of operators: nothing unsound; and the oracle itself, on rules made wrong."""

import logging

import pytest
import torch
from flips import EQUIVALENT, Case
from rule_samples import SAMPLES
from torch.testing._internal.common_methods_invocations import op_db

from accumcompile.ir.placement import Partial, Shard
from accumcompile.oracle import brute
from accumcompile.oracle.apart import apart
from accumcompile.oracle.capture import capture
from accumcompile.oracle.check import TOLERANCE, Uneven, run_split
from accumcompile.oracle.rules import survives, surviving
from accumcompile.oracle.survey import survey
from accumcompile.rules.table import RULES

aten = torch.ops.aten

FAST = ["addmm", "cumsum", "index_select", "softmax", "std", "nn.functional.layer_norm"]
FIXED = [
    *(
        "amax",
        "bmm",
        "cat",
        "cdist",
        "diff",
        "gather",
        "index_put",
        "linalg.det",
        "logsumexp",
        "matmul",
        "mean",
    ),
    *("masked.softmax", "nn.functional.conv2d", "nn.functional.cross_entropy", "nn.functional.embedding"),
    *("nn.functional.group_norm", "nn.functional.max_pool2d", "nn.functional.nll_loss", "nn.functional.pad"),
    *(
        "nn.functional.scaled_dot_product_attention",
        "norm",
        "prod",
        "repeat",
        "reshape",
        "scatter_add",
        "sort",
    ),
    *("take_along_dim", "topk", "tril", "var", "where"),
]


@pytest.fixture(autouse=True)
def quiet():
    """Tracing an operator that cannot be traced is no news here."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


def judged(name: str, samples: int, choices: int):
    return survey(next(op for op in op_db if op.name == name), samples, choices)


@pytest.mark.parametrize("name", FAST)
def test_nothing_is_unsound(name):
    verdict = judged(name, 3, 4)
    assert verdict.placed and not verdict.unsound and not verdict.failed


@pytest.mark.slow
@pytest.mark.parametrize("name", FIXED)
def test_nothing_is_unsound_in_the_fixed_sample(name):
    verdict = judged(name, 3, 4)
    assert not verdict.unsound and not verdict.failed


@pytest.mark.parametrize("name", ["cumsum", "softmax"])
def test_nothing_is_missing_where_nothing_should_be(name):
    verdict = judged(name, 2, 3)
    assert verdict.possible and not verdict.missing


def f(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("fn", "tensors", "choice", "placements"),
    [
        (torch.matmul, (f(5, 3), f(3, 4)), (0, None), ["S(0)"]),
        (torch.matmul, (f(4, 5), f(5, 3)), (1, 0), ["P(sum)"]),
        (lambda x: x.flatten(0, 1), (f(3, 5, 2),), (1,), ["S(0, outer=3)"]),
        (lambda x: x.var(0), (f(7, 3),), (0,), ["R"]),
        (lambda x: x.flatten(0, 1).exp().view(3, -1, 2), (f(3, 5, 2),), (1,), ["S(1)"]),
        (lambda x: x @ x.t(), (f(5, 3),), (0,), ["S(0)"]),
    ],
)
def test_a_function_is_placed_and_split(fn, tensors, choice, placements):
    outcome = run_split(capture(fn, tensors, choice))
    assert max(outcome.differences) < TOLERANCE
    assert [str(p) for p in outcome.placements] == placements


def test_micro_batches_are_uneven_and_keep_granules():
    assert [rows for _, rows in Uneven(9)] == [1, 2, 4, 1, 1]
    assert [rows for _, rows in Uneven(12, granule=3)] == [3, 6, 3]


def test_brute_force_finds_every_placement():
    x = f(5, 3)
    assert brute.sharded(lambda x: x.sum(0), [x], (0,), list(Uneven(5))) == [{Partial()}]
    assert brute.sharded(lambda x: x.exp(), [x], (0,), list(Uneven(5))) == [{Shard(0)}]
    assert brute.sharded(lambda x: x.softmax(0), [x], (0,), list(Uneven(5))) == [set()]
    assert brute.partial(lambda x: 2 * x, [x], [0]) == [{Partial()}]


FLIPPED = [
    *(aten.add.Tensor, aten.where.self, aten.copy.default, aten.amax.default, aten.sum.dim_IntList, aten.mm.default),
    *(aten.embedding.default, aten.cumsum.default, aten.cat.default, aten.unbind.int, aten.scatter_add.default),
    *(aten.index.Tensor, aten.searchsorted.Tensor, aten._cdist_forward.default, aten.avg_pool2d.default),
]


def assert_only_equivalent_flips_survive(op):
    """Flips run in processes of their own; that the row itself survives there shows that they do run."""
    assert apart(survives, op, RULES[op], SAMPLES[op])
    assert set(surviving(op, RULES[op], SAMPLES[op])) == {flip for row, flip in EQUIVALENT if row is op}


@pytest.mark.parametrize("op", FLIPPED, ids=str)
def test_flipped_rows_are_caught(op):
    assert_only_equivalent_flips_survive(op)


@pytest.mark.slow
@pytest.mark.parametrize("op", [op for op in SAMPLES if op not in FLIPPED], ids=str)
def test_all_flipped_rows_are_caught(op):
    assert_only_equivalent_flips_survive(op)


@pytest.mark.parametrize(("op", "flip"), EQUIVALENT, ids=str)
def test_a_flip_that_survives_is_right(op, flip):
    why = EQUIVALENT[op, flip]
    assert all(why(Case(op, flip, sample)) for sample in SAMPLES[op]), why.__doc__
