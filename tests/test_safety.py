"""What else would run on the full batch, or otherwise than the user thinks: the text, and the way out."""

import pytest
import small
import torch
from expecttest import assert_expected_inline
from small import refused
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from accumcompile import AccumulateWarning

pytestmark = [
    pytest.mark.usefixtures("fresh_dynamo"),
    pytest.mark.filterwarnings("error::accumcompile.AccumulateWarning"),
]


def test_a_dispatch_mode_is_refused_before_dynamo_sees_it():
    step, model = small.eager(small.plain), small.net()
    with FlopCounterMode(display=False):
        assert_expected_inline(
            refused(step, model, *small.data(12)),
            """\
accumcompile AC022: a TorchDispatchMode is active: _FlopCounterMode
  small.py:N in refused
      step(*args)
  why   torch.compile captures nothing below such a mode, so the step would run on the full batch
  fix   call the step outside the mode; explain() and verify() show what it does""",
        )
    small.assert_equal(step, model, *small.data(12))  # the fix: outside of the mode
    assert small.runs(step, model, *small.data(12)) == [(12, 4)]


def returning(model, x, y):
    return {"loss": F.cross_entropy(model(x), y)}


def test_a_loss_that_the_caller_differentiates():
    """As Lightning and many a trainer do."""
    decorated, ours, plain = small.eager(returning, strict=True), small.net(), small.net()
    with decorated.session.journal.recording() as recorded:
        for _ in range(2):
            (decorated(ours, *small.data(12))["loss"] / 2).backward()
            (returning(plain, *small.data(12))["loss"] / 2).backward()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-10)
    assert [(run.split.batch, len(run.split)) for run in recorded] == [(12, 4)] * 2


def test_two_losses_that_the_caller_differentiates_together():
    decorated, model = small.eager(returning, strict=True), small.net()
    losses = [decorated(model, *small.data(12))["loss"] for _ in range(3)]
    sum(losses).backward()
    decorated(model, *small.data(12))


def test_a_loss_that_the_caller_forgets():
    """It is told at the next call: only then is it known."""
    decorated, model = small.eager(returning), small.net()
    decorated(model, *small.data(12))
    with pytest.warns(AccumulateWarning, match="AC031"):
        decorated(model, *small.data(12))
    strict = small.eager(returning, strict=True)
    strict(model, *small.data(12))
    assert "AC031" in refused(strict, model, *small.data(12))


def test_explain_and_verify_differentiate_it_too():
    decorated, model = small.eager(returning, strict=True), small.net()
    assert decorated.verify(model, *small.data(12)).passed
    assert [loop.micro_batches for loop in decorated.explain(model, *small.data(12)).loops] == [1, 4]
    for _ in range(2):  # and the losses of those runs are not forgotten ones
        decorated(model, *small.data(12))["loss"].backward()


def test_a_loss_on_the_full_batch_that_the_caller_would_differentiate():
    """A backward outside of the step is one that the net never sees."""

    def step(model, x, y):
        for _ in range(1):
            loss = F.cross_entropy(model(x), y)
            torch._dynamo.graph_break()
        return loss

    decorated = small.eager(step)
    for _ in range(2):
        assert "AC020: the step ran on the full batch" in refused(decorated, small.layer(), *small.data(12))


def test_a_step_that_never_calls_backward():
    def step(model, x, y):
        return F.cross_entropy(model(x), y).detach()

    decorated = small.eager(step)
    model = small.net()
    with pytest.warns(AccumulateWarning) as caught:
        decorated(model, *small.data(12))
    assert_expected_inline(
        small.text(small.ours(caught)[0]),
        """\
accumcompile AC031: step never called backward()
  test_safety.py:N in step
  why   gradients are what is accumulated: without them the step is only a forward pass
  fix   call backward() in the step, or on the loss that it returns; run an evaluation under torch.no_grad()""",
    )
    decorated(model, *small.data(12))
    assert "AC031" in refused(small.eager(step, strict=True), model, *small.data(12))
    with torch.no_grad():
        small.eager(step, strict=True)(model, *small.data(12))


def test_a_step_within_a_step_need_not_call_backward():
    loss_of_batch = small.eager(small.loss_of, strict=True)

    def step(model, x, y):
        loss = loss_of_batch(model, x, y)
        loss.backward()
        return loss.detach()

    decorated = small.eager(step, strict=True)
    with loss_of_batch.session.journal.recording() as recorded:
        decorated(small.net(), *small.data(12))
    assert [(run.split.batch, len(run.split)) for run in recorded] == [(12, 4)]


def test_a_derivative_within_the_graph_is_a_backward():
    def step(model, x, y):
        def loss(parameters):
            return F.cross_entropy(torch.func.functional_call(model, parameters, (x,)), y)

        return torch.func.grad(loss)(dict(model.named_parameters()))

    decorated = small.eager(step, strict=True)
    model = small.net()
    gradients = decorated(model, *small.data(12))
    expected = decorated.fn(model, *small.data(12))
    torch.testing.assert_close(gradients, expected, rtol=1e-10, atol=1e-10)


def test_a_model_that_is_already_compiled():
    decorated = small.eager(small.plain)
    model = torch.compile(small.net())
    with pytest.warns(AccumulateWarning) as caught:
        decorated(model, *small.data(12))
    assert_expected_inline(
        small.text(small.ours(caught)[0]),
        """\
accumcompile AC032: model is already wrapped in torch.compile
  test_safety.py:N in test_a_model_that_is_already_compiled
      decorated(model, *small.data(12))
  why   it is inlined into the step, and its own backend and options are ignored
  fix   pass the plain module (._orig_mod of the wrapped one)""",
    )
    decorated(model, *small.data(12))
    assert "AC032" in refused(small.eager(small.plain, strict=True), torch.compile(small.net()), *small.data(12))


def test_a_frame_that_is_captured_too_often():
    def step(model, x, y, name):
        loss = F.cross_entropy(model(x), y) * len(name)
        loss.backward()
        return loss.detach()

    decorated, model = small.eager(step), small.net()
    with torch._dynamo.config.patch(recompile_limit=2):
        for name in ("a", "ab"):
            decorated(model, *small.data(12), name)
        assert_expected_inline(
            refused(decorated, model, *small.data(12), "abc"),
            """\
accumcompile AC023: the step was captured anew too often (2 times)
  test_safety.py:N in step
  why   Dynamo would now run it on the full batch; it was last captured again because name == 'ab'
  fix   keep that value the same between calls or make it a tensor, or raise torch._dynamo.config.recompile_limit""",
        )
        assert "AC023" in refused(decorated, model, *small.data(12), "abcd")
    decorated(model, *small.data(12), "abc")  # the fix


def test_a_frame_without_the_batch_may_be_captured_too_often():
    names = iter(("a", "ab", "abc", "abcd"))

    @torch._dynamo.disable(recursive=False)
    def prepare(model):
        scaled(model.first.bias, next(names))

    def scaled(bias, name):
        return bias.detach() * len(name)

    def step(model, x, y):
        prepare(model)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss.detach()

    decorated, model = small.eager(step), small.net()
    with torch._dynamo.config.patch(recompile_limit=2):
        for _ in range(4):
            decorated(model, *small.data(12))


def second_derivative(model, x, y):
    loss = F.cross_entropy(model(x), y)
    loss.backward(create_graph=True)
    return loss.detach()


def test_create_graph():
    assert_expected_inline(
        refused(small.eager(second_derivative), small.net(), *small.data(12)),
        """\
accumcompile AC024: create_graph=True needs a second derivative
  test_safety.py:N in second_derivative
      loss.backward(create_graph=True)
  why   the backward of a compiled step keeps no graph to differentiate again
  fix   compute that derivative inside the step with torch.func.grad, or leave this step undecorated""",
    )


def test_the_hooks_are_taken_away():
    from torch._dynamo import convert_frame, symbolic_convert
    from torch.optim import optimizer

    translator = symbolic_convert.InliningInstructionTranslator
    spots = [
        lambda: torch.autograd._engine_run_backward,
        lambda: convert_frame.exceeds_recompile_limit,
        lambda: convert_frame.format_error_msg,
        lambda: vars(translator)["check_inlineable"],
        lambda: dict(optimizer._global_optimizer_pre_hooks),
    ]
    before = [spot() for spot in spots]
    small.eager(small.plain)(small.net(), *small.data(12))
    refused(small.eager(second_derivative), small.net(), *small.data(12))
    assert [spot() for spot in spots] == before


@pytest.mark.skipif(not hasattr(torch._dynamo.config, "trace_autograd_ops"), reason="Dynamo traces no autograd.grad")
@pytest.mark.skipif(torch.__version__ < "2.13", reason="Dynamo 2.11 traces a part of them")
def test_derivatives_that_the_user_has_dynamo_trace():
    """They are part of the graph, with derivatives of derivatives; the step needs no backward that we would see."""

    def step(model, x, y):
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        loss = F.cross_entropy(model(x), y) + slope.square().sum(1).mean()
        loss.backward()
        return loss.detach()

    with torch._dynamo.config.patch(trace_autograd_ops=True):
        decorated, model = small.eager(step, strict=True), small.net()
        small.assert_equal(decorated, model, *small.data(12))
        assert small.runs(decorated, model, *small.data(12)) == [(12, 4)]
