"""How a decorated step finds its batch, and what it leaves behind."""

import dataclasses
import logging
from collections import UserDict, namedtuple
from types import SimpleNamespace

import pytest
import small
import torch
from expecttest import assert_expected_inline
from torch import nn
from torch.nn import functional as F

from accumcompile import AccumulateError, AccumulateWarning, accumulate
from accumcompile.capture import batch as batches

Pair = namedtuple("Pair", "x y")


@dataclasses.dataclass
class Record:
    x: torch.Tensor
    y: torch.Tensor
    name: str = "record"


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


CONTAINERS = {
    "tuple": (lambda x, y: (x, y), lambda b: b),
    "dict": (lambda x, y: {"x": x, "y": y, "name": "no tensor"}, lambda b: (b["x"], b["y"])),
    "nested": (lambda x, y: {"inputs": [x], "targets": (y, 3)}, lambda b: (b["inputs"][0], b["targets"][0])),
    "namedtuple": (Pair, lambda b: (b.x, b.y)),
    "dataclass": (Record, lambda b: (b.x, b.y)),
    "userdict": (lambda x, y: UserDict(x=x, y=y), lambda b: (b["x"], b["y"])),
    "namespace": (lambda x, y: SimpleNamespace(x=x, y=y), lambda b: (b.x, b.y)),
}


@pytest.mark.parametrize("kind", CONTAINERS)
def test_batches_are_any_pytree(kind):
    make, unpack = CONTAINERS[kind]

    def step(model, batch):
        x, y = unpack(batch)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss.detach()

    decorated, model = small.eager(step), small.net()
    small.assert_equal(decorated, model, make(*small.data(12)))
    assert small.runs(decorated, model, make(*small.data(9))) == [(9, 3)]


def test_a_batch_encoding():
    encoding = pytest.importorskip("transformers").BatchEncoding
    x, y = small.data(12)

    def step(model, batch):
        loss = F.cross_entropy(model(batch["input_ids"]), batch.labels)
        loss.backward()
        return loss.detach()

    decorated, model = small.eager(step), small.net()
    small.assert_equal(decorated, model, encoding({"input_ids": x, "labels": y}))
    assert small.runs(decorated, model, encoding({"input_ids": x, "labels": y})) == [(12, 4)]


def test_keyword_arguments_and_defaults():
    @accumulate(steps=4, lowering="eager")
    def step(model, *, scale=1.0, **batch):
        loss = F.cross_entropy(model(batch["x"]), batch["y"]) * scale
        loss.backward()
        return loss.detach()

    x, y = small.data(12)
    model = small.net()
    expected = 2 * F.cross_entropy(model(x), y)
    torch.testing.assert_close(step(model, x=x, y=y, scale=2.0), expected.detach())


class Trainer:
    def __init__(self):
        self.model = small.net()

    @accumulate(steps=4, lowering="eager")
    def step(self, x, y):
        return small.plain(self.model, x, y)


def test_methods():
    trainer, other = Trainer(), Trainer()
    x, y = small.data(12)
    expected = F.cross_entropy(trainer.model(x), y).detach()
    torch.testing.assert_close(trainer.step(x, y), expected)
    torch.testing.assert_close(other.step(x, y), expected)
    trainer.step.steps = 3
    assert small.runs(trainer.step, x, y) == [(12, 3)]
    trainer.step.micro_batch_size = 6
    assert small.runs(Trainer.step, trainer, x, y) == [(12, 2)]
    assert trainer.step == trainer.step != other.step


def test_steps_can_be_set_between_calls_and_capture_nothing():
    step, model = small.eager(small.plain), small.net()
    assert small.runs(step, model, *small.data(12)) == [(12, 4)]
    frames = torch._dynamo.utils.counters["frames"]["total"]
    for steps, expected in ((2, 2), (8, 6), (12, 12), (1, 1), (64, 12)):
        step.steps = steps
        assert small.runs(step, model, *small.data(12)) == [(12, expected)]
    assert torch._dynamo.utils.counters["frames"]["total"] == frames


def test_one_capture_for_every_batch_size_even_after_a_batch_of_one():
    step, model = small.eager(small.plain), small.net()
    small.assert_equal(step, model, *small.data(1))
    assert small.runs(step, model, *small.data(12)) == [(12, 4)]
    frames = torch._dynamo.utils.counters["frames"]["total"]
    for batch in (7, 1, 12, 2):
        model.zero_grad()
        small.assert_equal(step, model, *small.data(batch))
    assert torch._dynamo.utils.counters["frames"]["total"] == frames


def test_no_marks_are_left_on_the_users_tensors():
    step, model = small.eager(small.plain), small.net()
    x, y = small.data(12)
    torch._dynamo.mark_static(y, 0)
    before = {k: set(v) for k, v in vars(y).items() if isinstance(v, set)}
    torch._dynamo.maybe_mark_dynamic(x, 1)
    marks = {k: v.copy() for k, v in vars(x).items() if isinstance(v, set)}
    with pytest.raises(TypeError):
        step(model, x, None)
    del y._dynamo_static_indices
    step(model, x, y)
    assert {k: v for k, v in vars(x).items() if isinstance(v, set)} == marks
    assert before and not vars(y).keys() & {"_dynamo_weak_dynamic_indices", "_dynamo_dynamic_indices"}


def test_dynamos_settings_are_put_back():
    before = torch._dynamo.config.get_config_copy()
    small.eager(small.plain)(small.net(), *small.data(12))
    assert torch._dynamo.config.get_config_copy() == before


# Which inputs are the batch


def found(*args, **options):
    step = small.eager(lambda model, a, b=None, c=None: None, **options)
    named = batches.arguments(step._signature, (None, *args), {})
    batch = batches.find(named, step.settings.options.batch_dims, step.settings)
    return batch.size, {leaf.name: leaf.dim for leaf in batch.leaves}


def test_the_batch_is_dim_0_of_the_first_tensor_and_of_all_as_large():
    x, y = small.data(12)
    assert found(x, y) == (12, {"a": 0, "b": 0})
    assert found({"x": x, "n": 3}, [y, torch.ones(3)]) == (12, {"a['x']": 0, "b[0]": 0, "b[1]": None})
    assert found(torch.tensor(1.0), x) == (12, {"a": None, "b": 0})
    assert found(nn.Parameter(x), small.net(), y) == (12, {"c": 0})


@pytest.mark.parametrize("dims", [{"a": 1}, {"a": 1, "b": 0}, (None, 1, 0), {"a": -2}])
def test_batch_dims_are_declared(dims):
    x, y = torch.ones(5, 12, 4), torch.ones(12)
    assert found(x, y, batch_dims=dims) == (12, {"a": 1, "b": 0})


def test_batch_dims_follow_the_shape_of_an_argument():
    x, y = torch.ones(5, 12, 4), torch.ones(12)
    assert found({"x": x, "y": y}, y, batch_dims={"a": {"x": 1}, "b": None}) == (
        12,
        {"a['x']": 1, "a['y']": 0},
    )
    assert found([x, x], batch_dims={"a": 1}) == (12, {"a[0]": 1})


@pytest.mark.parametrize(
    ("args", "dims", "code"),
    [
        ((3,), None, "AC011"),
        ((torch.tensor(1.0),), None, "AC011"),
        ((torch.ones(12), torch.ones(9)), {"a": 0, "b": 0}, "AC012"),
        ((torch.ones(0, 4),), None, "AC013"),
        ((torch.ones(4, 0),), {"a": 1}, "AC013"),
        ((torch.ones(12),), {"z": 0}, "AC010"),
        ((torch.ones(12),), {"a": 1}, "AC010"),
        ((torch.ones(12),), {"a": "rows"}, "AC010"),
        ((torch.ones(12),), (0,), "AC010"),
    ],
)
def test_batches_that_are_refused(args, dims, code):
    with pytest.raises(AccumulateError) as caught:
        found(*args, batch_dims=dims)
    assert caught.value.code == code


def test_texts_of_refusals():
    step, model = small.eager(small.plain, batch_dims={"x": 0, "y": 0}), small.net()

    def said(*args):
        with pytest.raises(AccumulateError) as caught:
            step(*args)
        return small.text(caught.value)

    x, y = small.data(12)
    assert_expected_inline(
        said(model, x, y[:9]),
        """\
accumcompile AC012: the batch dims disagree: x has 12 along dim 0, y has 9 along dim 0
  test_decorator.py:N in said
      step(*args)
  why   every declared batch dim must have the same size
  fix   correct batch_dims, or declare None for an input that is not split""",
    )
    assert_expected_inline(
        said(model, x[:0], y[:0]),
        """\
accumcompile AC013: the batch is empty: x has size 0 along dim 0
  test_decorator.py:N in said
      step(*args)
  fix   skip the step for an empty batch""",
    )
    step.settings.change(batch_dims=None)
    assert_expected_inline(
        said(model, 1, 2),
        """\
accumcompile AC011: no batch input found
  test_decorator.py:N in said
      step(*args)
  why   no argument of plain holds a tensor with a batch dimension (a module's tensors are no batch)
  fix   pass the batch as an argument of the step""",
    )
    step.settings.change(batch_dims={"inputs": 0})
    assert_expected_inline(
        said(model, x, y),
        """\
accumcompile AC010: batch_dims does not fit 'inputs'
  test_decorator.py:N in said
      step(*args)
  why   the step has no such argument; it has model, x, y
  fix   use the names of the step's arguments""",
    )


def fixed(model, x, y):
    loss = F.cross_entropy(model(x.view(12, 4)), y.view(12))
    loss.backward()


def test_a_size_that_user_code_fixed_is_an_error():
    with pytest.raises(AccumulateError) as caught:
        small.eager(fixed)(small.net(), *small.data(12))
    assert_expected_inline(
        small.text(caught.value),
        """\
accumcompile AC015: the batch size became a constant
  test_decorator.py:N in fixed
      loss = F.cross_entropy(model(x.view(12, 4)), y.view(12))
  why   no input has a batch size left that may vary: this line fixes that of x to 12
  fix   compute sizes from the tensor (x.shape[0]) instead of writing the number, or declare batch_dims""",
    )
    torch._dynamo.reset()
    with pytest.raises(AccumulateError) as caught:
        small.eager(fixed, batch_dims={"x": 0})(small.net(), *small.data(12))
    assert_expected_inline(
        small.text(caught.value),
        """\
accumcompile AC014: the batch size became a constant
  test_decorator.py:N in fixed
      loss = F.cross_entropy(model(x.view(12, 4)), y.view(12))
  why   batch_dims declares dim 0 of x, and this line fixes its size to 12
  fix   compute sizes from the tensor (x.shape[0]) instead of writing the number""",
    )


def test_a_leading_input_whose_size_was_fixed_is_a_warning():
    def step(model, x, y):
        loss = model(x.view(12, 4)).sum() * y.double().mean()
        loss.backward()
        return loss.detach()

    decorated, model = small.eager(step), small.net()
    with pytest.warns(AccumulateWarning) as caught:
        small.assert_equal(decorated, model, *small.data(12))
    assert_expected_inline(
        small.text(caught[0].message),
        """\
accumcompile AC016: the batch size of x became a constant
  test_decorator.py:N in step
      loss = model(x.view(12, 4)).sum() * y.double().mean()
  why   this line fixes the size 12 of its dim 0: it is no batch, and what depends on it runs whole
  fix   compute sizes from the tensor (x.shape[0]) instead of writing the number, or declare batch_dims""",
    )


def masked(model, x, y, mask, weight):
    hidden = torch.relu(model.first(x)) @ mask
    loss = F.cross_entropy(model.second(hidden), y, weight=weight)
    loss.backward()
    return loss.detach()


def test_a_square_mask_and_class_weights_are_no_batch():
    """T = B = 8, then C = B = 3: each looks like the batch once."""
    step, model = small.eager(masked), small.net()
    mask = torch.rand(8, 8, dtype=torch.float64)
    weight = torch.rand(3, dtype=torch.float64)
    for batch in (8, 3, 12, 8, 3):
        model.zero_grad()
        small.assert_equal(step, model, *small.data(batch), mask, weight)
    assert [small.text(n) for n in step.settings.notes] == [
        "mask: dim 0 is no batch, its size 8 became a constant at test_decorator.py:N"
    ]


def test_an_input_that_differs_at_a_later_call_is_a_batch_no_more():
    def step(model, x, y, table):
        return small.plain(model, x + table[:4, 0], y)

    step, model = small.eager(step), small.net()
    table = torch.rand(9, 9, dtype=torch.float64)
    for batch in (9, 12, 9):
        model.zero_grad()
        small.assert_equal(step, model, *small.data(batch), table)
    assert step.settings.notes == ["table: dim 0 is no batch, its size 9 differed from the batch's 12"]


def test_several_symbols_are_one_batch():
    def step(model, ids, labels, mask):
        loss = (model(ids).sum(-1) * mask.sum(-1) - labels).square().mean()
        loss.backward()
        return loss.detach()

    step, model = small.eager(step), small.net()
    for batch in (12, 7):
        model.zero_grad()
        x, y = small.data(batch)
        small.assert_equal(step, model, x, y.double(), torch.ones(batch, 5, dtype=torch.float64))
    assert small.runs(step, model, x, y.double(), torch.ones(7, 5, dtype=torch.float64)) == [(7, 4)]


def test_frames_resumed_after_a_break_are_split():
    """The batch size arrives as an int of its own, the batch as an output of our first graph."""

    def step(model, x, y):
        rows = x.shape[0]
        hidden = model.first(x)
        torch._dynamo.graph_break()
        loss = F.cross_entropy(model.second(torch.relu(hidden).view(rows, -1)), y)
        loss.backward()
        return loss.detach()

    step, model = small.eager(step), small.net()
    with pytest.warns(match="AC030"):
        small.assert_equal(step, model, *small.data(12))
    model.zero_grad()
    small.assert_equal(step, model, *small.data(9))
    assert {batch for batch, _ in small.runs(step, model, *small.data(9))} == {9}


def test_tensors_made_by_uncompiled_code_are_split():
    @torch._dynamo.disable
    def prepared(x):
        return torch.from_numpy(x.numpy() * 2)

    def step(model, x, y):
        return small.plain(model, prepared(x), y)

    step, model = small.eager(step), small.net()
    for batch in (12, 9):
        model.zero_grad()
        small.assert_equal(step, model, *small.data(batch))
    assert small.runs(step, model, *small.data(9)) == [(9, 3)]


def test_a_logger_that_says_something_once_does_not_split_the_graph(monkeypatch):
    monkeypatch.setattr(logging.Logger, "warning_once", logging.Logger.warning, raising=False)
    logger = logging.getLogger("model")

    def step(model, x, y):
        logits = model(x)
        logger.warning_once("said")
        loss = F.cross_entropy(logits, y)
        loss.backward()
        return loss.detach()

    step, model = small.eager(step), small.net()
    assert small.runs(step, model, *small.data(12)) == [(12, 4)]


# What Dynamo is kept from


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD])
def test_optimizers_and_clipping_run_uncompiled(make):
    def step(model, optimizer, scheduler, x, y):
        optimizer.zero_grad()
        loss = small.plain(model, x, y)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        return loss

    model = small.net()
    optimizer = make(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    step = small.eager(step)
    step(model, optimizer, scheduler, *small.data(12))
    frames = torch._dynamo.utils.counters["frames"]["total"]
    losses = [step(model, optimizer, scheduler, *small.data(12)) for _ in range(4)]
    assert torch._dynamo.utils.counters["frames"]["total"] == frames
    assert losses[-1] < losses[0]


def test_the_users_own_compiled_functions_are_left_alone():
    model = small.net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    graphs = []

    def backend(gm, inputs):
        graphs.append(gm)
        return gm.forward

    compiled = torch.compile(lambda: optimizer.step(), backend=backend)
    step = small.eager(small.plain)
    for _ in range(3):
        step(model, *small.data(12))
        compiled()
    assert graphs  # the optimizer is still captured there
    assert len(graphs) == len({id(g) for g in graphs}) <= 2


def test_sequence_lengths_cause_at_most_two_captures():
    def step(model, x, y):
        loss = (model(x).mean(1) - y).square().mean()
        loss.backward()
        return loss.detach()

    step, model = small.eager(step), small.net()
    with step.settings.journal.recording() as recorded:
        for length in range(3, 13):
            step(
                model, torch.ones(12, length, 4, dtype=torch.float64), torch.ones(12, 3, dtype=torch.float64)
            )
    assert len(recorded) == 10 and len({id(run.plan) for run in recorded}) <= 2
