"""Leaves out outputs that are views of other outputs: the program's runner makes them.

Before::

    h = aten.mm.default(x, w); part = aten.slice.Tensor(h, 1, 2, 4)
    return (h, part)

After::

    h = aten.mm.default(x, w)
    return (h, None)
"""

from __future__ import annotations

from torch.fx import GraphModule

from accumcompile.program.output_views import output_views

from .manager import Context
from .rewriting import copied, must_stay


def assembled_outputs(gm: GraphModule, context: Context) -> GraphModule:
    """A copy of ``gm`` with None for outputs that are views of others. The context is not used."""
    left_out = {view.position for view in output_views(gm)}
    gm = copied(gm)
    output = gm.graph.output_node()
    results = [None if i in left_out else result for i, result in enumerate(output.args[0])]
    output.args = (type(output.args[0])(results),)
    gm.graph.eliminate_dead_code(is_impure_node=must_stay)
    return gm
