"""What PyTorch cannot trace for a batch of any size: an error with the user's line, and a fix that works."""

import re

import capturing
import pytest
import small
import torch
from expecttest import assert_expected_inline
from torch import nn
from torch.nn import functional as F

from accumcompile import BuildError
from accumcompile.capture import aot_api

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


class Transformer(nn.Module):
    """A spatial transformer: it looks where its first layer says."""

    def __init__(self) -> None:
        super().__init__()
        self.where = nn.Linear(16, 6, dtype=torch.float64)
        self.last = nn.Linear(16, 3, dtype=torch.float64)


def images(batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 1, 4, 4, dtype=torch.float64, generator=generator)
    return x, torch.randint(0, 3, (batch,), generator=generator)


def warped(model, x, grid):
    theta = model.where(x.flatten(1)).view(-1, 2, 3)
    seen = F.grid_sample(x, grid(theta, x.shape), align_corners=False)
    return model.last(seen.flatten(1))


def grid(theta, shape):
    return F.affine_grid(theta, shape, align_corners=False)


def test_the_line_of_the_forward_is_named():
    """It is the operator's derivative that cannot be traced."""

    def step(model, x, y):
        F.cross_entropy(warped(model, x, grid), y).backward()

    assert_expected_inline(
        small.refused(small.eager(step), Transformer(), *images(12)),
        """\
accumcompile AC017: PyTorch cannot trace this for a batch whose size varies
  test_untraceable.py:N in grid
      return F.affine_grid(theta, shape, align_corners=False)
  why   SymIntArrayRef expected to contain only concrete integers
  fix   call it in a function under torch.compiler.disable: it then runs on the whole batch, and the rest is split""",
    )


@pytest.mark.filterwarnings("ignore::accumcompile.AccumulateWarning")
def test_the_fix_works():
    outside = torch.compiler.disable(grid)

    def step(model, x, y):
        loss = F.cross_entropy(warped(model, x, outside), y)
        loss.backward()
        return loss.detach()

    ran = capturing.same(step, Transformer(), data=images)
    assert all(run.split.rows < run.split.batch for run in ran.runs)


def combinations(x):
    return torch.combinations(torch.arange(len(x))).T


def pairs_apart(model, x, pairs):
    i, j = pairs(x)
    return torch.exp(-(model(x)[i] - model(x)[j]).square()).mean()


def test_a_line_inside_of_which_dynamo_fails_is_named():
    """It does not know a size that depends on data, of an operator made of several."""

    def step(model, x, y):
        pairs_apart(model, x, combinations).backward()

    text = small.refused(small.eager(step), small.net(), *small.data(12))
    assert_expected_inline(
        re.sub(r"PendingUnbacked.*", "...", text),
        """\
accumcompile AC017: PyTorch cannot trace this for a batch whose size varies
  test_untraceable.py:N in combinations
      return torch.combinations(torch.arange(len(x))).T
  why   ...
  fix   call it in a function under torch.compiler.disable: it then runs on the whole batch, and the rest is split""",
    )


@pytest.mark.filterwarnings("ignore::accumcompile.AccumulateWarning")
def test_the_fix_works_there_too():
    outside = torch.compiler.disable(combinations)

    def step(model, x, y):
        loss = pairs_apart(model, x, outside)
        loss.backward()
        return loss.detach()

    ran = capturing.same(step, small.net())
    assert any(run.split.rows < run.split.batch for run in ran.runs)


def test_a_bug_of_ours_is_not_taken_for_one_of_pytorchs(monkeypatch):
    """What fails when the tracing is over is an internal error, with the line that was worked on."""

    def broken(gm, compiled):
        node = next(n for n in gm.graph.nodes if n.op == "call_function")
        raise LookupError(f"a bug at {node.op}")

    monkeypatch.setattr(aot_api, "improve", broken)
    with pytest.raises(BuildError) as caught:
        small.eager(small.plain)(small.net(), *small.data(12))
    assert caught.value.code == "AC901"
    assert "LookupError: a bug at call_function" in str(caught.value)
    assert caught.value.frame.code == "return self.second(torch.relu(self.first(x)))"
