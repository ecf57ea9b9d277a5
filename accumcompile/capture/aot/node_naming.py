"""The user's names for the nodes of Dynamo's graph: inputs by their source, other nodes by their variable."""

from __future__ import annotations

import re

from torch.fx import GraphModule

from ...diagnostics.where import user_frame
from ...ir.names import USERS_NAME, of_source
from ..dynamo import api as dynamo

_ASSIGNED = re.compile(r"(\w+)\s*(?::[^=]+)?=[^=]")  # a line that assigns one variable


def name_nodes(gm: GraphModule) -> None:
    """Store the user's names in the nodes' meta, while Dynamo still knows the sources of the inputs."""
    for given in dynamo.inputs(gm):
        given.node.meta[USERS_NAME] = of_source(given.name)
    frames = {n: user_frame(n.meta.get("stack_trace")) for n in gm.graph.nodes if n.op != "placeholder"}
    last_of_line = {(f.file, f.line): (n, f) for n, f in frames.items() if f is not None and n.op != "output"}
    for node, frame in last_of_line.values():
        assigned = _ASSIGNED.match(frame.code)
        if assigned is not None:
            node.meta[USERS_NAME] = assigned[1]
