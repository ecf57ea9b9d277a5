"""Every row of the table, proven on its samples: a new row is one line there and one in ``rule_samples``."""

import pytest
import torch
from rule_samples import SAMPLES

from accumcompile.rules.rule import Rule
from accumcompile.rules.table import RULES
from accumcompile.testing import check_rule

aten = torch.ops.aten

NO_SAMPLE = {
    "aten.lift_fresh_copy.default": "gone from every graph before the table is read",
    "aten.upsample_bilinear2d.vec": "taken apart by AOTAutograd",
    "accumcompile.moments.default": "made by a pass only: see test_oracle",
    "prims.fma.default": "made by a decomposition only: see test_oracle",
    "prims.inductor_random.default": "runs under Inductor only: see test_random",
    "prims.inductor_randint.default": "runs under Inductor only: see test_random",
    **{
        f"aten._scaled_dot_product_{kind}_attention{way}.default": "runs on CUDA only: see test_cuda_attention"
        for kind in ("flash", "efficient", "cudnn")
        for way in ("", "_backward")
    },
    "prims._low_memory_max_pool_with_offsets.default": "made by a decomposition only: see test_oracle",
    "prims._low_memory_max_pool_offsets_to_indices.default": "made by a decomposition only: see test_oracle",
}


@pytest.mark.parametrize("op", SAMPLES, ids=str)
def test_the_rule_is_sound(op):
    check_rule(op, RULES[op], SAMPLES[op])


def test_every_row_has_samples():
    assert {str(op) for op in RULES} - {str(op) for op in SAMPLES} <= set(NO_SAMPLE)


def test_what_moves_data_need_not_say_that_it_is_linear():
    assert not [op for op, rule in RULES.items() if rule.moves and rule.linear]


# One flip of each kind, and rows in which a mistake was once made.
WRONG = {
    "the vocabulary split": (aten.embedding.default, Rule("v d, ... -> ... d", linear=({0},))),
    "jointly linear": (aten.mm.default, Rule("m k, k n -> m n", linear=({0, 1},))),
    "factors exchanged": (aten.mm.default, Rule("m k, k n -> n m", linear=({0}, {1}))),
    "a sort called linear": (aten.sort.default, Rule("... -> ..., ...", linear=({0},))),
    "a softmax split along its dim": (aten._softmax.default, Rule("... -> ...")),
    "a product called linear": (aten.mul.Tensor, Rule("... -> ...", linear=({0, 1},))),
    "a maximum summed": (aten.amax.default, Rule("a b -> a", reduce="sum", linear=({0},))),
    "a minimum as maximum": (aten.min.default, Rule("... ->", reduce="max")),
    "a comparison called data movement": (aten.eq.Tensor, Rule("... -> ...", moves=True)),
}


@pytest.mark.parametrize(("op", "rule"), WRONG.values(), ids=WRONG)
def test_a_wrong_rule_is_caught(op, rule):
    with pytest.raises(AssertionError):
        check_rule(op, rule, SAMPLES[op])
