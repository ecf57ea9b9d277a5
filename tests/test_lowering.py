"""Both lowerings on programs made by hand: results, compiled bodies, in-place accumulation, atomicity."""

from __future__ import annotations

import copy

import pytest
import torch
from loops import Capture, aten, body_of, lower, prims, program_of, session

from accumcompile.diagnostics import errors
from accumcompile.ir.loop import Split
from accumcompile.ir.sizes import ROWS
from accumcompile.lowering.arguments import Cut
from accumcompile.lowering.specs import stride_pattern


def mean_step():
    """sum(tanh(x w)) / n, its product with x, a maximum, and two ys, one of them with the batch last."""

    def body(rows, start, w, n, x):
        h = aten.tanh.default(aten.mm.default(x, w))
        loss = aten.div.Tensor(aten.sum.default(h), n)
        grad = aten.mm.default(aten.permute.default(x, [1, 0]), h)
        return loss, grad, aten.amax.default(h, [0]), aten.mul.Tensor(h, 2.0), aten.permute.default(h, [1, 0])

    capture = Capture(s=12)
    body = body_of(body, capture.tensor(8, 16), capture.sizes["s"], capture.tensor("s", 8))
    return program_of(body, 2, [0], ["sum", "sum", "max"], [0, 1])


def both(program, **options):
    return lower(copy.deepcopy(program), session(lowering="eager")), lower(program, session(**options))


def check_equal(reference, compiled, *arguments, tolerance=1e-5):
    for a, b in zip(reference(*arguments), compiled(*arguments), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        torch.testing.assert_close(b, a, atol=tolerance, rtol=tolerance)


@pytest.mark.inductor
def test_forms_are_shared_between_batches():
    eager, compiled = both(mean_step())
    w = torch.randn(8, 16)
    counts = []
    for batch, rows in [(12, 4), (16, 4), (13, 4), (17, 4), (14, 4), (15, 4), (12, 4)]:
        check_equal(eager, compiled, Split(batch, rows), w, batch, torch.randn(batch, 8))
        counts.append(compiled.loop_0.compiled)
    # first and later; the tail of 1; from the second distinct tail on, one with symbolic rows
    assert counts == [2, 2, 3, 3, 4, 4, 4]


@pytest.mark.inductor
def test_number_of_forms_does_not_depend_on_the_number_of_steps():
    _, compiled = both(mean_step())
    w = torch.randn(8, 16)
    compiled(Split(128, 64), w, 128, torch.randn(128, 8))
    assert compiled.loop_0.compiled == 2
    compiled(Split(128, 2), w, 128, torch.randn(128, 8))
    assert compiled.loop_0.compiled == 4


@pytest.mark.inductor
def test_many_micro_batch_sizes_share_a_form(monkeypatch):
    monkeypatch.setattr("accumcompile.lowering.inductor.body.STATIC_ROWS", 1)
    eager, compiled = both(mean_step())
    w = torch.randn(8, 16)
    for rows in (2, 3, 4, 6):
        check_equal(eager, compiled, Split(12, rows), w, 12, torch.randn(12, 8))
    assert compiled.loop_0.compiled == 4


@pytest.mark.inductor
def test_other_dynamic_sizes_stay_symbolic_and_guards_are_checked():
    def body(rows, start, c, x):
        pairs = aten.add.Tensor(x, c)  # c has as many columns as x: two equal symbols
        return (aten.sum.dim_IntList(aten.mul.Tensor(pairs, x), [0]),)

    capture = Capture(s=12, t=5)
    body = body_of(body, capture.tensor("t"), capture.tensor("s", "t"))
    eager, compiled = both(program_of(body, 1, [0], ["sum"]))
    for t in (5, 6, 7):
        check_equal(eager, compiled, Split(12, 4), torch.randn(t), torch.randn(12, t))
    assert compiled.loop_0.compiled == 2
    check_equal(eager, compiled, Split(12, 4), torch.randn(1), torch.randn(12, 1))
    assert compiled.loop_0.compiled == 4


@pytest.mark.inductor
def test_a_guard_that_fails_compiles_again():
    def body(rows, start, x):
        return (aten.sum.dim_IntList(aten.slice.Tensor(x, 1, 0, 6), [0]),)

    eager, compiled = both(program_of(body_of(body, Capture(s=12, t=5).tensor("s", "t")), 0, [0], ["sum"]))
    for t, forms in ((5, 2), (4, 2), (8, 4), (9, 4), (5, 4)):
        check_equal(eager, compiled, Split(12, 4), torch.randn(12, t))
        assert compiled.loop_0.compiled == forms


@pytest.mark.inductor
def test_a_size_that_must_be_one_number_compiles_for_each():
    def body(rows, start, x, y):
        return (aten.sum.default(aten.mul.Tensor(x, y)),)

    capture = Capture(s=12, t=5, u=5)  # broadcasting: t == u, or one of them is 1
    body = body_of(body, capture.tensor("s", "t"), capture.tensor("s", "u"))
    eager, compiled = both(program_of(body, 0, [0, 0], ["sum"]))
    for t, u in ((5, 5), (7, 7), (7, 1), (1, 6)):
        check_equal(eager, compiled, Split(12, 4), torch.randn(12, t), torch.randn(12, u))
    assert compiled.loop_0.compiled == 6


@pytest.mark.inductor
def test_batch_sized_consts_and_other_strides():
    def body(rows, start, z, x):
        return aten.sum.default(aten.mm.default(x, aten.permute.default(z, [1, 0]))), aten.mm.default(
            aten.permute.default(aten.mm.default(x, aten.permute.default(z, [1, 0])), [1, 0]), x
        )

    capture = Capture(s=12)
    body = body_of(body, capture.tensor("s", 8), capture.tensor("s", 8))
    eager, compiled = both(program_of(body, 1, [0], ["sum", "sum"]))
    for batch in (12, 16, 20):
        check_equal(eager, compiled, Split(batch, 4), torch.randn(batch, 8), torch.randn(batch, 8), tolerance=1e-4)
    assert compiled.loop_0.compiled == 2
    strided = torch.randn(8, 12).t()
    check_equal(eager, compiled, Split(12, 4), strided, strided.clone(), tolerance=1e-4)


@pytest.mark.inductor
def test_a_batch_dim_that_is_not_the_first():
    def body(rows, start, w, x):
        h = aten.mul.Tensor(x, w)
        return aten.sum.default(h), h

    capture = Capture(s=12)
    body = body_of(body, capture.tensor(8), capture.tensor(3, "s", 8))
    eager, compiled = both(program_of(body, 1, [1], ["sum"], [1]))
    for batch in (12, 16, 13):
        check_equal(eager, compiled, Split(batch, 4), torch.randn(8), torch.randn(3, batch, 8))
    assert compiled.loop_0.compiled == 3


@pytest.mark.parametrize("lowering", ["eager", pytest.param("inductor", marks=pytest.mark.inductor)])
def test_half_precision_sums_are_kept_in_float32(lowering):
    def body(rows, start, x):
        return aten.sum.dim_IntList(x, [0]), aten.amax.default(x, [0])

    capture = Capture(s=12)
    body = body_of(body, capture.tensor("s", 4, dtype=torch.bfloat16))
    program = program_of(body, 0, [0], ["sum", "max"], dtype=torch.bfloat16)
    x = torch.full((4096, 4), 1.0, dtype=torch.bfloat16)
    total, most = lower(program, session(lowering=lowering))(Split(4096, 1), x)
    assert total.dtype == most.dtype == torch.bfloat16
    assert total.tolist() == [4096.0] * 4  # one by one in bfloat16, the sum stops at 256


@pytest.mark.inductor
def test_contributions_that_share_memory():
    def body(rows, start, c, x):
        total = aten.sum.default(x)
        return c, aten.expand.default(total, [3]), total, total

    capture = Capture(s=12)
    program = program_of(body_of(body, capture.tensor(4), capture.tensor("s", 2)), 1, [0], ["sum"] * 4)
    eager, compiled = both(program)
    c, x = torch.randn(4), torch.randn(12, 2)
    before = c.clone()
    check_equal(eager, compiled, Split(12, 4), c, x)
    assert torch.equal(c, before)


@pytest.mark.inductor
def test_moments_and_minimum():
    def body(rows, start, x):
        count = aten.full.default([3], 4.0, dtype=torch.float64, device=torch.device("cpu"))
        mean = aten.mean.dim(x, [0])
        m2 = aten.sum.dim_IntList(aten.pow.Tensor_Scalar(aten.sub.Tensor(x, mean), 2), [0])
        count = aten.mul.Tensor(aten.add.Tensor(aten.mul.Tensor(m2, 0.0), 1.0), rows)
        return aten.reshape.default(aten.cat.default([count, mean, m2]), [3, 3]), aten.amin.default(x, [0])

    capture = Capture(s=12)
    body = body_of(body, capture.tensor("s", 3, dtype=torch.float64))
    program = program_of(body, 0, [0], ["moments", "min"], dtype=torch.float64)
    x = torch.randn(13, 3, dtype=torch.float64)
    (count, mean, m2), least = lower(program, session())(Split(13, 4), x)
    assert count.tolist() == [13.0] * 3
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(m2 / count, x.var(0, correction=0))
    assert torch.equal(least, x.amin(0))


@pytest.mark.inductor
def test_a_python_float_stays_an_argument():
    def body(rows, start, f, x):
        return (aten.mul.Tensor(aten.sum.dim_IntList(x, [0]), f),)

    capture = Capture(s=12)
    eager, compiled = both(program_of(body_of(body, None, capture.tensor("s", 4)), 1, [0], ["sum"]))
    for f in (1.5, 2.5, 0.1):
        check_equal(eager, compiled, Split(12, 4), f, torch.randn(12, 4))
    assert compiled.loop_0.compiled == 2


@pytest.mark.inductor
def test_an_interrupt_between_two_bodies_changes_nothing():
    _, compiled = both(mean_step())
    w, x = torch.randn(8, 16), torch.randn(12, 8)
    expected = compiled(Split(12, 4), w, 12, x)
    before = w.clone(), x.clone()
    form = next(f for key, fs in compiled.loop_0.forms.items() if key[1] == "later" for f in fs)
    call = form.call

    def interrupted(arguments):
        call(arguments)
        raise KeyboardInterrupt

    form.call = interrupted
    with pytest.raises(KeyboardInterrupt):
        compiled(Split(12, 4), w, 12, x)
    form.call = call
    assert torch.equal(w, before[0]) and torch.equal(x, before[1])
    for a, b in zip(expected, compiled(Split(12, 4), w, 12, x), strict=True):
        assert torch.equal(a, b)


@pytest.mark.inductor
def test_accumulators_are_updated_in_place(monkeypatch):
    seen = []
    from accumcompile.lowering.inductor import forms

    original = forms.Form.contributions

    def spy(self, *arguments):
        made = original(self, *arguments)
        seen.extend(t.data_ptr() for t in made)
        return made

    monkeypatch.setattr(forms.Form, "contributions", spy)
    _, compiled = both(mean_step())
    results = compiled(Split(12, 4), torch.randn(8, 16), 12, torch.randn(12, 8))
    assert [r.data_ptr() for r in results[:3]] == seen


@pytest.mark.parametrize("lowering", ["eager", "inductor"])
def test_a_wrong_prediction_is_a_bug_of_ours(lowering):
    program = mean_step()
    product = next(n for n in program.loop_0.graph.nodes if n.target is aten.mm.default)
    product.meta["local_shape"] = (ROWS + 1, 16)
    with pytest.raises(errors.BuildError, match=r"AC901.*\(4, 16\)"):
        lower(program, session(lowering=lowering))(Split(12, 4), torch.randn(8, 16), 12, torch.randn(12, 8))


@pytest.mark.parametrize("lowering", ["eager", "inductor"])
def test_a_row_that_two_micro_batches_share_is_a_bug_of_ours(lowering):
    """Rounded down, it would be in neither."""

    def body(rows, start, x):
        return (aten.sum.default(x),)

    program = program_of(body_of(body, Capture(s=12).tensor("s", 4)), 0, [0], ["sum"])
    with pytest.raises(errors.BuildError, match=r"AC901.*3 of 12 samples own no whole number of 6 rows"):
        lower(program, session(lowering=lowering))(Split(12, 3), torch.randn(6, 4))


def test_a_body_that_mutates_is_a_bug_of_ours():
    def body(rows, start, x):
        return (aten.add_.Tensor(x, 1.0),)

    program = program_of(body_of(body, Capture(s=12).tensor("s", 4)), 0, [0], ["sum"])
    with pytest.raises(errors.BuildError, match="in place"):
        lower(program, session())(Split(12, 4), torch.randn(12, 4))


@pytest.mark.parametrize(
    ("shape", "stride", "dim", "copied"),
    [
        ((12, 3), (3, 1), 0, False),
        ((3, 12), (12, 1), 1, True),
        ((3, 12), (1, 3), 1, False),
        ((12, 3), (0, 1), 0, False),
        ((1, 12, 4), (48, 4, 1), 1, False),
    ],
)
def test_slices_are_copied_where_their_strides_would_depend_on_the_batch(shape, stride, dim, copied):
    assert Cut(torch.empty_strided(shape, stride), dim, Split(12, 4)).copied == copied


def test_stride_patterns_do_not_depend_on_sizes():
    assert stride_pattern(torch.empty(3, 4)) == stride_pattern(torch.empty(5, 7))
    assert stride_pattern(torch.empty(3, 4)) != stride_pattern(torch.empty(4, 3).t())
    assert stride_pattern(torch.empty(3, 8)[:, :4]) != stride_pattern(torch.empty(3, 4))


@pytest.mark.inductor
def test_a_bridge_is_compiled_once_for_all_batches():
    def body(rows, start, x):
        return aten.sum.dim_IntList(x, [0]), aten.mul.Tensor(x, 2.0)

    capture = Capture(s=12)
    program = program_of(body_of(body, capture.tensor("s", 4096)), 0, [0], ["sum"], [0])
    output = program.graph.output_node()
    loop = output.args[0]
    with program.graph.inserting_before(output):
        total, doubled = (program.graph.call_function(lambda v, i: v[i], (loop, i)) for i in range(2))
        total.meta["val"], doubled.meta["val"] = capture.tensor(4096), capture.tensor("s", 4096)
        for target, other in ((aten.mul.Tensor, total), (aten.sub.Tensor, 1.0), (aten.exp.default, None)):
            with capture.trace.running():
                doubled = program.graph.call_function(target, (doubled, other) if other is not None else (doubled,))
                doubled.meta["val"] = capture.tensor("s", 4096)
    output.args = ((total, doubled),)
    program.recompile()
    eager, compiled = both(program)
    for batch in (12, 16, 13):
        check_equal(eager, compiled, Split(batch, 4), torch.randn(batch, 4096) * 1e-3)
    assert sum(map(len, compiled.bridge_0.forms.values())) == 1


def test_seeds_are_drawn_as_compiled_code_draws_them():
    from accumcompile.lowering.inductor.bridges import seeds_as_compiled

    graph = torch.fx.Graph()
    graph.output(graph.call_function(prims.inductor_seeds.default, (3, torch.device("cpu"))))
    seeds_as_compiled(graph)
    torch.manual_seed(1)
    ours = torch.fx.GraphModule(torch.nn.Module(), graph)()
    torch.manual_seed(1)
    limits = torch.iinfo(torch.int64)
    assert torch.equal(ours, torch.randint(limits.min, limits.max, [3]))


@pytest.mark.inductor
def test_a_form_serves_only_the_buffers_that_it_was_compiled_for():
    """A piece of one row lies in its buffer otherwise than one of several: a tail's form is none for such a batch."""

    def body(rows, start, x):
        y = aten.clone.default(
            aten.permute.default(aten.tanh.default(x), [1, 0]), memory_format=torch.contiguous_format
        )
        return aten.sum.default(y), y

    eager, compiled = both(program_of(body_of(body, Capture(s=12).tensor("s", 8)), 0, [0], ["sum"], [1]))
    for batch, rows in [(10, 3), (4, 1), (10, 3)]:
        check_equal(eager, compiled, Split(batch, rows), torch.randn(batch, 8))
