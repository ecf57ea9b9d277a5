"""Compiled code is compared with its graph when it first runs; wrong code is said, written down and never used."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import small
import torch
from expecttest import assert_expected_inline
from loops import Capture, aten, body_of, lower, program_of, session
from torch.fx import GraphModule, Interpreter

from accumcompile import AccumulateError, AccumulateWarning, accumulate
from accumcompile.ir.loop import Split
from accumcompile.lowering.inductor import api as inductor_api
from accumcompile.lowering.inductor.bridges import CompiledSegment
from accumcompile.lowering.inductor.progress import Progress
from accumcompile.session.check_cost import CheckCost


class Compiler:
    """Stands in for Inductor: runs a graph as it stands, but for the operator that it gets wrong."""

    def __init__(self, wrong=None):
        self.wrong, self.runs = wrong, 0

    def __call__(self, gm, inputs, trace, options):
        outer = self

        class Code(Interpreter):
            def call_function(self, target, args, kwargs):
                right = super().call_function(target, args, kwargs)
                return right * 1.001 if target is outer.wrong else right

        def run(given):
            outer.runs += 1
            values, given[:] = list(given), []
            return list(Code(gm).run(*values))

        return run


@pytest.fixture
def compiler(monkeypatch):
    """The compiler; its ``wrong`` is the operator that it gets wrong."""
    made = Compiler()
    monkeypatch.setattr(inductor_api, "compile_graph", made)
    return made


def body(rows, start, w, x):
    h = aten.tanh.default(aten.mm.default(x, w))
    return aten.sum.dim_IntList(h, [0]), aten.amax.default(h, [0]), aten.exp.default(h)


def program(**options):
    """(the program, its session): a sum, a maximum and a y."""
    given, capture = session(**options), Capture(s=12)
    graph = body_of(body, capture.tensor(8, 16), capture.tensor("s", 8))
    return lower(program_of(graph, 1, [0], ["sum", "max"], [0]), given), given


W, X = torch.randn(8, 16), torch.randn(12, 8)
ACROSS = Split(12, 5)  # first, later, tail


def expected():
    h = (X @ W).tanh()
    return h.sum(0), h.amax(0), h.exp()


def assert_right(results):
    for value, right in zip(results, expected(), strict=True):
        torch.testing.assert_close(value, right)


def test_each_form_is_checked_once(compiler):
    run, given = program()
    for _ in range(3):
        assert_right(run(ACROSS, W, X))
    assert given.part(CheckCost).graphs == 3 and given.part(CheckCost).seconds > 0 and given.part(CheckCost).bytes > 0
    assert compiler.runs == 9


def test_always_and_never(compiler):
    run, given = program(check="always")
    run(ACROSS, W, X), run(ACROSS, W, X)
    assert given.part(CheckCost).graphs == 6
    given.change(check="never")
    compiler.wrong = aten.tanh.default
    assert not torch.allclose(run(ACROSS, W, X)[2], expected()[2], rtol=1e-5)
    assert given.part(CheckCost).graphs == 6


@pytest.mark.parametrize("wrong", [aten.tanh.default, aten.sum.dim_IntList, aten.add.Tensor, aten.exp.default])
def test_nothing_of_a_wrong_result_is_used(compiler, wrong):
    compiler.wrong = wrong
    run, _ = program()
    with pytest.warns(AccumulateWarning, match="AC050"):
        assert_right(run(ACROSS, W, X))
    runs = compiler.runs
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_right(run(ACROSS, W, X))
    assert compiler.runs == runs  # uncompiled from then on


def test_what_is_said(compiler):
    compiler.wrong = aten.exp.default
    run, _ = program()
    with pytest.warns(AccumulateWarning) as said:
        run(ACROSS, W, X)
    text = str(small.ours(said)[0])
    assert_expected_inline(
        text[: text.index(", and rounding")],
        """\
accumcompile AC050: compiled code gave another result than its graph
  why   loop_0, its result 2 (exp_default), differs by 1.0e-03 of its norm""",
    )


def test_under_strict_it_is_an_error(compiler):
    compiler.wrong = aten.exp.default
    run, _ = program(strict=True)
    with pytest.raises(AccumulateError, match="AC050"):
        run(ACROSS, W, X)


def test_a_file_that_shows_it_is_written(compiler, tmp_path):
    compiler.wrong = aten.exp.default
    run, _ = program(dump=str(tmp_path))
    with pytest.warns(AccumulateWarning, match=r"wrong_loop_0\.py"):
        run(ACROSS, W, X)
    source = (tmp_path / "wrong_loop_0.py").read_text().replace("torch.compile(body)", "body")  # no compiler here
    (tmp_path / "wrong_loop_0.py").write_text(source)
    shown = subprocess.run([sys.executable, tmp_path / "wrong_loop_0.py"], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[2] == "2 (5, 16) torch.float32 largest difference 0.0"


def test_where_there_is_no_memory_for_a_check_that_is_said(compiler, monkeypatch, caplog):
    monkeypatch.setattr("accumcompile.lowering.trust.trust.available", lambda device: 64)
    run, given = program()
    assert_right(run(ACROSS, W, X))
    assert given.part(CheckCost).graphs == 0 and given.part(CheckCost).skipped == 3
    assert "test: loop_0 is not checked against its graph: no memory for it" in caplog.text
    assert list(given.part(CheckCost).said()) == [
        "3 compiled graphs were not compared with what they were made of: no memory for it"
    ]


def test_a_compiler_that_fails_is_said_and_the_graph_runs_as_it_stands(monkeypatch):
    def fails(gm, inputs, trace, options):
        raise RuntimeError("no C++ compiler\nat all")

    monkeypatch.setattr(inductor_api, "compile_graph", fails)
    run, _ = program()
    with pytest.warns(AccumulateWarning) as said:
        assert_right(run(ACROSS, W, X))
    assert_expected_inline(
        str(small.ours(said)[0]),
        """\
accumcompile AC051: a part of the step could not be compiled
  why   loop_0: RuntimeError: no C++ compiler
  cost  it runs uncompiled, one operator after the other
  fix   repair what it names, or report it to PyTorch: with dump= set, a file that shows it is written""",
    )


def test_bridges_are_checked_too(compiler):
    graph = GraphModule(torch.nn.Module(), body_of(body, None, None).graph)
    segment = CompiledSegment(graph, "bridge_0", given := session(), Progress("test"))
    assert_right(segment(12, torch.tensor(0), W, X))
    assert given.part(CheckCost).graphs == 1
    wrong = CompiledSegment(graph, "bridge_1", session(), Progress("test"))
    compiler.wrong = aten.tanh.default
    with pytest.warns(AccumulateWarning, match="AC050"):
        assert_right(wrong(12, torch.tensor(0), W, X))


@pytest.mark.inductor
def test_a_step_that_draws_is_checked_and_right():
    """Dropout, normal noise and a permutation: what compiled code draws has a meaning without it."""
    model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Dropout(0.4), torch.nn.Linear(64, 8))

    def step(model, x):
        model.zero_grad()
        loss = (model(x + 0.1 * torch.randn_like(x)) * torch.rand(len(x), 1)).square().mean()
        loss.backward()
        return loss.detach()

    decorated = accumulate(steps=3, strict=True)(step)
    decorated(model, torch.randn(12, 8))
    assert decorated.session.part(CheckCost).graphs >= 2
    (note,) = (note for note in decorated.explain(model, torch.randn(12, 8)).notes if "was compared" in note)
    assert note.startswith("compiled code of ")
