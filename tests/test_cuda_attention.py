"""Placements of CUDA's attention operators, found on any machine: the tensors are stand-ins for a device's."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from accumcompile.ir.loop import accumulate_loop
from accumcompile.ir.placement import Partial, R
from accumcompile.ir.sizes import Batch, expression
from accumcompile.oracle.check import NO_BATCH
from accumcompile.passes import form_loops
from accumcompile.passes.manager import Planned
from accumcompile.planning.decisions import schedule
from accumcompile.propagation.propagate import propagate
from accumcompile.rules.table import is_impure

aten = torch.ops.aten
FLASH, EFFICIENT, CUDNN = "flash", "efficient", "cudnn"
SHAPE = (12, 4, 64, 32)


def on_cuda(mode, shape, dynamic):
    """A stand-in for a half-precision tensor on a GPU; the sizes of ``dynamic`` dims are symbols."""
    sizes = [DimDynamic.DYNAMIC if d in dynamic else DimDynamic.STATIC for d in range(len(shape))]
    meta = torch.empty(shape, dtype=torch.bfloat16, device="meta")
    fake = mode.from_tensor(meta, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes))
    with mode:
        return FakeTensor(mode, torch.empty_like(fake, device="meta"), torch.device("cuda", 0))


def attention(kind, dropout=0.0, gradient=lambda g, out: g):
    """A function of (gradient of the output, query, key, value, mask), which returns the output and gradients."""

    def flash(g, q, k, v):
        out, lse, cum_q, cum_k, max_q, max_k, seed, offset, _ = aten._scaled_dot_product_flash_attention(
            q, k, v, dropout, True
        )
        saved = out, lse, cum_q, cum_k, max_q, max_k, dropout, True, seed, offset
        return out, *aten._scaled_dot_product_flash_attention_backward(gradient(g, out), q, k, v, *saved)

    def efficient(g, q, k, v, mask):
        out, lse, seed, offset = aten._scaled_dot_product_efficient_attention(q, k, v, mask, True, dropout)
        wanted = [True, True, True, True]
        saved = mask, out, lse, seed, offset, dropout, wanted
        return out, *aten._scaled_dot_product_efficient_attention_backward(gradient(g, out), q, k, v, *saved)

    def cudnn(g, q, k, v, mask):
        out, lse, cum_q, cum_k, max_q, max_k, seed, offset, _ = aten._scaled_dot_product_cudnn_attention(
            q, k, v, mask, True, dropout
        )
        saved = out, lse, seed, offset, mask, cum_q, cum_k, max_q, max_k, dropout, False
        return out, *aten._scaled_dot_product_cudnn_attention_backward(gradient(g, out), q, k, v, *saved)

    return {FLASH: flash, EFFICIENT: efficient, CUDNN: cudnn}[kind]


def captured(kind, dropout=0.0, dynamic=(0,), mask_batch=True, **kw):
    """The graph of forward and backward."""
    mode = FakeTensorMode(shape_env=ShapeEnv())
    q = on_cuda(mode, SHAPE, dynamic)
    with mode:
        tensors = [torch.empty_like(q) for _ in range(4)]
        if kind != FLASH:
            rows = q.shape[0] if mask_batch else 1
            tensors.append(torch.empty(rows, 4, q.shape[2], q.shape[2], dtype=q.dtype, device=q.device))
        gm = make_fx(attention(kind, dropout, **kw))(*tensors)
    gm.graph.eliminate_dead_code()
    gm.graph.output_node().args = (list(gm.graph.output_node().args[0]),)
    symbol = expression(q.shape[0])
    return gm, Batch.of([symbol], [expression(s) for s in q.shape])


def operators(nodes):
    return [n for n in nodes if "_attention" in str(n.target)]


@pytest.mark.parametrize("kind", [FLASH, EFFICIENT, CUDNN])
@pytest.mark.parametrize("dynamic", [(0,), (0, 2)], ids=["batch", "batch and length"])
def test_attention_runs_in_the_loop(kind, dynamic):
    """Outputs and gradients are split; what says nothing of the batch goes from forward to backward as it is."""
    gm, batch = captured(kind, dynamic=dynamic)
    known = propagate(gm.graph, batch)
    outputs = [o for o in gm.graph.output_node().args[0] if o is not None]
    assert {str(known.placement(o)) for o in outputs} == {"S(0)"}
    plan = schedule(gm.graph, known)
    (loop,) = plan.loops
    assert len(operators(loop.nodes)) == 2
    program = form_loops(gm, Planned(plan))
    (call,) = program.graph.find_nodes(op="call_function", target=accumulate_loop)
    _, _, consts, _, spec = call.args
    assert not spec.carry and not [c for c in consts if "sym_size" not in c.name], "nothing is taken whole"
    assert not operators(program.graph.nodes), "nothing runs on the full batch"


@pytest.mark.parametrize("kind", [FLASH, EFFICIENT, CUDNN])
def test_a_later_loop_finds_what_it_needs(kind):
    """The generator's state is not kept from one loop to the next: it is had again with the forward's results."""
    gm, batch = captured(kind, gradient=lambda g, out: g * out.sum(0))
    known = propagate(gm.graph, batch)
    plan = schedule(gm.graph, known)
    first, second = plan.loops
    assert len(operators(first.nodes)) == 1 and len(operators(second.nodes)) == 2
    program = form_loops(gm, Planned(plan))
    assert not operators(program.graph.nodes), "nothing runs on the full batch"


@pytest.mark.parametrize("kind", [FLASH, EFFICIENT, CUDNN])
def test_dropout_draws_for_the_whole_batch(kind):
    """The generator's state is one for the full batch: forward and backward take everything whole."""
    gm, batch = captured(kind, dropout=0.1)
    known = propagate(gm.graph, batch)
    forward, backward = operators(gm.graph.nodes)
    assert is_impure(forward)
    for node in (forward, backward):
        assert set(known[node].placements) == {R}
        assert {need.placement for need in known[node].needs} == {R}


def test_a_mask_of_one_row_for_all_has_a_summed_gradient():
    """Every sample adds to the gradient of a mask that is shared."""
    gm, batch = captured(EFFICIENT, mask_batch=False)
    known = propagate(gm.graph, batch)
    assert [str(known.placement(o)) for o in gm.graph.output_node().args[0]] == ["S(0)"] * 4 + ["P(sum)"]


@pytest.mark.parametrize("kind", [FLASH, EFFICIENT, CUDNN])
def test_the_backward_is_linear_in_the_outputs_gradient(kind):
    """A partial gradient passes, and nothing else does."""
    gm, _ = captured(kind)
    holders = gm.graph.find_nodes(op="placeholder")
    for i, placement in ((0, "P(sum)"), (1, "R")):
        inputs = dict.fromkeys(holders, R) | {holders[i]: Partial("sum")}
        known = propagate(gm.graph, NO_BATCH, inputs)
        gradients = gm.graph.output_node().args[0][1:]
        assert {str(known.placement(g)) for g in gradients} == {placement}


def test_a_debugging_mask_is_every_samples():
    """Asked for, the mask has a row a sample: not any micro-batch's will do, and the operator runs whole."""

    def fn(q):
        found = aten._scaled_dot_product_flash_attention(q, q, q, 0.0, False, True)
        return found[0], found[8]

    mode = FakeTensorMode(shape_env=ShapeEnv())
    q = on_cuda(mode, SHAPE, (0,))
    with mode:
        gm = make_fx(fn)(torch.empty_like(q))
    known = propagate(gm.graph, Batch.of([expression(q.shape[0])], []))
    assert set(known[operators(gm.graph.nodes)[0]].placements) == {R}
