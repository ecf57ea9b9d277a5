"""Steps in several threads, within each other, and while another compiles: each is the plain step."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small
import torch
from capturing import assert_same, decorated, frames
from torch._decomp import decompositions
from torch._dynamo import convert_frame, symbolic_convert
from torch.nn import functional as F

import accumcompile
from accumcompile.capture.aot.api import layers_of_operators

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


def in_threads(jobs: list[Callable[[], Any]]) -> None:
    """Run jobs at once; the first error of any is raised."""
    failed: list[BaseException] = []

    def guarded(job: Callable[[], Any]) -> None:
        try:
            job()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


def trained(step: Callable[..., Any], seed: int, calls: int = 3) -> None:
    """A model of its own is trained by ``step`` as by the plain one, with an optimizer that compiling would change."""
    model = small.net()
    with torch.no_grad():
        model.first.weight.mul_(1 + seed)
    reference = copy.deepcopy(model)
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.01) for m in (reference, model)]
    for call in range(calls):
        batch = small.data(12 + call % 2, 10 * seed + call)
        assert_same(small.update(reference, optimizers[0], *batch), step(model, optimizers[1], *batch))
        assert_same(reference, model)


@pytest.mark.parametrize("shared", [False, True], ids=["a step each", "one step"])
def test_four_threads(shared):
    before = convert_frame.CatchErrorsWrapper.__call__, symbolic_convert.InstructionTranslatorBase._load_attr
    one = decorated(small.update)[0]
    in_threads([lambda seed=i: trained(one if shared else decorated(small.update)[0], seed) for i in range(4)])
    after = convert_frame.CatchErrorsWrapper.__call__, symbolic_convert.InstructionTranslatorBase._load_attr
    assert before == after, "what the calls replaced is put back"


def test_a_captured_step_runs_while_another_compiles():
    """Captures wait for each other, and nothing else does."""
    step, model = decorated(small.plain)[0], small.net()
    compiling, done = threading.Event(), threading.Event()

    def compiles() -> None:
        with convert_frame.compile_lock:
            compiling.set()
            assert done.wait(60), "the captured step waited for the compiler"

    def runs() -> None:
        assert compiling.wait(60)
        step(model, *small.data(12))
        done.set()

    step(model, *small.data(12))
    in_threads([compiles, runs])


def test_traces_in_two_threads_put_back_what_they_replace():
    """The one that came second would put back what the first had put there."""
    before = decompositions.select_one_layer_lstm_function
    entered, leaves = threading.Event(), threading.Event()

    def first() -> None:
        with layers_of_operators():
            entered.set()
            assert leaves.wait(60)

    def second() -> None:
        assert entered.wait(60)
        threading.Timer(0.2, leaves.set).start()
        with layers_of_operators():
            assert leaves.is_set(), "two traces at once"

    in_threads([first, second])
    assert decompositions.select_one_layer_lstm_function is before


def test_a_step_within_a_step():
    """The inner step is a step of its own, with its own count; the outer one is split around it."""
    inner, session = decorated(small.update, steps=2)

    def outer(step, model, teacher, optimizer, x, y):
        step(teacher, optimizer, x, y)
        with torch.no_grad():
            target = teacher(x).softmax(-1)
        loss = F.cross_entropy(model(x), target)
        loss.backward()
        return loss.detach()

    ours, around = decorated(outer)
    models = [small.net() for _ in range(4)]
    optimizers = [torch.optim.AdamW(m.parameters(), lr=0.01) for m in (models[1], models[3])]
    seen = []
    for seed in range(3):
        batch = small.data(12, seed)
        expected = outer(small.update, models[0], models[1], optimizers[0], *batch)
        with session.journal.recording() as within, around.journal.recording() as whole:
            actual = ours(inner, models[2], models[3], optimizers[1], *batch)
        assert_same((expected, models[:2]), (actual, models[2:]))
        assert {len(run.split) for run in within} == {2} and {len(run.split) for run in whole} == {3}
        seen.append(frames())
    assert seen[1] == seen[2]


def test_threads_with_a_step_within_a_step():
    inner, _ = decorated(small.update)

    def outer(model, optimizer, x, y):
        return inner(model, optimizer, x, y)

    in_threads([lambda seed=i: trained(decorated(outer)[0], seed) for i in range(2)])


def test_one_module_owns_what_is_so_in_a_thread():
    sources = list(Path(accumcompile.__file__).parent.rglob("*.py"))
    owners = [p.name for p in sources if re.search(r"threading\.local|ContextVar", p.read_text(encoding="utf-8"))]
    assert owners == ["thread_state.py"]


@pytest.mark.inductor
def test_threads_that_compile_their_loops():
    """Inductor, too, compiles one at a time."""
    make = decorated
    in_threads([lambda seed=i: trained(make(small.update, lowering="inductor")[0], seed, calls=1) for i in range(2)])
