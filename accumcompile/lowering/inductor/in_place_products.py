"""An in-place product in Inductor's code: ``extern_kernels.addmm(acc, a, b, out=acc)``.

Inductor turns ``acc + a @ b`` into an ``addmm`` into new memory and a copy back; it has no lowering for
``aten.addmm_``, and its fallback calls it through the Python dispatcher. CPU time of a whole MLP body, one
thread, in microseconds:

    25 layers of 64, 8 rows      added 288    aten.addmm_ 312    here 277
    10 layers of 256, 16 rows    added 996    aten.addmm_ 881    here 874
    5 layers of 1024, 16 rows    added 10324  aten.addmm_ 7496   here 7092

The class follows torch._inductor.ir.InplaceBernoulliFallback; checked on 2.13.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule

from ...passes.rewriting import copied

aten = torch.ops.aten


@torch.library.custom_op("accumcompile::addmm_", mutates_args=("acc",))
def addmm_(acc: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """acc += a @ b."""
    acc.addmm_(a, b)


@addmm_.register_fake
def _(acc: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    return None


def in_place_products(gm: GraphModule, context: object) -> GraphModule:
    """A copy of ``gm`` with ``aten.addmm_`` replaced by our operator; ``gm`` itself if that has no lowering."""
    from torch._inductor import config

    if config.cpp_wrapper or not _register():
        return gm
    gm = copied(gm)
    for node in gm.graph.find_nodes(op="call_function", target=aten.addmm_.default):
        node.target = torch.ops.accumcompile.addmm_.default
    gm.recompile()
    return gm


def _register() -> bool:
    """Register the lowering once; False if this torch does not allow it."""
    from torch._inductor import ir
    from torch._inductor.lowering import lowerings, register_lowering

    op = torch.ops.accumcompile.addmm_.default
    if op in lowerings:
        return True
    if not hasattr(ir, "InplaceBernoulliFallback"):  # pragma: no cover
        return False

    class InPlaceProduct(ir.ExternKernel):
        def codegen(self, wrapper: Any) -> None:
            operands: Any = self.inputs
            acc, a, b = (t.codegen_reference() for t in operands)
            wrapper.writeline(f"extern_kernels.addmm({acc}, {a}, {b}, out={acc})")

        def should_allocate(self) -> bool:
            return False

        def get_mutation_names(self) -> list[str]:
            return [self.input_name(0)]

        def get_unbacked_symbol_defs(self) -> Any:
            return ir.OrderedSet()

        def __init__(self, *operands: Any):
            layout = ir.NoneLayout(device=operands[0].get_device())
            super().__init__(None, layout, self.unwrap_storage(operands), op_overload=op)
            ir.V.graph.mark_buffer_mutated(operands[0].get_name())
            self.name = ir.V.graph.register_buffer(self)
            ir.V.graph.register_operation(self)

    @register_lowering(op, type_promotion_kind=None)
    def lower(acc: Any, a: Any, b: Any) -> None:
        acc.realize()
        InPlaceProduct(acc, *(ir.ExternKernel.realize_input(x) for x in (a, b)))

    return True
