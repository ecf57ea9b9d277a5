"""What the user calls the nodes of Dynamo's graph: an input by where it comes from, another by its variable."""

from __future__ import annotations

import re

from torch.fx import GraphModule

from ...diagnostics.where import user_frame
from ...ir.names import USERS_NAME, of_source
from ..dynamo import api as dynamo

_ASSIGNED = re.compile(r"(\w+)\s*(?::[^=]+)?=[^=]")  # a line that assigns one variable


def name_nodes(gm: GraphModule) -> None:
    """Write down what the user calls the nodes, while Dynamo still knows where the inputs come from."""
    for given in dynamo.inputs(gm):
        given.node.meta[USERS_NAME] = of_source(given.name)
    frames = {n: user_frame(n.meta.get("stack_trace")) for n in gm.graph.nodes if n.op != "placeholder"}
    last_of_line = {(f.file, f.line): (n, f) for n, f in frames.items() if f is not None and n.op != "output"}
    for node, frame in last_of_line.values():
        assigned = _ASSIGNED.match(frame.code)
        if assigned is not None:
            node.meta[USERS_NAME] = assigned[1]
