"""An optimisation of PyTorch's that raises: the graph goes on without it, and that is said once."""

import capturing
import pytest
import small
import torch
from torch._inductor import config
from torch._inductor.fx_passes import joint_graph
from torch.nn import functional as F

pytestmark = pytest.mark.usefixtures("fresh_dynamo")
LOST = "an optimisation of PyTorch's failed, and the graph does without it: "


def seeded(step):
    """``step``, in which both runs draw the same numbers."""

    def run(model, x, y):
        torch.manual_seed(len(x))
        return step(model, x, y)

    return run


def mixup(model, x, y):
    order, part = torch.randperm(len(x)), 0.3
    out = model(part * x + (1 - part) * x[order])
    loss = part * F.cross_entropy(out, y) + (1 - part) * F.cross_entropy(out, y[order])
    loss.backward()
    return loss.detach()


def cutmix(model, x, y):
    order = torch.randperm(x.shape[0])
    mixed = torch.where(torch.arange(4) < 2, x, x[order])
    loss = F.cross_entropy(model(mixed), y) + F.cross_entropy(model(mixed), y[order])
    loss.backward()
    return loss.detach()


def shuffled_negatives(model, x, y):
    z = model(x)
    loss = (z - z[torch.randperm(x.size(0), device=x.device)].detach()).square().mean() + F.cross_entropy(z, y)
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("step", (mixup, cutmix, shuffled_negatives), ids=lambda f: f.__name__)
def test_a_random_permutation_of_the_batch(step):
    """PyTorch replaces it by an unchecked index, and fails to where no part of it is taken."""
    ran = capturing.same(seeded(step), small.net(), sizes=(12, 13))
    assert ran.roads == ["fused"] * 2
    assert all(len(run.split) == 3 for run in ran.runs)
    fails = torch.__version__ < "2.15"
    assert [note.startswith(LOST) for note in ran.session.notes] == [True] * fails, "said once"


@pytest.mark.inductor
def test_it_compiles():
    ours, whole = small.eager(mixup, lowering="inductor"), small.eager(mixup, lowering="inductor", steps=1)
    models = small.net(), small.net()
    for seed in range(2):
        results = []
        for step, model in zip((ours, whole), models, strict=True):
            torch.manual_seed(seed)
            results.append(step(model, *small.data(12, seed)))
        torch.testing.assert_close(*results, rtol=1e-10, atol=1e-10)
    for a, b in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-10)


def broken(graph):
    raise LookupError("no such pattern. More of it")


@pytest.mark.parametrize("name", ("joint_custom_pre_pass", "joint_custom_post_pass"))
def test_any_pass_may_fail(name):
    with config.patch({name: broken}):
        ran = capturing.same(small.plain, small.net(), sizes=(12, 13))
    assert ran.roads == ["fused"] * 2
    assert ran.session.notes == [LOST + "no such pattern"]


def test_the_graph_itself_stays_as_it_is(monkeypatch):
    """The passes work on a copy."""

    def half(gm):
        node = next(n for n in gm.graph.nodes if n.op == "call_function")
        node.replace_all_uses_with(gm.graph.find_nodes(op="placeholder")[0])
        raise LookupError("half-way")

    monkeypatch.setattr(joint_graph, "canonicalize_aten_ir_passes", half)
    ran = capturing.same(small.plain, small.net())
    assert ran.session.notes == [LOST + "half-way"]
