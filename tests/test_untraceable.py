"""What PyTorch cannot trace for a batch of any size runs on the whole batch, and the rest is split."""

import capturing
import pytest
import small
import torch
from expecttest import assert_expected_inline
from torch import nn
from torch.nn import functional as F

from accumcompile import BuildError
from accumcompile.capture.aot import split as aot

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


def warping(model, x, y):
    loss = F.cross_entropy(warped(model, x, grid), y)
    loss.backward()
    return loss.detach()


@pytest.mark.filterwarnings("ignore::accumcompile.AccumulateWarning")
def test_a_line_that_only_autograd_fails_on_is_a_break():
    """The size of the grid is a plain number to the operator's derivative."""
    ran = capturing.same(warping, Transformer(), data=images)
    assert {run.plan.road for run in ran.runs} == {"forward", "backward", "fused"}
    assert all(len(run.split) == 3 for run in ran.runs)


def in_few_words(text):
    """Without what torch 2.15 adds to its own message."""
    return text.replace(" that are stored inline and can be viewed as an IntArrayRef", "")


def test_the_break_is_told_with_its_reason():
    text, *_ = small.warned(small.eager(warping), Transformer(), *images(12))
    assert_expected_inline(
        in_few_words(text),
        """\
accumcompile AC030: the loss was computed outside the captured graph of the model
  test_untraceable.py:N in warping
      loss.backward()
  why   Dynamo made a graph break at test_untraceable.py:N:
        PyTorch cannot trace it for a batch whose size varies
        SymIntArrayRef expected to contain only concrete integers
  cost  each micro-batch's forward runs twice, and the model's outputs are held for all 12 samples
  fix   keep that out of forward and loss: move it behind backward(), or out of the step""",
    )


def test_without_the_decorator_the_line_is_named():
    """A backend that Dynamo calls cannot have it break the graph."""
    step, _ = capturing.by_name(warping)
    assert_expected_inline(
        in_few_words(small.refused(step, Transformer(), *images(12))),
        """\
accumcompile AC017: PyTorch cannot trace this for a batch whose size varies
  test_untraceable.py:N in grid
      return F.affine_grid(theta, shape, align_corners=False)
  why   SymIntArrayRef expected to contain only concrete integers
  fix   call it in a function under torch.compiler.disable: it then runs on the whole batch, and the rest is split""",
    )


def test_a_line_inside_of_which_dynamo_fails_is_a_break():
    """It does not know a size that depends on data, of an operator made of several."""

    def step(model, x, y):
        i, j = torch.combinations(torch.arange(len(x))).T
        z = model(x)
        loss = torch.exp(-(z[i] - z[j]).square()).mean()
        loss.backward()
        return loss.detach()

    ran = capturing.same(step, small.net())
    trained = [road for road in ran.roads if road != "inference"]  # torch 2.13 counts them in a graph of its own
    assert trained == ["fused"] * 2
    assert all(len(run.split) == 3 for run in ran.runs)


@pytest.mark.parametrize("by", (capturing.decorated, capturing.by_name), ids=lambda f: f.__name__)
def test_a_bug_of_ours_is_not_taken_for_one_of_pytorchs(by, monkeypatch):
    """What fails when the tracing is over is named as ours, with the line that was worked on."""

    def improve(gm, context):
        node = next(n for n in gm.graph.nodes if n.op == "call_function")
        raise LookupError(f"a bug at {node.op}")

    monkeypatch.setattr(aot, "improve", improve)
    step, _ = by(small.plain)
    model = small.net()
    with pytest.raises(BuildError) as caught:
        step(model, *small.data(12))
    assert "AC901: internal check failed: LookupError: a bug at call_function\n" in str(caught.value)
    assert "please report this" in str(caught.value)
    assert caught.value.frame.code == "return self.second(torch.relu(self.first(x)))"
    assert all(p.grad is None for p in model.parameters())
