"""From a program that runs as it stands to one that runs fast.

``lower`` replaces the bodies of a program's loops: by checked ones (``eager``), or by compiled ones
(``inductor``).
"""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule

from ..loop import accumulate_loop


def lower(program: GraphModule, session: Any) -> GraphModule:
    """The program that does what ``program`` does, as ``session.options.lowering`` says."""
    granule = int(program.meta.get("granule", 1))
    if session.options.lowering == "eager":
        from .eager import CheckedBody

        return replace_bodies(program, lambda name, body: CheckedBody(body, granule))
    from .inductor import lower_with_inductor

    return lower_with_inductor(program, session, granule)


def replace_bodies(program: GraphModule, replacement: Any) -> GraphModule:
    """Put ``replacement(name, body)`` in the place of each loop's body."""
    for call in program.graph.find_nodes(op="call_function", target=accumulate_loop):
        name = call.args[0].target
        body = program.get_submodule(name)
        if isinstance(body, GraphModule):
            program.set_submodule(name, replacement(name, body))
    return program
