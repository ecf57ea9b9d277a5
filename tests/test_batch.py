"""Which inputs of a step are its batch: containers, declared dims, refusals, and sizes that became constants."""

import dataclasses
from collections import UserDict, namedtuple
from types import SimpleNamespace

import capturing
import pytest
import small
import torch
from expecttest import assert_expected_inline
from torch import nn
from torch.nn import functional as F

from accumcompile import AccumulateError, AccumulateWarning
from accumcompile.capture.batch import arguments as batches

pytestmark = pytest.mark.usefixtures("fresh_dynamo")

Pair = namedtuple("Pair", "x y")


@dataclasses.dataclass
class Record:
    x: torch.Tensor
    y: torch.Tensor
    name: str = "record"


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


def found(*args, **options):
    step = small.eager(lambda model, a, b=None, c=None: None, **options)
    named = batches.arguments(step._signature, (None, *args), {})
    batch = batches.find(named, step.session.options.batch_dims, step.session)
    return batch.size, {leaf.name: leaf.dim for leaf in batch.leaves}


def test_the_batch_is_dim_0_of_the_first_tensor_and_of_all_as_large():
    x, y = small.data(12)
    assert found(x, y) == (12, {"a": 0, "b": 0})
    assert found({"x": x, "n": 3}, [y, torch.ones(3)]) == (12, {"a['x']": 0, "b[0]": 0, "b[1]": None})
    assert found(torch.tensor(1.0), x) == (12, {"a": None, "b": 0})
    assert found(nn.Parameter(x), small.net(), y) == (12, {"c": 0})


def test_a_tensor_that_is_trained_is_the_batch_only_where_nothing_else_can_be():
    weight, (x, y) = torch.ones(5, 4, requires_grad=True), small.data(12)
    assert found(weight, x, y) == (12, {"a": None, "b": 0, "c": 0})
    assert found(x.requires_grad_(), weight) == (12, {"a": 0, "b": None})


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
        said(model, x[:0], y[:0]),
        """\
accumcompile AC013: the batch is empty: x has size 0 along dim 0
  test_batch.py:N in said
      step(*args)
  fix   skip the step for an empty batch""",
    )
    step.session.change(batch_dims=None)
    assert_expected_inline(
        said(model, 1, 2),
        """\
accumcompile AC011: no batch input found
  test_batch.py:N in said
      step(*args)
  why   no argument of plain holds a tensor with a batch dimension (a module's tensors are no batch)
  fix   pass the batch as an argument of the step""",
    )
    step.session.change(batch_dims={"inputs": 0})
    assert_expected_inline(
        said(model, x, y),
        """\
accumcompile AC010: batch_dims does not fit 'inputs'
  test_batch.py:N in said
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
  test_batch.py:N in fixed
      loss = F.cross_entropy(model(x.view(12, 4)), y.view(12))
  why   no input has a batch size left that may vary: this line fixes that of x to 12
  fix   where a number is written for it, write the tensor's size (x.shape[0]), or declare batch_dims
        call what takes only numbers (math.log, torch.linspace) in a function under torch.compiler.disable""",
    )
    torch._dynamo.reset()
    with pytest.raises(AccumulateError) as caught:
        small.eager(fixed, batch_dims={"x": 0})(small.net(), *small.data(12))
    assert_expected_inline(
        small.text(caught.value),
        """\
accumcompile AC014: the batch size became a constant
  test_batch.py:N in fixed
      loss = F.cross_entropy(model(x.view(12, 4)), y.view(12))
  why   batch_dims declares dim 0 of x, and this line fixes its size to 12
  fix   where a number is written for it, write the tensor's size (x.shape[0])
        call what takes only numbers (math.log, torch.linspace) in a function under torch.compiler.disable""",
    )


def behind_a_check(model, x, y):
    """The sizes of both inputs become one, and then a constant."""
    if x.shape[0] != y.shape[0] or len(x) == 5:
        raise ValueError("another number of labels")
    logits = model(x)
    assert logits.shape[0] == len(y)
    loss = F.cross_entropy(logits, y.view(12))
    loss.backward()


def of_two_batches(model, x, y):
    both = torch.cat([model(x), model(-x)])
    if len(both) != 2 * len(y):
        raise ValueError("another number of labels")
    (both @ both.T + torch.eye(24).double()).sum().backward()


@pytest.mark.parametrize(
    ("step", "line"), [(behind_a_check, "y.view(12)"), (of_two_batches, "torch.eye(24)")], ids=["equal", "multiple"]
)
def test_the_line_that_fixed_the_size_is_named_and_no_check_before_it(step, line):
    _, _, code, *_ = small.refused(small.eager(step), small.net(), *small.data(12)).splitlines()
    assert line in code


def test_a_leading_input_whose_size_was_fixed_is_a_warning():
    def step(model, x, y):
        loss = model(x.view(12, 4)).sum() * y.double().mean()
        loss.backward()
        return loss.detach()

    decorated, model = small.eager(step), small.net()
    with pytest.warns(AccumulateWarning) as caught:
        small.assert_equal(decorated, model, *small.data(12))
    assert_expected_inline(
        small.text(small.ours(caught)[0]),
        """\
accumcompile AC016: the batch size of x became a constant
  test_batch.py:N in step
      loss = model(x.view(12, 4)).sum() * y.double().mean()
  why   this line fixes the size 12 of its dim 0: it is no batch, and what depends on it runs whole
  fix   where a number is written for it, write the tensor's size (x.shape[0]), or declare batch_dims
        call what takes only numbers (math.log, torch.linspace) in a function under torch.compiler.disable""",
    )


def neighbours(model, x, y):
    """Of two samples there is one pair: PyTorch makes a constant of every size that is 1."""
    logits = model(x)
    loss = F.cross_entropy(logits, y) + (logits[1:] - logits[:-1]).square().mean()
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("by", [capturing.decorated, capturing.by_name])
def test_a_last_batch_no_larger_than_a_micro_batch_runs_whole(by):
    ran = capturing.same(neighbours, small.net(), sizes=(12, 13, 2, 12, 2), by=by, strict=True)
    assert [run.split.batch for run in ran.runs] == [12, 13, 12]
    assert ran.session.notes == [
        "a batch of 2, no larger than a micro-batch before, ran whole: its size became a constant"
    ]


def test_a_first_batch_whose_size_became_a_constant_is_an_error():
    assert "AC015" in small.refused(small.eager(neighbours), small.net(), *small.data(2))


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
    assert [small.text(n) for n in step.session.notes] == [
        "mask: dim 0 is no batch, its size 8 became a constant at test_batch.py:N"
    ]


def test_an_input_that_differs_at_a_later_call_is_a_batch_no_more():
    def step(model, x, y, table):
        return small.plain(model, x + table[:4, 0], y)

    step, model = small.eager(step), small.net()
    table = torch.rand(9, 9, dtype=torch.float64)
    for batch in (9, 12, 9):
        model.zero_grad()
        small.assert_equal(step, model, *small.data(batch), table)
    assert step.session.notes == ["table: dim 0 is no batch, its size 9 differed from the batch's 12"]


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
