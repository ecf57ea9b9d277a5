"""Options that are set between calls: those that were compiled in lead to a new capture, the others to none."""

import pytest
import small
import torch
from capturing import frames
from torch.nn import functional as F

from accumcompile import accumulate
from accumcompile.lowering.inductor import api as inductor_api

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


def step(model, x, y):
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return loss.detach()


@pytest.fixture
def compiled_with(monkeypatch):
    """Inductor's options at each of its compilations."""
    seen = []
    original = inductor_api.compile_graph

    def compile_graph(gm, inputs, trace, options):
        seen.append(options)
        return original(gm, inputs, trace, options)

    monkeypatch.setattr(inductor_api, "compile_graph", compile_graph)
    return seen


@pytest.mark.inductor
def test_inductors_options(compiled_with):
    ours, model = accumulate(steps=3)(step), small.net()
    small.assert_equal(ours, model, *small.data(12))
    first = len(compiled_with)
    assert first and not any(compiled_with)
    ours.session.change(inductor={"epilogue_fusion": False})
    model.zero_grad()
    small.assert_equal(ours, model, *small.data(12))
    assert compiled_with[first:] == [{"epilogue_fusion": False}] * first
    ours.session.options.inductor["epilogue_fusion"] = True  # the user's own dict, edited in place
    model.zero_grad()
    small.assert_equal(ours, model, *small.data(12))
    assert compiled_with[2 * first :] == [{"epilogue_fusion": True}] * first


@pytest.mark.inductor
def test_the_lowering(compiled_with):
    ours, model = accumulate(steps=3, lowering="eager")(step), small.net()
    small.assert_equal(ours, model, *small.data(12))
    assert not compiled_with
    ours.session.change(lowering="inductor")
    model.zero_grad()
    small.assert_equal(ours, model, *small.data(12))
    assert compiled_with


def test_batch_dims():
    """Declared later, along the second dim."""

    def total(x):
        loss = (x.square().sum(0) * x.shape[1]).sum()
        loss.backward()
        return loss.detach()

    ours = accumulate(steps=3, lowering="eager")(total)
    x = torch.randn(6, 12, dtype=torch.float64, requires_grad=True)
    assert small.runs(ours, x) == [(6, 3)]
    ours.session.change(batch_dims={"x": 1})
    assert small.runs(ours, x) == [(12, 3)]


def test_the_dump(tmp_path):
    """Graphs go to the folder that is named now; another stays as it is, and is numbered on when it is named again."""
    old, new = tmp_path / "old", tmp_path / "new"
    ours = accumulate(steps=3, lowering="eager", dump=str(old))(step)

    def written(**changed) -> list[dict[str, bytes]]:
        if changed:
            ours.session.change(**changed)
        small.assert_equal(ours, small.net(), *small.data(12))
        return [{str(f.relative_to(d)): f.read_bytes() for f in d.rglob("*") if f.is_file()} for d in (old, new)]

    (first, _) = written()
    assert "report.txt" in first and "graph_1_fused/program.py" in first
    assert written() == [first, {}], "the same folder: nothing is captured anew"
    kept, moved = written(dump=new)
    assert kept == first and moved.keys() == first.keys()
    assert written(dump=None) == [first, moved]
    again, kept = written(dump=str(old))
    assert kept == moved and again.keys() == first.keys() | {n.replace("graph_1", "graph_2") for n in first}


def test_an_options_own_dict_that_is_edited():
    ours = accumulate(steps=3, lowering="eager", batch_dims={"x": [{"a": 0}, None]})(step)
    before = ours.session.options.compiled_in
    assert ours.session.options.compiled_in == before
    ours.session.options.batch_dims["x"][0]["a"] = 1
    assert ours.session.options.compiled_in != before


@pytest.mark.parametrize("changed", [{"steps": 6}, {"steps": None, "micro_batch_size": 5}])
def test_how_many_micro_batches_captures_nothing_anew(changed):
    ours, model = accumulate(steps=3, lowering="eager")(step), small.net()
    ours(model, *small.data(12))
    before = frames()
    ours.session.change(**changed)
    ours(model, *small.data(12))
    assert frames() == before
