"""Nothing runs on the full batch without the user being told: every way to get there, and the way out."""

import contextlib
import warnings

import pytest
import small
import torch
from expecttest import assert_expected_inline
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from accumcompile import AccumulateError, AccumulateWarning

pytestmark = pytest.mark.filterwarnings("error::accumcompile.AccumulateWarning")


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


class Timer:
    def __enter__(self):
        return self

    def __exit__(self, *reason):
        return False


def loss_of(model, x, y):
    return F.cross_entropy(model(x), y)


def in_for(model, x, y):
    for _ in range(2):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
    return loss.detach()


def in_for_fixed(model, x, y):
    for _ in range(2):
        loss = loss_of(model, x, y)
        loss.backward()
    return loss.detach()


def in_try(model, x, y):
    try:
        loss = F.cross_entropy(model(x), y)
        loss.backward()
    finally:
        pass
    return loss.detach()


def in_try_fixed(model, x, y):
    try:
        loss = loss_of(model, x, y)
        loss.backward()
    finally:
        pass
    return loss.detach()


def in_context(model, x, y):
    with Timer():
        loss = F.cross_entropy(model(x), y)
        loss.backward()
    return loss.detach()


def in_context_fixed(model, x, y):
    with Timer():
        loss = loss_of(model, x, y)
        loss.backward()
    return loss.detach()


DROPPED = {in_for: in_for_fixed, in_try: in_try_fixed, in_context: in_context_fixed}


def refused(step, model, *args):
    with pytest.raises(AccumulateError) as caught:
        step(model, *args)
    return small.text(caught.value)


def warned(step, model, *args):
    """The texts of a call's warnings; the result is right all the same."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        small.assert_equal(step, model, *args)
    ours = [w.message for w in caught if w.category is AccumulateWarning]
    return [
        small.text(m) for m in ours if m.code != "AC033"
    ]  # what is held for the full batch: another test's


@pytest.mark.parametrize("step", DROPPED, ids=lambda f: f.__name__)
def test_a_dropped_step_is_refused_at_every_call(step):
    decorated, model = small.eager(step), small.sequential()
    for _ in range(2):
        text = refused(decorated, model, *small.data(12))
        assert text.startswith("accumcompile AC020: the step ran on the full batch")
        assert f"Dynamo dropped {step.__name__}" in text
    again = small.eager(step)  # Dynamo leaves the function alone from then on
    assert f"Dynamo dropped {step.__name__}" in refused(again, model, *small.data(12))


@pytest.mark.parametrize("step", DROPPED, ids=lambda f: f.__name__)
def test_the_fix_is_split(step):
    decorated, model = small.eager(DROPPED[step]), small.sequential()
    small.assert_equal(decorated, model, *small.data(12))
    assert set(small.runs(decorated, model, *small.data(12))) == {(12, 4)}


@pytest.mark.parametrize("step", DROPPED, ids=lambda f: f.__name__)
def test_a_step_of_which_only_the_model_was_captured_is_a_warning_once(step):
    decorated, model = small.eager(step), small.net()
    (text,) = warned(decorated, model, *small.data(12))
    assert text.startswith(
        "accumcompile AC030: the loss was computed outside the captured graph of the model"
    )
    model.zero_grad()
    assert warned(decorated, model, *small.data(12)) == []
    strict = small.eager(step, strict=True)
    assert "AC030" in refused(strict, model, *small.data(12))


def test_texts_of_dropped_steps():
    model = small.sequential()
    assert_expected_inline(
        refused(small.eager(in_for), model, *small.data(12)),
        """\
accumcompile AC020: the step ran on the full batch
  test_safety.py:N in in_for
      loss.backward()
  why   Dynamo dropped in_for, because it cannot resume after a graph break at test_safety.py:N:
        a graph break in a loop
  cost  forward and backward kept the activations of all 12 samples
  fix   put forward and loss into a function of their own, and call it from the step""",
    )
    assert_expected_inline(
        refused(small.eager(in_try), model, *small.data(12)),
        """\
accumcompile AC020: the step ran on the full batch
  test_safety.py:N in in_try
      loss.backward()
  why   Dynamo dropped in_try, because it cannot resume after a graph break at test_safety.py:N:
        backward() inside a try, a loop or a context manager
  cost  forward and backward kept the activations of all 12 samples
  fix   put forward and loss into a function of their own, and call it from the step""",
    )
    assert_expected_inline(
        refused(small.eager(in_context), model, *small.data(12)),
        """\
accumcompile AC020: the step ran on the full batch
  test_safety.py:N in in_context
      loss.backward()
  why   Dynamo dropped in_context, because it cannot resume after a graph break at test_safety.py:N:
        a graph break inside a context manager
  cost  forward and backward kept the activations of all 12 samples
  fix   put forward and loss into a function of their own, and call it from the step""",
    )
    assert_expected_inline(
        warned(small.eager(in_for), small.net(), *small.data(12))[0],
        """\
accumcompile AC030: the loss was computed outside the captured graph of the model
  test_safety.py:N in in_for
      loss.backward()
  why   Dynamo dropped in_for, because it cannot resume after a graph break at test_safety.py:N:
        a graph break in a loop
  cost  each micro-batch's forward runs twice, and the model's outputs are held for all 12 samples
  fix   put forward and loss into a function of their own, and call it from the step""",
    )


def test_a_generator_context_manager():
    @contextlib.contextmanager
    def timer():
        yield

    def step(model, x, y):
        with timer():
            loss = F.cross_entropy(model(x), y)
            loss.backward()
        return loss.detach()

    assert "Dynamo dropped" in refused(small.eager(step), small.sequential(), *small.data(12))


@pytest.mark.parametrize("make", [torch.optim.LBFGS, torch.optim.SGD])
def test_the_closure_of_an_optimizer_is_split(make):
    """Dynamo never looks into LBFGS.step; the closure is captured as a function of its own."""

    def step(model, optimizer, x, y):
        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        return optimizer.step(closure).detach()

    decorated = small.eager(step)
    ours, plain = small.sequential(), small.sequential()
    optimizers = [make(m.parameters(), lr=0.1) for m in (ours, plain)]
    for _ in range(2):
        result = decorated(ours, optimizers[0], *small.data(12))
        torch.testing.assert_close(result, step(plain, optimizers[1], *small.data(12)))
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert set(small.runs(decorated, ours, optimizers[0], *small.data(12))) == {(12, 4)}


def test_a_closure_that_dynamo_drops_is_refused():
    def step(model, optimizer, x, y):
        def closure():
            for _ in range(2):
                loss = F.cross_entropy(model(x), y)
                loss.backward()
            return loss

        return optimizer.step(closure).detach()

    model = small.sequential()
    optimizer = torch.optim.LBFGS(model.parameters())
    assert_expected_inline(
        refused(small.eager(step), model, optimizer, *small.data(12)),
        """\
accumcompile AC020: the step ran on the full batch
  test_safety.py:N in closure
      loss.backward()
  why   Dynamo dropped closure, because it cannot resume after a graph break at test_safety.py:N:
        a graph break in a loop
  cost  forward and backward kept the activations of all 12 samples
  fix   put forward and loss into a function of their own, and call it from the step""",
    )


def hooked(model):
    model.first.register_full_backward_hook(lambda module, gradients, outputs: None)
    return model


def plain_step(model, x, y):
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return loss.detach()


@pytest.mark.filterwarnings("ignore:Full backward hook")
def test_a_module_backward_hook():
    (text,) = warned(small.eager(plain_step), hooked(small.net()), *small.data(12))
    assert_expected_inline(
        text,
        """\
accumcompile AC021: a part of the step ran on the full batch: model.first.bias, model.first.weight
  test_safety.py:N in plain_step
      loss.backward()
  why   Dynamo made a graph break at small.py:N:
        a module's backward hook
  cost  that part kept the activations of all 12 samples
  fix   register the hook on parameters or tensors (p.register_hook), not on a module""",
    )
    assert "AC021" in refused(small.eager(plain_step, strict=True), hooked(small.net()), *small.data(12))


def test_the_fix_of_a_module_backward_hook_is_split():
    model, norms = small.net(), []
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: norms.append(gradient.norm()))
    step = small.eager(plain_step)
    assert small.runs(step, model, *small.data(12)) == [(12, 4)]
    assert len(norms) == 4


def test_a_dispatch_mode_is_refused_before_dynamo_sees_it():
    step, model = small.eager(plain_step), small.net()
    with FlopCounterMode(display=False):
        assert_expected_inline(
            refused(step, model, *small.data(12)),
            """\
accumcompile AC022: a TorchDispatchMode is active: _FlopCounterMode
  test_safety.py:N in refused
      step(model, *args)
  why   torch.compile captures nothing below such a mode, so the step would run on the full batch
  fix   call the step outside the mode; explain() and verify() show what it does""",
        )
    small.assert_equal(step, model, *small.data(12))  # the fix: outside of the mode
    assert small.runs(step, model, *small.data(12)) == [(12, 4)]


@pytest.mark.parametrize(
    "returned", [lambda loss: loss, lambda loss: loss.detach()], ids=["loss", "detached"]
)
def test_a_step_that_returns_without_a_backward(returned):
    def step(model, x, y):
        return returned(F.cross_entropy(model(x), y))

    with pytest.warns(AccumulateWarning, match="AC031"):
        small.eager(step)(small.net(), *small.data(12))


def test_a_step_that_never_calls_backward():
    def step(model, x, y):
        return F.cross_entropy(model(x), y).detach()

    decorated = small.eager(step)
    model = small.net()
    with pytest.warns(AccumulateWarning) as caught:
        decorated(model, *small.data(12))
    assert_expected_inline(
        small.text(caught[0].message),
        """\
accumcompile AC031: step never called backward()
  test_safety.py:N in step
  why   gradients are what is accumulated: without them the step is only a forward pass
  fix   call backward() inside the step, or run an evaluation under torch.no_grad()""",
    )
    decorated(model, *small.data(12))
    assert "AC031" in refused(small.eager(step, strict=True), model, *small.data(12))
    with torch.no_grad():
        small.eager(step, strict=True)(model, *small.data(12))


def test_a_step_within_a_step_need_not_call_backward():
    loss_of_batch = small.eager(loss_of, strict=True)

    def step(model, x, y):
        loss = loss_of_batch(model, x, y)
        loss.backward()
        return loss.detach()

    decorated = small.eager(step, strict=True)
    with loss_of_batch.settings.journal.recording() as recorded:
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


def test_a_batch_norm_that_breaks_the_graph():
    """momentum=None: Python arithmetic on a buffer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=None), nn.Linear(8, 3)).double()
    assert "AC020" in refused(small.eager(plain_step), model, *small.data(12))


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
  test_safety.py:N in step
      loss.backward()
  why   Dynamo made a graph break at test_safety.py:N:
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


def test_a_model_that_is_already_compiled():
    decorated = small.eager(plain_step)
    model = torch.compile(small.net())
    with pytest.warns(AccumulateWarning) as caught:
        decorated(model, *small.data(12))
    assert_expected_inline(
        small.text(caught[0].message),
        """\
accumcompile AC032: model is already wrapped in torch.compile
  test_safety.py:N in test_a_model_that_is_already_compiled
      decorated(model, *small.data(12))
  why   it is inlined into the step, and its own backend and options are ignored
  fix   pass the plain module (._orig_mod of the wrapped one)""",
    )
    decorated(model, *small.data(12))
    assert "AC032" in refused(
        small.eager(plain_step, strict=True), torch.compile(small.net()), *small.data(12)
    )


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
  fix   keep that value the same between calls, or raise torch._dynamo.config.recompile_limit""",
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


def test_create_graph():
    def step(model, x, y):
        loss = F.cross_entropy(model(x), y)
        loss.backward(create_graph=True)
        return loss.detach()

    assert_expected_inline(
        refused(small.eager(step), small.net(), *small.data(12)),
        """\
accumcompile AC024: create_graph=True needs a second derivative
  test_safety.py:N in step
      loss.backward(create_graph=True)
  why   the backward of a compiled step keeps no graph to differentiate again
  fix   compute that derivative inside the step with torch.func.grad, or leave this step undecorated""",
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
  test_safety.py:N in step
      loss.backward()
  why   Dynamo made a graph break at test_safety.py:N:
        a function that torch.compiler.disable keeps from Dynamo
  cost  that part kept the activations of all 12 samples
  fix   let Dynamo see that function, or move the call behind backward()""",
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
    small.eager(plain_step)(small.net(), *small.data(12))
    refused(small.eager(in_for), small.sequential(), *small.data(12))
    assert [spot() for spot in spots] == before
