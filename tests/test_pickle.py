"""A decorated step is pickled and copied as a function is; what it captured stays behind."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import pytest
import small
import torch
from capturing import assert_same

from accumcompile import accumulate
from accumcompile.capture.batch.arguments import Candidates
from accumcompile.capture.dynamo.call_history import Calls

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


@accumulate(steps=3, lowering="eager")
def step(model, x, y):
    return small.plain(model, x, y)


other_name = accumulate(steps=3, lowering="eager")(small.plain)


class Trainer:
    """A decorated method, and a decorated bound method among its attributes."""

    def __init__(self):
        self.model = small.net()
        self.own = accumulate(steps=2, lowering="eager")(self.plain)

    def plain(self, x, y):
        return small.plain(self.model, x, y)

    @accumulate(steps=3, lowering="eager")
    def step(self, x, y):
        return small.plain(self.model, x, y)


WAYS = {"pickle": lambda value: pickle.loads(pickle.dumps(value)), "deepcopy": copy.deepcopy, "copy": copy.copy}
ways = pytest.mark.parametrize("again", WAYS.values(), ids=WAYS)


@ways
def test_a_function_is_itself(again):
    step(small.net(), *small.data(12))  # captured by now
    assert again(step) is step
    assert again(Trainer.step) is Trainer.step


@ways
def test_a_step_by_another_name_has_its_function_and_options(again):
    other_name(small.net(), *small.data(12))
    made = again(other_name)
    assert made is not other_name
    assert (made.fn, made.session.options) == (small.plain, other_name.session.options)
    assert (made.session.part(Calls), made.session.part(Candidates)) == (Calls(), Candidates())
    assert small.runs(made, small.net(), *small.data(12)) == [(12, 3)]


@pytest.mark.parametrize("again", [WAYS["pickle"], WAYS["deepcopy"]], ids=["pickle", "deepcopy"])
def test_a_trainer_with_steps(again):
    """The copy's steps work on the copy's model, also those that were asked for by themselves."""
    trainer = Trainer()
    trainer.step(*small.data(12))
    trainer.own(*small.data(12))
    made, bound = again(trainer), again(trainer.step)
    assert made.own.fn.__self__ is made
    assert bound.__func__ is Trainer.step
    before = trainer.model.first.weight.grad.clone()
    for run, of in ((made.step, made), (made.own, made), (bound, bound.__self__)):
        assert of is not trainer
        of.model.zero_grad()
        assert_same(small.plain(small.net(), *small.data(7)), run(*small.data(7)))
        assert of.model.first.weight.grad.norm() > 0
    assert torch.equal(trainer.model.first.weight.grad, before)


def test_what_has_no_name_is_pickles_own_error():
    local = accumulate(steps=3)(lambda model, x, y: small.plain(model, x, y))
    with pytest.raises((pickle.PicklingError, AttributeError), match="local object"):
        pickle.dumps(local)
    assert copy.deepcopy(local).fn is local.fn


def test_a_worker_that_is_spawned_gets_it():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result = pool.apply(step, (small.net(), *small.data(12)))
    torch.testing.assert_close(result, small.plain(small.net(), *small.data(12)))
