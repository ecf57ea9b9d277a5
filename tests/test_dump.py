"""The dump: readable texts, and programs that run."""

import json
import logging
import os
import re
import subprocess
import sys

import pytest
import sympy
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from accumcompile import accumulate
from accumcompile.ir.carry import Carry
from accumcompile.ir.loop import LoopSpec, ProgramCode, Split, X, Y, accumulate_loop
from accumcompile.passes.manager import run
from accumcompile.printing.source import program_source
from accumcompile.report.dump import Dumper, dumper_of, reported
from accumcompile.report.plan import Plan
from accumcompile.report.report import Report
from accumcompile.session.journal import Run
from accumcompile.session.options import Options
from accumcompile.session.session import Session

aten = torch.ops.aten
PLAN = Plan("fused", sympy.Symbol("s0"), 1, (), ())


def fake(shape, dynamic=True):
    """A fake tensor whose first size is a symbol."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    kinds = [DimDynamic.DYNAMIC if dynamic and i == 0 else DimDynamic.STATIC for i in range(len(shape))]
    return mode.from_tensor(torch.zeros(shape), symbolic_context=StatelessSymbolicContext(dynamic_sizes=kinds))


def sum_of_products(batch=6):
    """A program of one loop: sum(x @ w * table) / batch, and x @ w."""
    body = Graph()
    rows, _start, w, x = (body.placeholder(name) for name in ("rows", "start", "w", "x"))
    y = body.call_function(aten.mm.default, (x, w))
    size = body.call_function(aten.expand.default, (body.get_attr("table"), [rows, 2]))
    masked = body.call_function(aten.clamp.default, (size, -float("inf"), 10.0))
    total = body.call_function(aten.sum.default, (body.call_function(aten.mul.Tensor, (y, masked)),))
    body.output((total, y))
    holder = torch.nn.Module()
    holder.register_buffer("table", torch.tensor([1.0, float("inf")]))
    loop = GraphModule(holder, body)

    graph = Graph()
    graph.set_codegen(ProgramCode())
    split, s0, w, x = (graph.placeholder(name) for name in ("split", "s0", "w", "x"))
    x.meta["val"], w.meta["val"] = fake((batch, 3)), fake((3, 2), dynamic=False)
    s0.meta["val"] = x.meta["val"].shape[0]
    spec = LoopSpec(("w",), (X(0),), (Carry.of("sum", torch.float32),), (Y(0),))
    call = graph.call_function(accumulate_loop, (graph.get_attr("loop_0"), split, [w], [x], spec))
    total, y = (graph.call_function(__import__("operator").getitem, (call, i)) for i in range(2))
    mean = graph.call_function(aten.div.Tensor, (total, s0))
    zero = graph.call_function(aten.zeros.default, ([1],), {"device": torch.device("cpu")})
    graph.output((mean, y, zero, s0, None))
    root = torch.nn.Module()
    root.loop_0 = loop
    return GraphModule(root, graph, "Program")


def run_file(path):
    return subprocess.run([sys.executable, path], capture_output=True, text=True, env=os.environ, check=False)


def namespace(source):
    scope = {"__name__": "dumped"}
    exec(compile(source, "dumped.py", "exec"), scope)
    return scope


def test_the_program_runs_as_a_file(tmp_path):
    gm = sum_of_products()
    session = Session(Options(steps=2), name="train_step")
    Dumper(tmp_path).graph("fused").program(gm, Run(PLAN, {}, Split(6, 4)), session)
    done = run_file(tmp_path / "graph_1_fused" / "program.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "() torch.float32",
        "(6, 2) torch.float32",
        "(1,) torch.float32",
        "6",
        "None",
    ]


def test_the_program_computes_what_the_graph_computes():
    gm = sum_of_products()
    scope = namespace(program_source(gm, Split(6, 4)))
    inputs = scope["inputs"]()
    mine, theirs = scope["Program"]()(*inputs), gm(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(mine[:3], theirs[:3], strict=True))


def test_sizes_may_be_chosen():
    gm = sum_of_products()
    symbol = next(iter(gm.graph.find_nodes(op="placeholder"))).next.meta["val"].node.expr
    _, s0, _, x = namespace(program_source(gm, Split(10, 5), {symbol: 10}))["inputs"]()
    assert (s0, tuple(x.shape)) == (10, (10, 3))


def test_texts_are_numbered_by_graph(tmp_path):
    dumper = Dumper(tmp_path)
    forward, backward = dumper.graph("forward"), dumper.graph("backward")
    forward.write("captured", sum_of_products())
    backward.write("captured", "text")
    forward.write("form loops", "more text")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.txt")) == [
        "graph_1_forward/00_captured.txt",
        "graph_1_forward/01_form_loops.txt",
        "graph_2_backward/00_captured.txt",
    ]
    text = (tmp_path / "graph_1_forward/00_captured.txt").read_text()
    assert "accumulate_loop" in text
    assert "torch.ops.aten.mm.default" in text


def test_the_report_as_text_and_json(tmp_path):
    Dumper(tmp_path).report(Report.of([], name="step", steps=2))
    assert (tmp_path / "report.txt").read_text().startswith("step: steps=2 asked for")
    assert json.loads((tmp_path / "report.json").read_text())["steps"] == 2


def test_a_call_that_compiled_is_reported(tmp_path):
    session = Session(Options(steps=2, dump=str(tmp_path)), name="train_step")
    with reported(session):
        pass
    assert not (tmp_path / "report.txt").exists()
    with reported(session):
        dumper_of(session).graph("fused").write("captured", "text")
        session.journal.ran(PLAN, {PLAN.batch: 4}, Split(4, 2))
    headline = "train_step: steps=2 asked for; a batch of 4 ran whole: nothing could be split"
    assert (tmp_path / "report.txt").read_text().startswith(headline)


@pytest.mark.parametrize("named", [str, os.fsencode, lambda path: path], ids=["str", "bytes", "Path"])
def test_a_folder_is_named_as_os_names_it(tmp_path, named):
    session = Session(Options(steps=2, dump=named(tmp_path)))
    assert dumper_of(session).directory == tmp_path
    assert dumper_of(session) is dumper_of(session)


def test_off_it_costs_nothing():
    def never():
        raise AssertionError

    dumper = Dumper()
    dumper.put("name", never)
    assert dumper.directory is None


def test_the_log_gets_the_texts(caplog):
    with caplog.at_level(logging.DEBUG, logger="accumcompile"):
        Dumper().graph("fused").write("captured", "the text")
    assert "graph_1_fused/00_captured.txt\nthe text" in caplog.text


def test_a_pass_is_run_timed_and_written(tmp_path, caplog):
    def halve(gm, context):
        return f"{gm} / {context}"

    with caplog.at_level(logging.INFO, logger="accumcompile"):
        assert run([halve], "text", 2, [Dumper(tmp_path).graph("fused").observe]) == "text / 2"
    assert (tmp_path / "graph_1_fused/00_halve.txt").read_text() == "text / 2\n"
    assert "graph_1_fused: halve took 0.0" in caplog.text


def test_a_step_dumps_what_was_made_of_it(tmp_path):
    @accumulate(steps=3, lowering="eager", dump=str(tmp_path))
    def train_step(inputs, weight):
        loss = (inputs @ weight).tanh().mean()
        loss.backward()
        return loss.detach()

    train_step(torch.randn(12, 4), torch.ones(4, 2, requires_grad=True))
    folder = tmp_path / "graph_1_fused"
    assert (folder / "00_captured.txt").exists()
    assert "accumulate_loop" in next(folder.glob("*_form_loops.txt")).read_text()
    done = run_file(folder / "program.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "(4, 2) torch.float32"  # the gradient
    for report in (tmp_path / "report.json", folder / "report.json"):
        facts = json.loads(report.read_text())
        assert facts["graphs"][0]["loops"][0]["carry"][1]["name"] == "grad of weight"
        assert facts["steps"] == 3


def test_a_dump_is_written_as_the_user_speaks(tmp_path):
    """Names, modules and lines are the user's; forward and backward are told apart; a loop says what it takes."""

    @accumulate(steps=3, lowering="eager", dump=str(tmp_path))
    def train_step(model, inputs, targets):
        logits = model(inputs)
        loss = torch.nn.functional.cross_entropy(logits, targets)
        loss.backward()
        return loss.detach()

    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh())
    train_step(model, torch.randn(12, 4), torch.randint(0, 3, (12,)))
    folder = tmp_path / "graph_1_fused"
    _, _, first, second = next(folder.glob("*_form_loops.txt")).read_text().split("def forward(")
    assert "carries sum_2 P(sum) in int64" in first
    for line in (
        "# slices  inputs S(0), targets S(0)",
        "# carries loss P(sum) in float32, grad_of_model_0_weight P(sum) in float32",
        "# ---- model.1: tests/test_dump.py:",
        "# ---- backward of model.0: tests/test_dump.py:",
        "logits = torch.ops.aten.tanh.default(model_0_output)  # float32[rows, 3] S(0) @0",
        "  logits = model(inputs)",
    ):
        assert line in second
    done = run_file(folder / "program.py")
    assert done.returncode == 0, done.stderr
    placed = next(folder.glob("*_propagate.txt")).read_text()
    assert re.search(r"loss = .*  # float32\[\] P\(sum\) @1\n", placed)


TRACED = """
from accumcompile.report.dump import Dumper
Dumper().graph("fused").write("captured", "the text")
"""


@pytest.mark.parametrize("variable", ["TORCH_TRACE", "TORCH_LOGS"])
def test_torchs_own_logs_get_the_texts(tmp_path, variable):
    value = str(tmp_path) if variable == "TORCH_TRACE" else "+accumcompile"
    done = subprocess.run(
        [sys.executable, "-c", TRACED],
        env=os.environ | {variable: value},
        capture_output=True,
        text=True,
        check=True,
    )
    traces = "".join(p.read_text() for p in tmp_path.glob("*.log"))
    seen = traces if variable == "TORCH_TRACE" else done.stderr
    assert "graph_1_fused/00_captured.txt" in seen
    assert "the text" in seen
