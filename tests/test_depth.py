"""A step may be as long as one likes: nothing in the compiler recurses over the depth of a graph."""

import operator

import pytest
import torch
from loops import Capture, session
from torch.fx import Graph, GraphModule

from accumcompile.ir.names import Names
from accumcompile.step.compiler import Compiler
from accumcompile.step.no_harm import Pieces

aten, prims = torch.ops.aten, torch.ops.prims
DEPTH = 3000
COLUMNS = 4


class Chain:
    """A graph of the batch ``x: [s, 4]``, made node by node."""

    def __init__(self):
        self.capture, self.graph = Capture(s=12), Graph()
        self.x = self.graph.placeholder("x")
        self.x.meta["val"] = self.capture.tensor("s", COLUMNS, dtype=torch.float64)

    def add(self, target, *args, like=None, **kwargs):
        """A node, with the value of ``like`` where that is as good."""
        node = self.graph.call_function(target, args, kwargs)
        if like is None:
            given, named = torch.fx.map_arg((args, kwargs), lambda n: n.meta["val"])
            with self.capture.trace.mode:
                like = target(*given, **named)
        node.meta["val"] = like
        return node

    def run(self, result, x):
        """What the compiled graph gives for ``x``, in micro-batches."""
        self.graph.output((result,))
        symbols = [self.capture.symbols["s"]]
        names = Names({}, {}, [])
        gm = GraphModule(torch.nn.Module(), self.graph)
        return Compiler(session(lowering="eager"), symbols, Pieces()).compile(gm, "inference", names)([x])[0]


def layers(chain, value):
    for _ in range(DEPTH):
        value = chain.add(aten.neg.default, value, like=value.meta["val"])
    return value


def split(chain):
    return layers(chain, chain.x)


def whole(chain):
    """Every operator runs on the whole batch."""
    ordered = chain.add(aten.sort.default, chain.x, 0)
    return layers(chain, chain.add(operator.getitem, ordered, 0))


def views(chain):
    value, rows = chain.x, chain.add(aten.sym_size.int, chain.x, 0)
    parts = chain.add(aten.view.default, value, [rows, 2, 2]).meta["val"]
    for _ in range(DEPTH // 2):
        value = chain.add(aten.view.default, value, [rows, 2, 2], like=parts)
        value = chain.add(aten.view.default, value, [rows, COLUMNS], like=chain.x.meta["val"])
    return value


def numbers(chain, number):
    more = chain.add(operator.add, number, 1).meta["val"]
    for _ in range(DEPTH // 2):
        other = chain.add(operator.add, number, 1, like=more)
        number = chain.add(operator.sub, other, 1, like=number.meta["val"])
    return number


def sizes(chain):
    rows = numbers(chain, chain.add(aten.sym_size.int, chain.x, 0))
    return chain.add(aten.mul.Tensor, chain.x, rows)


def sizes_of_data(chain):
    count = chain.add(aten.sum.default, chain.add(aten.gt.Scalar, chain.x, 0))
    return chain.add(aten.mul.Tensor, chain.x, numbers(chain, chain.add(aten._local_scalar_dense.default, count)))


def counted_rows(chain):
    rows = chain.add(aten.sym_size.int, chain.x, 0)
    like = {"dtype": torch.int64, "device": torch.device("cpu"), "requires_grad": False}
    index = chain.add(prims.iota.default, rows, start=0, step=1, **like)
    for _ in range(DEPTH):
        index = chain.add(aten.view.default, index, [rows], like=index.meta["val"])
    column = chain.add(aten.argmax.default, chain.x, 1)
    return chain.add(aten.index.Tensor, chain.x, [index, column])


EXPECTED = {
    split: lambda x: x,
    whole: lambda x: x.sort(0).values,
    views: lambda x: x,
    sizes: lambda x: x * len(x),
    sizes_of_data: lambda x: x * (x > 0).sum(),
    counted_rows: lambda x: x.amax(1),
}


@pytest.mark.parametrize("build", EXPECTED, ids=lambda build: build.__name__)
def test_thousands_of_nodes_in_a_row(build):
    x = torch.randn(13, COLUMNS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    chain = Chain()
    torch.testing.assert_close(chain.run(build(chain), x), EXPECTED[build](x))


def test_sizes_that_data_decides_behind_each_other():
    """Each lookup needs the size that the one before it found."""
    chain = Chain()
    x, value = torch.randn(13, COLUMNS, dtype=torch.float64), chain.x
    for _ in range(DEPTH // 40):
        where = chain.add(aten.nonzero.default, chain.add(aten.sum.dim_IntList, value, [1]))
        rows = chain.add(aten.select.int, where, 1, 0)
        value = chain.add(aten.index.Tensor, value, [rows])
    torch.testing.assert_close(chain.run(value, x), x)
