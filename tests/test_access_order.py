"""No compiled code reads a buffer before the write that it must see, though PyTorch's own does (2.11 to 2.13)."""

from __future__ import annotations

import pytest
import torch
from catalogue.compare import beyond, differences, run
from catalogue.row import Case, call, seeded, sgd
from loops import aten, body_of, lower, prims, program_of, session
from torch import nn

from accumcompile import accumulate
from accumcompile.diagnostics.errors import AccumulateWarning
from accumcompile.ir.loop import Split
from accumcompile.lowering.inductor import access_order
from accumcompile.lowering.inductor.bridges import CompiledSegment
from accumcompile.lowering.inductor.progress import Progress

N = 13
DTYPES = [torch.float32, torch.float64]
AS_IT_STANDS = {"reorder_for_peak_memory": False}  # else what is free to stand in a wrong order stands in a right one
# Code that is found wrong would run uncompiled, and be right.
pytestmark = [pytest.mark.inductor, pytest.mark.filterwarnings("error:accumcompile AC05")]


@pytest.fixture(autouse=True)
def compiled_anew(fresh_dynamo):
    """Each test is captured by itself."""


def softmax_and_scatter(rows, start, e, m5, mm, m10, full, a2, v9, v10, idx):
    """A mixture of experts' backward: the sum is of other loops than what is scattered."""
    softmax = aten.div.Tensor(e, aten.sum.dim_IntList(e, [-1], True))
    backward = prims.fma.default(aten.neg.default(softmax), aten.sum.dim_IntList(m5, [-1], True), m5)
    balanced = aten.add.Tensor(backward, aten.mul.Tensor(v9, aten.exp.default(aten.sub.Tensor(mm, v10))))
    return (aten.add.Tensor(balanced, aten.mul.Tensor(aten.scatter_add.default(full, 1, idx, a2), m10)),)


def broadcast_and_scatter(rows, start, x, v, m, full, a2, idx):
    """The least of that kind: two outputs, of which the second reads the first and what was scattered."""
    first = aten.add.Tensor(x, v)
    return first, aten.add.Tensor(first, aten.mul.Tensor(aten.scatter.src(full, 1, idx, a2), m))


def arguments_of(body, dtype):
    def values(count, columns):
        return [torch.rand(N, columns, dtype=dtype) for _ in range(count)]

    torch.manual_seed(0)
    scattered = [torch.zeros(N, 4, dtype=dtype), *values(1, 2)]
    idx = torch.rand(N, 4).topk(2).indices
    if body is softmax_and_scatter:
        return [*values(4, 4), *scattered, *values(2, 1), idx]
    return [*values(1, 4), *values(1, 1), *values(1, 4), *scattered, idx]


BODIES = [softmax_and_scatter, broadcast_and_scatter]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("body", BODIES)
def test_a_body_reads_what_it_has_scattered(body, dtype):
    arguments = arguments_of(body, dtype)
    expected = body(N, 0, *arguments)
    sums = ["sum"] * len(expected)
    program = program_of(body_of(body, *arguments), 0, [0] * len(arguments), sums, dtype=dtype)
    compiled = lower(program, session(inductor=AS_IT_STANDS))
    torch.testing.assert_close(compiled(Split(N, N), *arguments), list(expected))


@pytest.mark.parametrize("body", BODIES)
def test_a_bridge_reads_what_it_has_scattered(body):
    arguments = arguments_of(body, torch.float64)
    segment = CompiledSegment(body_of(body, *arguments), "bridge", session(inductor=AS_IT_STANDS), Progress("test"))
    torch.testing.assert_close(tuple(segment(N, 0, *arguments)), body(N, 0, *arguments))


class MutationsLast(access_order.SchedulerPass):
    """What a scheduler that has lost the order may do."""

    def __call__(self, nodes):
        return sorted(nodes, key=lambda node: any(b.get_mutations() for b in node.get_outputs()))

    def uuid(self):
        return "mutations last"


@pytest.mark.filterwarnings("default:accumcompile AC05")
def test_code_that_exchanges_a_read_and_a_write_is_never_run():
    arguments = arguments_of(broadcast_and_scatter, torch.float64)
    options = AS_IT_STANDS | {"_post_fusion_custom_pass": MutationsLast()}
    segment = CompiledSegment(
        body_of(broadcast_and_scatter, *arguments), "bridge", session(inductor=options), Progress("test")
    )
    with pytest.warns(AccumulateWarning, match="exchanged a read and a write"):
        found = segment(N, 0, *arguments)
    for value, expected in zip(found, segment.body(N, 0, *arguments), strict=True):
        torch.testing.assert_close(value, expected)


class Experts(nn.Module):
    """Four experts, two for each sample; the balance terms are kept on the module, and the loss does not use them."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(6, 4, bias=False)
        self.experts = nn.Linear(6, 4 * 3)

    def forward(self, x):
        logits = self.gate(x)
        scores = logits.sigmoid()
        weights, chosen = scores.topk(2, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        full = torch.zeros_like(scores).scatter(1, chosen, weights)
        self.z_loss = torch.logsumexp(logits, -1).square().mean()
        self.balance = (logits.softmax(-1).mean(0) * (full > 0).to(x.dtype).mean(0)).sum() * 4
        return (full[:, :, None] * self.experts(x).unflatten(1, (4, 3))).sum(1)


def mixture():
    with seeded(0):
        model = nn.Sequential(nn.Linear(6, 6), Experts())
    optimizer = sgd(model)

    def step(model, optimizer, x, y):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def batch(size):
        return call(model, optimizer, torch.randn(size, 6), torch.randint(3, (size,)))

    case = Case(step, batch, {"model": model}, [optimizer])
    case.snapshot()
    return case


@pytest.mark.parametrize("steps", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_mixture_of_experts_that_keeps_its_balance_terms(steps):
    case = mixture()
    expected = run(case, case.step, N)
    case.restore()
    assert not beyond(differences(expected, run(case, accumulate(steps=steps)(case.step), N)))
