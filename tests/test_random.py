"""A micro-batch's random numbers are the full batch's, element for element."""

from __future__ import annotations

import pytest
import torch
from torch.fx import Graph, GraphModule

from accumcompile import accumulate
from accumcompile.ir import draws
from accumcompile.lowering.inductor import random_draws
from accumcompile.lowering.inductor.api import compile_graph
from accumcompile.lowering.tracing import Tracing

prims = torch.ops.prims
FULL = (6, 5, 33)


def compiled(target, *arguments):
    """A graph of one operator; the arguments named "seed" and "start" are its inputs."""
    trace, graph = Tracing(), Graph()
    names = [a for a in arguments if a in ("start", "seed")] if arguments else []
    holders = {name: graph.placeholder(name) for name in names}
    for holder in holders.values():
        holder.meta["val"] = trace.empty((), (), torch.int64, torch.device("cpu"))
    given = [holders.get(a, a) if isinstance(a, str) else a for a in arguments]
    graph.output((graph.call_function(target, tuple(given)),))
    run = compile_graph(GraphModule(torch.nn.Module(), graph), [h.meta["val"] for h in holders.values()], trace, {})
    return lambda *values: run(list(values))[0]


def draw(mode):
    """(whole, slice): Inductor's own draw of FULL, and ours of a slice."""
    if mode == "randint":
        whole = compiled(prims.inductor_randint.default, 3, 1000, list(FULL), "seed")
        return whole, lambda size, dim: compiled(draws.randint_slice, 3, 1000, size, list(FULL), dim, "start", "seed")
    whole = compiled(prims.inductor_random.default, list(FULL), "seed", mode)
    return whole, lambda size, dim: compiled(draws.random_slice, size, list(FULL), dim, "start", "seed", mode)


@pytest.mark.inductor
@pytest.mark.parametrize("mode", ["rand", "randn", "randint"])
def test_slices_are_bit_equal_to_inductors_own_draw(mode):
    seed = torch.randint(2**63 - 1, [])
    whole, part = draw(mode)
    expected = whole(seed)
    for dim, rows in ((0, 2), (1, 5), (2, 11)):
        size = [rows if d == dim else n for d, n in enumerate(FULL)]
        run = part(size, dim)
        pieces = [run(torch.tensor(start), seed) for start in range(0, FULL[dim], rows)]
        assert torch.equal(torch.cat(pieces, dim), expected)
    op, bounds, how = (draws.randint_slice, (3, 1000), ()) if mode == "randint" else (draws.random_slice, (), (mode,))
    plain = op(*bounds, FULL, FULL, 0, torch.tensor(0), seed, *how)
    # A logarithm and a cosine of another library may round otherwise.
    torch.testing.assert_close(
        plain, expected, rtol=1e-6 if mode == "randn" else 0, atol=1e-6 if mode == "randn" else 0
    )


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_without_a_compiler_slices_are_parts_of_one_draw(dim):
    seed = torch.tensor(7)
    size = [1 if d == dim else n for d, n in enumerate(FULL)]
    pieces = [draws.random_slice(size, FULL, dim, torch.tensor(i), seed, "randn") for i in range(FULL[dim])]
    whole = draws.random_slice(FULL, FULL, 0, torch.tensor(0), seed, "randn")
    assert torch.equal(torch.cat(pieces, dim), whole)


def test_the_operators_name_holds_a_hash_of_the_lowerings():
    assert draws._lowering_hash() in str(draws.random_slice)
    assert draws._lowering_hash() in str(draws.randint_slice)


def test_whole_draws_can_be_made_draws_by_index():
    graph = Graph()
    seed = graph.placeholder("seed")
    graph.output((graph.call_function(prims.inductor_random.default, ([2, 3], seed, "rand")),))
    random_draws.draw_by_index(graph)
    gm = GraphModule(torch.nn.Module(), graph)
    assert [n.target for n in graph.nodes if n.target is draws.random_slice]
    assert gm(torch.tensor(3))[0].shape == (2, 3)


@pytest.mark.inductor
def test_a_step_that_draws_is_the_same_for_any_number_of_micro_batches():
    """Batch in the middle, folded with another dim, and alone; seeds, and a draw from the generator
    itself."""

    def step(w, x):
        kept = x * w * (torch.rand_like(x) > 0.3)
        noisy = kept.reshape(-1, 6) * torch.randn(x.shape[0] * x.shape[1], 6)
        choice = torch.randint(0, 6, (x.shape[1],))
        chosen = kept.sum(0).gather(1, choice[:, None]).squeeze(1) * torch.bernoulli(torch.full((x.shape[1],), 0.5))
        loss = (noisy**2).sum() + chosen.sum()
        loss.backward()
        return loss.detach(), choice

    x, w = torch.randn(4, 12, 6), torch.randn(6, requires_grad=True)
    decorated = accumulate(steps=1, batch_dims={"x": 1, "w": None})(step)
    results = []
    for steps in (1, 3, 5):
        decorated.steps, w.grad = steps, None
        torch.manual_seed(5)
        results.append((*decorated(w, x), w.grad, torch.rand(1)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b)
