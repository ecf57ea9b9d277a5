"""A part of a step that runs on the full batch: told of by its parameters and its line, unless it costs nothing."""

import pytest
import small
import torch
from expecttest import assert_expected_inline
from small import refused, warned
from torch.nn import functional as F

pytestmark = [
    pytest.mark.usefixtures("fresh_dynamo"),
    pytest.mark.filterwarnings("error::accumcompile.AccumulateWarning"),
]


def hooked(model):
    model.first.register_full_backward_hook(lambda module, gradients, outputs: None)
    return model


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_a_module_backward_hook():
    (text,) = warned(small.eager(small.plain), hooked(small.net()), *small.data(12))
    assert_expected_inline(
        text,
        """\
accumcompile AC021: a part of the step ran on the full batch: model.first.bias, model.first.weight
  small.py:N in plain
      loss.backward()
  why   Dynamo made a graph break at small.py:N:
        a module's backward hook
  cost  that part kept the activations of all 12 samples
  fix   register the hook on parameters or tensors (p.register_hook), not on a module""",
    )
    assert "AC021" in refused(small.eager(small.plain, strict=True), hooked(small.net()), *small.data(12))


def test_the_fix_of_a_module_backward_hook_is_split():
    model, norms = small.net(), []
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: norms.append(gradient.norm()))
    step = small.eager(small.plain)
    assert small.runs(step, model, *small.data(12)) == [(12, 4)]
    assert len(norms) == 4


def test_a_loss_outside_the_graph():
    def step(model, x, y):
        logits = model(x)
        print(logits.sum().item())
        loss = F.cross_entropy(logits, y)
        loss.backward()
        return loss.detach()

    (text,) = warned(small.eager(step), small.net(), *small.data(12))
    assert_expected_inline(
        text,
        """\
accumcompile AC030: the loss was computed outside the captured graph of the model
  test_full_batch_parts.py:N in step
      loss.backward()
  why   Dynamo made a graph break at test_full_batch_parts.py:N:
        a tensor becomes a Python number: item(), float(), print()
  cost  each micro-batch's forward runs twice, and the model's outputs are held for all 12 samples
  fix   keep that out of forward and loss: move it behind backward(), or out of the step""",
    )

    def fixed(model, x, y):
        logits = model(x)
        loss = F.cross_entropy(logits, y)
        loss.backward()
        print(logits.sum().item())
        return loss.detach()

    assert warned(small.eager(fixed), small.net(), *small.data(12)) == []


def test_some_parameters_on_the_full_batch():
    @torch._dynamo.disable
    def head(model, hidden):
        return model.second(hidden)

    def step(model, x, y):
        loss = F.cross_entropy(head(model, torch.relu(model.first(x))), y)
        loss.backward()
        return loss.detach()

    (text,) = warned(small.eager(step), small.net(), *small.data(12))
    assert_expected_inline(
        text,
        """\
accumcompile AC021: a part of the step ran on the full batch: model.second.bias, model.second.weight
  test_full_batch_parts.py:N in step
      loss.backward()
  why   Dynamo made a graph break at test_full_batch_parts.py:N:
        a function that torch.compiler.disable keeps from Dynamo
  cost  that part kept the activations of all 12 samples
  fix   let Dynamo see that function, or move the call behind backward()""",
    )


def test_a_penalty_without_the_batch_is_not_the_full_batch():
    """Parameters reached through a graph that holds no batch cost nothing."""

    def step(model, x, y):
        loss = F.cross_entropy(model(x), y)
        torch._dynamo.graph_break()
        penalty = sum(p.square().sum() for p in model.parameters())
        torch._dynamo.graph_break()
        total = loss + 0.01 * penalty
        total.backward()
        return total.detach()

    small.assert_equal(small.eager(step, strict=True), small.net(), *small.data(12))


def test_a_gradient_scaler_is_not_the_full_batch():
    scaler = torch.amp.GradScaler("cpu")

    def step(model, x, y):
        loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        return loss.detach()

    decorated = small.eager(step, strict=True)
    decorated(small.net(), *small.data(12))
