"""Steps that Dynamo drops and runs eagerly: refused or told of, by the line and with the way out."""

import contextlib

import pytest
import small
import torch
from expecttest import assert_expected_inline
from small import refused, warned
from torch import nn
from torch.nn import functional as F

pytestmark = [
    pytest.mark.usefixtures("fresh_dynamo"),
    pytest.mark.filterwarnings("error::accumcompile.AccumulateWarning"),
]


class Timer:
    def __enter__(self):
        return self

    def __exit__(self, *reason):
        return False


def in_for(model, x, y):
    for _ in range(2):
        loss = F.cross_entropy(model(x), y)
        loss.backward()
    return loss.detach()


def in_for_fixed(model, x, y):
    for _ in range(2):
        loss = small.loss_of(model, x, y)
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
        loss = small.loss_of(model, x, y)
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
        loss = small.loss_of(model, x, y)
        loss.backward()
    return loss.detach()


DROPPED = {in_for: in_for_fixed, in_try: in_try_fixed, in_context: in_context_fixed}


@pytest.mark.parametrize("step", DROPPED, ids=lambda f: f.__name__)
def test_a_dropped_step_is_refused_at_every_call(step):
    decorated, model = small.eager(step), small.layer()
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
    assert text.startswith("accumcompile AC030: the loss was computed outside the captured graph of the model")
    model.zero_grad()
    assert warned(decorated, model, *small.data(12)) == []
    strict = small.eager(step, strict=True)
    assert "AC030" in refused(strict, model, *small.data(12))


@pytest.mark.parametrize("step", DROPPED, ids=lambda f: f.__name__)
def test_a_container_of_torchs_own_is_split_as_a_users_class_is(step):
    torch.compile(small.sequential(), backend="eager")(small.data(12)[0])  # Dynamo meets it outside of our calls
    decorated, model = small.eager(step), small.sequential()
    (text,) = warned(decorated, model, *small.data(12))
    assert "AC030" in text
    model.zero_grad()
    small.assert_equal(decorated, model, *small.data(12))
    assert {count for _, count in small.runs(decorated, model, *small.data(12))} == {4}


class Assembled(nn.Module):
    """More containers than Dynamo's recompile limit, each of another depth, in a forward that breaks at each."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Sequential(*(nn.Linear(4, 4) for _ in range(depth))) for depth in range(1, 12)]
        self.layers, self.last = nn.ModuleList(layers), nn.Linear(4, 3)
        self.double()

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
            torch._dynamo.graph_break()
        return self.last(x)


def test_containers_beyond_the_recompile_limit_run_as_they_are():
    decorated, model = small.eager(small.plain), Assembled()
    assert [text.split(":")[0] for text in warned(decorated, model, *small.data(12))] == ["accumcompile AC021"]
    model.zero_grad()
    small.assert_equal(decorated, model, *small.data(12))


def test_texts_of_dropped_steps():
    model = small.layer()
    assert_expected_inline(
        refused(small.eager(in_for), model, *small.data(12)),
        """\
accumcompile AC020: the step ran on the full batch
  test_dropped_steps.py:N in in_for
      loss.backward()
  why   Dynamo dropped in_for, because it cannot resume after a graph break at test_dropped_steps.py:N:
        a graph break in a loop
  cost  forward and backward kept the activations of all 12 samples
  fix   put forward and loss into a function of their own, and call it from the step""",
    )
    assert_expected_inline(
        warned(small.eager(in_for), small.net(), *small.data(12))[0],
        """\
accumcompile AC030: the loss was computed outside the captured graph of the model
  test_dropped_steps.py:N in in_for
      loss.backward()
  why   Dynamo dropped in_for, because it cannot resume after a graph break at test_dropped_steps.py:N:
        a graph break in a loop
  cost  each micro-batch's forward runs twice, and the model's outputs are held for all 12 samples
  fix   put forward and loss into a function of their own, and call it from the step""",
    )


WHY = {
    in_for: "a graph break in a loop",
    in_try: "backward() inside a try, a loop or a context manager",
    in_context: "a graph break inside a context manager",
}


@pytest.mark.parametrize("step", DROPPED, ids=lambda f: f.__name__)
def test_why_a_step_was_dropped(step):
    text = refused(small.eager(step), small.layer(), *small.data(12))
    assert f"cannot resume after a graph break at test_dropped_steps.py:N:\n        {WHY[step]}\n" in text


def test_a_generator_context_manager():
    @contextlib.contextmanager
    def timer():
        yield

    def step(model, x, y):
        with timer():
            loss = F.cross_entropy(model(x), y)
            loss.backward()
        return loss.detach()

    assert "Dynamo dropped" in refused(small.eager(step), small.layer(), *small.data(12))


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


@pytest.mark.parametrize("make", [torch.optim.LBFGS, torch.optim.SGD])
def test_a_decorated_step_that_an_optimizer_calls_is_split(make):
    """As Lightning does it: ``optimizer.step(closure)``, and the closure calls the step."""
    decorated = small.eager(small.plain, strict=True)
    ours, plain = small.net(), small.net()

    def train(step, model):
        optimizer = make(model.parameters(), lr=0.1)

        def closure():
            optimizer.zero_grad()
            return step(model, *small.data(12))

        optimizer.step(closure)

    with decorated.session.journal.recording() as recorded:
        train(decorated, ours)
    train(small.plain, plain)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert {(run.split.batch, len(run.split)) for run in recorded} == {(12, 4)}


def test_a_closure_that_dynamo_drops_is_refused():
    def step(model, optimizer, x, y):
        def closure():
            for _ in range(2):
                loss = F.cross_entropy(model(x), y)
                loss.backward()
            return loss

        return optimizer.step(closure).detach()

    model = small.layer()
    optimizer = torch.optim.LBFGS(model.parameters())
    assert "Dynamo dropped closure" in refused(small.eager(step), model, optimizer, *small.data(12))


def test_a_batch_norm_that_breaks_the_graph():
    """momentum=None: Python arithmetic on a buffer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=None), nn.Linear(8, 3)).double()
    assert "AC020" in refused(small.eager(small.plain), model, *small.data(12))
