"""Every pass, before and after. ``EXPECTTEST_ACCEPT=1 pytest tests/test_passes.py`` writes what it finds."""

from __future__ import annotations

import re

import torch
from expecttest import assert_expected_inline
from loops import body_of
from torch._functorch._aot_autograd.descriptors import PlainAOTInput, PlainAOTOutput
from torch.fx.experimental.proxy_tensor import make_fx

from accumcompile.capture.aot.joint_passes import Normalising, improve
from accumcompile.ir.names import Names
from accumcompile.lowering.inductor.in_place_products import in_place_products
from accumcompile.lowering.specialise import specialise
from accumcompile.lowering.specs import Array, Literal
from accumcompile.oracle.capture import capture
from accumcompile.passes.arange_lookups import arange_lookups
from accumcompile.passes.arange_slices import arange_slices
from accumcompile.passes.assembled_outputs import assembled_outputs
from accumcompile.passes.batch_lookups import batch_lookups
from accumcompile.passes.batch_statistics import batch_statistics
from accumcompile.passes.canonical import canonical
from accumcompile.passes.deduplicate import deduplicate
from accumcompile.passes.form_loops import form_loops
from accumcompile.passes.fuse_accumulation import Accumulation, fuse_accumulation
from accumcompile.passes.manager import Context, Planned, run
from accumcompile.passes.sizes_in_half import sizes_in_half
from accumcompile.passes.store_compared import store_compared
from accumcompile.passes.users_names import users_names
from accumcompile.planning.decisions import schedule
from accumcompile.propagation.propagate import propagate

aten = torch.ops.aten


def code(gm):
    """A graph as Python, without what frees values and says where they live."""
    lines = [re.sub(r"; .* = None$|;  .*= None", "", line) for line in gm.graph.python_code("self").src.splitlines()]
    lines = [re.sub(r"torch\.ops\.|accumcompile_ir_loop_", "", line) for line in lines]
    lines = [
        re.sub(r", (layout|pin_memory|requires_grad) = [\w.]+|, device = device\(.*?\)", "", line) for line in lines
    ]
    lines = [re.sub(r" (LoopSpec\(|carry=|granule=)", r"\n        \1", line) for line in lines]
    return "\n".join(line.rstrip() for line in lines if line.strip()).strip()


def around(rewrite, fn, *tensors, context=None, before=()):
    """The code of ``fn``, whose tensors have the batch first, and what a pass makes of it."""
    captured = capture(fn, tensors, (0,) * len(tensors))
    context = context or Context(captured.batch)
    gm = run(before, captured.gm, context)
    return f"{code(gm)}\n---\n{code(rewrite(gm, context))}"


def test_improve():
    assert_expected_inline(
        around(improve, lambda x: x.exp(), torch.randn(6, 4), context=Normalising()),
        """\
def forward(self, arg0_1):
    exp = aten.exp.default(arg0_1)
    clone = aten.clone.default(exp)
    return [clone]
---
def forward(self, arg0_1):
    exp = aten.exp.default(arg0_1)
    return [exp]""",
    )


def test_canonical():
    assert_expected_inline(
        around(canonical, lambda x: x.split(2, 1)[0].unsqueeze(0), torch.randn(6, 4)),
        """\
def forward(self, arg0_1):
    split = aten.split.Tensor(arg0_1, 2, 1)
    getitem = split[0]
    unsqueeze = aten.unsqueeze.default(getitem, 0)
    clone = aten.clone.default(unsqueeze)
    return [clone]
---
def forward(self, arg0_1):
    slice_tensor = aten.slice.Tensor(arg0_1, 1, 0, 2)
    sym_size_int = aten.sym_size.int(slice_tensor, 0)
    view_default = aten.view.default(slice_tensor, [1, sym_size_int, 2])
    clone = aten.clone.default(view_default)
    return [clone]""",
    )


def test_canonical_writes_one_value_by_a_mask():
    def put(x, mask):
        return aten.index_put.default(x, [mask], aten.full.default([], 0.0))

    assert_expected_inline(
        around(canonical, put, torch.randn(6, 4), torch.randn(6) > 0),
        """\
def forward(self, arg0_1, arg1_1):
    full = aten.full.default([], 0.0, dtype = torch.float32)
    index_put = aten.index_put.default(arg0_1, [arg1_1], full)
    clone = aten.clone.default(index_put)
    return [clone]
---
def forward(self, arg0_1, arg1_1):
    full = aten.full.default([], 0.0, dtype = torch.float32)
    sym_size_int = aten.sym_size.int(arg1_1, 0)
    view_default = aten.view.default(arg1_1, [sym_size_int, 1])
    where_self = aten.where.self(view_default, full, arg0_1)
    clone = aten.clone.default(where_self)
    return [clone]""",
    )


def test_deduplicate():
    assert_expected_inline(
        around(deduplicate, lambda x: x.sum(0) * x.sum(0), torch.randn(6, 4)),
        """\
def forward(self, arg0_1):
    sum_1 = aten.sum.dim_IntList(arg0_1, [0])
    sum_2 = aten.sum.dim_IntList(arg0_1, [0])
    mul = aten.mul.Tensor(sum_1, sum_2)
    clone = aten.clone.default(mul)
    return [clone]
---
def forward(self, arg0_1):
    sum_1 = aten.sum.dim_IntList(arg0_1, [0])
    mul = aten.mul.Tensor(sum_1, sum_1)
    clone = aten.clone.default(mul)
    return [clone]""",
    )


def test_users_names():
    def step(x):
        return x.exp().sum(0)

    captured = capture(step, (torch.randn(6, 4),), (0,))
    (given,), output = captured.gm.graph.find_nodes(op="placeholder"), captured.gm.graph.output_node()
    given.meta["desc"], output.meta["desc"] = PlainAOTInput(idx=0), [PlainAOTOutput(idx=0)]
    context = Context(captured.batch, Names(["batch['inputs']"], ["1st result"]))
    assert_expected_inline(
        code(users_names(captured.gm, context)),
        """\
def forward(self, batch_inputs):
    exp = aten.exp.default(batch_inputs)
    sum_1 = aten.sum.dim_IntList(exp, [0])
    _1st_result = aten.clone.default(sum_1)
    return [_1st_result]""",
    )


def test_sizes_in_half():
    half = torch.randn(6, 4, dtype=torch.float16)
    assert_expected_inline(
        around(sizes_in_half, lambda x: x / x.shape[0], half),
        """\
def forward(self, arg0_1):
    sym_size_int = aten.sym_size.int(arg0_1, 0)
    div = aten.div.Tensor(arg0_1, sym_size_int)
    clone = aten.clone.default(div)
    return [clone]
---
def forward(self, arg0_1):
    sym_size_int = aten.sym_size.int(arg0_1, 0)
    convert_element_type_default = prims.convert_element_type.default(arg0_1, torch.float32)
    div_tensor = aten.div.Tensor(convert_element_type_default, sym_size_int)
    convert_element_type_default_1 = prims.convert_element_type.default(div_tensor, torch.float16)
    clone = aten.clone.default(convert_element_type_default_1)
    return [clone]""",
    )


def test_arange_slices():
    def pick(x, y):
        both = aten.cat.default([x, x])
        second = torch.arange(x.shape[0]) + x.shape[0]
        return aten.index.Tensor(both, [second, y]), aten.index.Tensor(both, [second])

    assert_expected_inline(
        around(arange_slices, pick, torch.randn(6, 4), torch.randint(0, 4, (6,))),
        """\
def forward(self, arg0_1, arg1_1):
    unsqueeze = aten.unsqueeze.default(arg0_1, 0)
    sym_size_int = aten.sym_size.int(arg0_1, 0)
    expand = aten.expand.default(unsqueeze, [2, sym_size_int, 4])
    clone = aten.clone.default(expand, memory_format = torch.contiguous_format)
    mul = 2 * sym_size_int
    view = aten.view.default(clone, [mul, 4])
    clone_1 = aten.clone.default(view)
    sub = sym_size_int - 0
    add = sub + 1
    sub_1 = add - 1
    floordiv = sub_1 // 1
    iota = prims.iota.default(floordiv, start = 0, step = 1, dtype = torch.int64)
    add_1 = aten.add.Tensor(iota, sym_size_int)
    index = aten.index.Tensor(clone_1, [add_1, arg1_1])
    index_1 = aten.index.Tensor(clone_1, [add_1])
    clone_2 = aten.clone.default(index)
    clone_3 = aten.clone.default(index_1)
    return [clone_2, clone_3]
---
def forward(self, arg0_1, arg1_1):
    unsqueeze = aten.unsqueeze.default(arg0_1, 0)
    sym_size_int = aten.sym_size.int(arg0_1, 0)
    expand = aten.expand.default(unsqueeze, [2, sym_size_int, 4])
    clone = aten.clone.default(expand, memory_format = torch.contiguous_format)
    mul = 2 * sym_size_int
    view = aten.view.default(clone, [mul, 4])
    clone_1 = aten.clone.default(view)
    sub = sym_size_int - 0
    add = sub + 1
    sub_1 = add - 1
    floordiv = sub_1 // 1
    add_2 = 0 + sym_size_int
    iota_default = prims.iota.default(floordiv, start = 0, step = 1, dtype = torch.int64)
    sub_2 = floordiv - 1
    mul_1 = sub_2 * 1
    add_3 = add_2 + mul_1
    add_4 = add_3 + 1
    slice_tensor = aten.slice.Tensor(clone_1, 0, add_2, add_4, 1)
    index_tensor = aten.index.Tensor(slice_tensor, [iota_default, arg1_1])
    add_5 = 0 + sym_size_int
    sub_3 = floordiv - 1
    mul_2 = sub_3 * 1
    add_6 = add_5 + mul_2
    add_7 = add_6 + 1
    slice_tensor_1 = aten.slice.Tensor(clone_1, 0, add_5, add_7, 1)
    clone_2 = aten.clone.default(index_tensor)
    clone_3 = aten.clone.default(slice_tensor_1)
    return [clone_2, clone_3]""",
    )


def test_arange_slices_of_what_is_put():
    def put(x, y):
        return aten.index_put.default(aten.cat.default([x, x]), [torch.arange(x.shape[0]) * 2 + 1], y, True)

    assert_expected_inline(
        around(arange_slices, put, torch.randn(6, 4), torch.randn(6, 4)),
        """\
def forward(self, arg0_1, arg1_1):
    unsqueeze = aten.unsqueeze.default(arg0_1, 0)
    sym_size_int = aten.sym_size.int(arg0_1, 0)
    expand = aten.expand.default(unsqueeze, [2, sym_size_int, 4])
    clone = aten.clone.default(expand, memory_format = torch.contiguous_format)
    mul = 2 * sym_size_int
    view = aten.view.default(clone, [mul, 4])
    clone_1 = aten.clone.default(view)
    sub = sym_size_int - 0
    add = sub + 1
    sub_1 = add - 1
    floordiv = sub_1 // 1
    iota = prims.iota.default(floordiv, start = 0, step = 1, dtype = torch.int64)
    mul_1 = aten.mul.Tensor(iota, 2)
    add_1 = aten.add.Tensor(mul_1, 1)
    index_put = aten.index_put.default(clone_1, [add_1], arg1_1, True)
    clone_2 = aten.clone.default(index_put)
    return [clone_2]
---
def forward(self, arg0_1, arg1_1):
    unsqueeze = aten.unsqueeze.default(arg0_1, 0)
    sym_size_int = aten.sym_size.int(arg0_1, 0)
    expand = aten.expand.default(unsqueeze, [2, sym_size_int, 4])
    clone = aten.clone.default(expand, memory_format = torch.contiguous_format)
    mul = 2 * sym_size_int
    view = aten.view.default(clone, [mul, 4])
    clone_1 = aten.clone.default(view)
    sub = sym_size_int - 0
    add = sub + 1
    sub_1 = add - 1
    floordiv = sub_1 // 1
    sub_2 = floordiv - 1
    mul_2 = sub_2 * 2
    add_2 = 1 + mul_2
    add_3 = add_2 + 1
    slice_tensor = aten.slice.Tensor(clone_1, 0, 1, add_3, 2)
    sym_size_int_1 = aten.sym_size.int(slice_tensor, 0)
    expand_default = aten.expand.default(arg1_1, [sym_size_int_1, 4])
    add_tensor = aten.add.Tensor(slice_tensor, expand_default)
    sub_3 = floordiv - 1
    mul_3 = sub_3 * 2
    add_4 = 1 + mul_3
    add_5 = add_4 + 1
    slice_scatter_default = aten.slice_scatter.default(clone_1, add_tensor, 0, 1, add_5, 2)
    clone_2 = aten.clone.default(slice_scatter_default)
    return [clone_2]""",
    )


def test_arange_lookups():
    def pick(x, i):
        return x[torch.arange(x.shape[0]), i]

    index = torch.randint(4, (6,))
    assert_expected_inline(
        around(arange_lookups, pick, torch.randn(6, 4), index, before=[canonical]),
        """\
def forward(self, arg0_1, arg1_1):
    sym_size_int = aten.sym_size.int(arg0_1, 0)
    sub = sym_size_int - 0
    add = sub + 1
    sub_1 = add - 1
    floordiv = sub_1 // 1
    iota = prims.iota.default(floordiv, start = 0, step = 1, dtype = torch.int64)
    index = aten.index.Tensor(arg0_1, [iota, arg1_1])
    clone = aten.clone.default(index)
    return [clone]
---
def forward(self, arg0_1, arg1_1):
    sym_size_int_1 = aten.sym_size.int(arg0_1, 0)
    permute_default = aten.permute.default(arg0_1, [0, 1])
    view_default = aten.view.default(permute_default, [sym_size_int_1, 4])
    convert_element_type_default = prims.convert_element_type.default(arg1_1, torch.int64)
    lt_scalar = aten.lt.Scalar(convert_element_type_default, 0)
    add_tensor = aten.add.Tensor(convert_element_type_default, 4)
    where_self = aten.where.self(lt_scalar, add_tensor, convert_element_type_default)
    sym_size_int_4 = aten.sym_size.int(arg1_1, 0)
    expand_default = aten.expand.default(where_self, [sym_size_int_4])
    sym_size_int_5 = aten.sym_size.int(expand_default, 0)
    permute_default_1 = aten.permute.default(expand_default, [0])
    view_default_1 = aten.view.default(permute_default_1, [sym_size_int_5, 1])
    gather_default = aten.gather.default(view_default, 1, view_default_1)
    sym_size_int_8 = aten.sym_size.int(arg1_1, 0)
    view_default_2 = aten.view.default(gather_default, [sym_size_int_8])
    permute_default_2 = aten.permute.default(view_default_2, [0])
    clone = aten.clone.default(permute_default_2)
    return [clone]""",
    )


def test_batch_lookups():
    assert_expected_inline(
        around(batch_lookups, lambda x: x.exp()[0], torch.randn(6, 4), before=[canonical]),
        """\
def forward(self, arg0_1):
    exp = aten.exp.default(arg0_1)
    select = aten.select.int(exp, 0, 0)
    clone = aten.clone.default(select)
    return [clone]
---
def forward(self, arg0_1):
    exp = aten.exp.default(arg0_1)
    sym_size_int_1 = aten.sym_size.int(exp, 0)
    iota_default = prims.iota.default(sym_size_int_1, start = 0, step = 1, dtype = torch.int64)
    view_default = aten.view.default(iota_default, [sym_size_int_1, 1])
    eq_scalar = aten.eq.Scalar(view_default, 0)
    full_default = aten.full.default([], 0, dtype = torch.float32)
    where_self = aten.where.self(eq_scalar, exp, full_default)
    sum_dim_int_list = aten.sum.dim_IntList(where_self, [0], False, dtype = torch.float32)
    clone = aten.clone.default(sum_dim_int_list)
    return [clone]""",
    )


def test_batch_statistics():
    assert_expected_inline(
        around(batch_statistics, lambda x: x.mean(0), torch.randn(6, 4)),
        """\
def forward(self, arg0_1):
    mean = aten.mean.dim(arg0_1, [0])
    clone = aten.clone.default(mean)
    return [clone]
---
def forward(self, arg0_1):
    sum_dim_int_list = aten.sum.dim_IntList(arg0_1, [0], False)
    sym_size_int = aten.sym_size.int(arg0_1, 0)
    div_tensor = aten.div.Tensor(sum_dim_int_list, sym_size_int)
    clone = aten.clone.default(div_tensor)
    return [clone]""",
    )


def program_of(fn, *tensors):
    captured = capture(fn, tensors, (0,) + (None,) * (len(tensors) - 1))
    gm = run([canonical], captured.gm, Context(captured.batch))
    program = form_loops(gm, Planned(schedule(gm.graph, propagate(gm.graph, captured.batch))))
    bodies = [f"{name}:\n{code(body)}" for name, body in program.named_children()]
    return "\n---\n".join([code(gm), code(program), *bodies])


def test_form_loops():
    assert_expected_inline(
        program_of(lambda x, w: (x @ w).exp().sum(), torch.randn(6, 4), torch.randn(4, 3)),
        """\
def forward(self, arg0_1, arg1_1):
    mm = aten.mm.default(arg0_1, arg1_1)
    exp = aten.exp.default(mm)
    sum_1 = aten.sum.default(exp)
    clone = aten.clone.default(sum_1)
    return [clone]
---
def forward(self, split, arg0_1, arg1_1):
    loop_0 = self.loop_0
    accumulate_loop = accumulate_loop(loop_0, split, [arg1_1], [arg0_1],
        LoopSpec(consts=('arg1_1',), xs=(X(dim=0, source='arg0_1', placement='S(0)'),),
        carry=(Carry(op='sum', dtype=torch.float32, result=torch.float32, source='sum_1'),), ys=(),
        granule=1, varies=False))
    sum_1 = accumulate_loop[0]
    clone = aten.clone.default(sum_1)
    return [clone]
---
loop_0:
def forward(self, rows, start, arg1_1, arg0_1):
    mm = aten.mm.default(arg0_1, arg1_1)
    exp = aten.exp.default(mm)
    sum_1 = aten.sum.default(exp)
    return (sum_1,)""",
    )


def body(rows, start, x, y):
    return aten.mm.default(aten.permute.default(x, [1, 0]), y), aten.tanh.default(x)


def specialised():
    fake = Array((4, 4), (4, 1), torch.float32, torch.device("cpu"))
    start = Array((), (), torch.int64, torch.device("cpu"))
    gm = body_of(body, None, None)
    done = specialise(gm.graph, gm, [Literal(int, 4), start, fake, fake], {})
    values = [n.meta["val"] for n in done.gm.graph.output_node().args[0]]
    with done.trace.mode:
        return done.gm, Accumulation(["sum"], [torch.empty_like(values[0])], [torch.empty_like(values[1])])


def test_fuse_accumulation():
    gm, context = specialised()
    assert_expected_inline(
        f"{code(gm)}\n---\n{code(fuse_accumulation(gm, context))}",
        """\
def forward(self, x, y):
    permute_default = aten.permute.default(x, [1, 0])
    mm_default = aten.mm.default(permute_default, y)
    tanh_default = aten.tanh.default(x)
    return (mm_default, tanh_default)
---
def forward(self, acc0, out0, x, y):
    permute_default = aten.permute.default(x, [1, 0])
    addmm__default = aten.addmm_.default(acc0, permute_default, y)
    tanh_default = aten.tanh.default(x)
    copy__default = aten.copy_.default(out0, tanh_default)
    return ()""",
    )


def test_in_place_products():
    gm, context = specialised()
    gm = fuse_accumulation(gm, context)
    assert_expected_inline(
        code(in_place_products(gm, context)),
        """\
def forward(self, acc0, out0, x, y):
    permute_default = aten.permute.default(x, [1, 0])
    addmm__default = accumcompile.addmm_.default(acc0, permute_default, y)
    tanh_default = aten.tanh.default(x)
    copy__default = aten.copy_.default(out0, tanh_default)
    return ()""",
    )


def test_assembled_outputs():
    def fn(x, w):
        h = x @ w
        return [h, h[:, 1:], h.sin()[0]]

    gm = make_fx(fn, tracing_mode="fake")(torch.randn(6, 4), torch.randn(4, 3))
    assert_expected_inline(
        f"{code(gm)}\n---\n{code(assembled_outputs(gm, Context()))}",
        """\
def forward(self, x_1, w_1):
    mm = aten.mm.default(x_1, w_1)
    slice_1 = aten.slice.Tensor(mm, 1, 1, 9223372036854775807)
    sin = aten.sin.default(mm)
    select = aten.select.int(sin, 0, 0)
    return [mm, slice_1, select]
---
def forward(self, x_1, w_1):
    mm = aten.mm.default(x_1, w_1)
    sin = aten.sin.default(mm)
    select = aten.select.int(sin, 0, 0)
    return [mm, None, select]""",
    )


def test_store_compared():
    def fn(x):
        v = x.exp()
        return (v >= v.amax(1, keepdim=True)) * x.sin() + x.sin().amax()

    assert_expected_inline(
        around(store_compared, fn, torch.randn(6, 4)),
        """\
def forward(self, arg0_1):
    exp = aten.exp.default(arg0_1)
    amax = aten.amax.default(exp, [1], True)
    ge = aten.ge.Tensor(exp, amax)
    sin = aten.sin.default(arg0_1)
    mul = aten.mul.Tensor(ge, sin)
    sin_1 = aten.sin.default(arg0_1)
    amax_1 = aten.amax.default(sin_1)
    add = aten.add.Tensor(mul, amax_1)
    clone = aten.clone.default(add)
    return [clone]
---
def forward(self, arg0_1):
    exp = aten.exp.default(arg0_1)
    stored_1_default = accumcompile.stored_1.default(exp)
    amax = aten.amax.default(stored_1_default, [1], True)
    ge = aten.ge.Tensor(stored_1_default, amax)
    sin = aten.sin.default(arg0_1)
    mul = aten.mul.Tensor(ge, sin)
    sin_1 = aten.sin.default(arg0_1)
    amax_1 = aten.amax.default(sin_1)
    add = aten.add.Tensor(mul, amax_1)
    clone = aten.clone.default(add)
    return [clone]""",
    )


def test_store_compared_of_one_of_several_results():
    def fn(x):
        values, indices = x.exp().topk(3, 1)
        return values >= values.amax(1, keepdim=True), indices

    assert_expected_inline(
        around(store_compared, fn, torch.randn(6, 4)),
        """\
def forward(self, arg0_1):
    exp = aten.exp.default(arg0_1)
    topk = aten.topk.default(exp, 3, 1)
    getitem = topk[0]
    getitem_1 = topk[1]
    amax = aten.amax.default(getitem, [1], True)
    ge = aten.ge.Tensor(getitem, amax)
    clone = aten.clone.default(ge)
    clone_1 = aten.clone.default(getitem_1)
    return [clone, clone_1]
---
def forward(self, arg0_1):
    exp = aten.exp.default(arg0_1)
    topk = aten.topk.default(exp, 3, 1)
    getitem = topk[0]
    stored_1_default = accumcompile.stored_1.default(getitem)
    getitem_1 = topk[1]
    amax = aten.amax.default(stored_1_default, [1], True)
    ge = aten.ge.Tensor(stored_1_default, amax)
    clone = aten.clone.default(ge)
    clone_1 = aten.clone.default(getitem_1)
    return [clone, clone_1]""",
    )


def test_store_compared_of_what_is_returned():
    def fn(x):
        v = x.exp()
        return v.view(2, -1), v.topk(2, 1)[0].view(-1)

    assert_expected_inline(
        around(store_compared, fn, torch.randn(6, 4)),
        """\
def forward(self, arg0_1):
    exp = aten.exp.default(arg0_1)
    view = aten.view.default(exp, [2, -1])
    topk = aten.topk.default(exp, 2, 1)
    getitem = topk[0]
    view_1 = aten.view.default(getitem, [-1])
    clone = aten.clone.default(view)
    clone_1 = aten.clone.default(view_1)
    return [clone, clone_1]
---
def forward(self, arg0_1):
    exp = aten.exp.default(arg0_1)
    stored_1_default = accumcompile.stored_1.default(exp)
    view = aten.view.default(stored_1_default, [2, -1])
    topk = aten.topk.default(stored_1_default, 2, 1)
    getitem = topk[0]
    view_1 = aten.view.default(getitem, [-1])
    clone = aten.clone.default(view)
    clone_1 = aten.clone.default(view_1)
    return [clone, clone_1]""",
    )


def test_no_pass_changes_the_graph_that_it_is_given():
    captured = capture(lambda x: (x.squeeze() / x.shape[0]).mean(0)[0], (torch.randn(6, 4),), (0,))
    gm, context = captured.gm, Normalising(captured.batch)
    for rewrite in (improve, canonical, sizes_in_half, arange_lookups, batch_lookups, batch_statistics, deduplicate):
        before = code(gm)
        after = rewrite(gm, context)
        assert code(gm) == before and after is not gm
        gm = after
