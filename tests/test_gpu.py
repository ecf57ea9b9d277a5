"""On a CUDA device: rows of the catalogue, attention by every backend, and dropout.

The same code runs on the CPU for a few parameters, so that only the device is new where there is one.
"""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from catalogue.compare import TOLERANCE, beyond, differences, run
from catalogue.row import seeded
from steps import CATALOGUE
from torch import nn
from torch.fx.experimental import _config as fx_config
from torch.nn.attention import SDPBackend, sdpa_kernel

from accumcompile import accumulate
from accumcompile.testing import gradients, max_rel_diff, state

STEPS = 3
ROWS = [
    "cross_entropy_ignore_index_uneven",
    "cross_entropy_everything",
    "hardest_sample",
    "global_dice",
    "symmetric_info_nce",
    "moco_queue",
    "mixture_of_experts",
    "max_pooling",
    "channels_last",
    "bilinear_upsampling",
    "batch_norm_2d",
    "group_norm",
    "causal_attention",
    "masked_attention",
    "gru",
    "tied_embeddings",
    "four_groups",
    "time_before_batch_flattened",
    "boolean_indexing",
    "sorted_across_the_batch",
    "clipping_and_adamw",
    "gan_with_two_optimizers",
]


def on_cuda(*values, **kw):
    """Parameters for which a CUDA device is needed."""
    reason = "no CUDA device"
    marks = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason=reason)]
    return pytest.param(*values, marks=marks, **kw)


def on_cpu(*values, lowering="eager", **kw):
    """Parameters that run everywhere."""
    return pytest.param(*values, marks=[pytest.mark.inductor] * (lowering == "inductor"), **kw)


@pytest.fixture(autouse=True)
def compiled_anew():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


# Where a row's tensors are


@pytest.mark.parametrize("name", CATALOGUE)
@fx_config.patch(meta_nonzero_assume_all_nonzero=True)
def test_a_row_is_on_its_device_altogether(name):
    """Tensors that are only shapes cannot meet the CPU's: a factory without a device fails here, without a GPU."""
    case = CATALOGUE[name].build(device="meta")
    args, kwargs = case.arguments(12, update=0)
    returned = case.step(*args, **kwargs)
    modules = [(list(m.parameters()), list(m.buffers())) for m in case.models.values()]
    tensors = torch.utils._pytree.tree_leaves((args, kwargs, returned, modules))
    assert {t.device.type for t in tensors if isinstance(t, torch.Tensor)} == {"meta"}


def test_a_tensor_that_is_elsewhere_fails():
    """What the test above relies on."""
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(3, device="meta") + torch.ones(3)


# Rows


def rows():
    for lowering in ("eager", "inductor"):
        yield from (on_cuda(name, lowering, "cuda", id=f"{name}-{lowering}-cuda") for name in ROWS)
    yield on_cpu("moco_queue", "eager", "cpu", id="moco_queue-eager-cpu")


@pytest.mark.parametrize(("name", "lowering", "device"), rows())
def test_a_row_equals_the_eager_full_batch(name, lowering, device):
    row = CATALOGUE[name]
    case = row.build(device)
    step = accumulate(steps=STEPS, lowering=lowering, **case.options)(case.step)
    for size in row.batches:
        full = row.build(device)
        expected = run(full, full.step, size)
        case.restore()
        wrong = beyond(differences(expected, run(case, step, size), row.exclude))
        assert not wrong, f"B = {size}: {wrong}"


# Attention

BATCH, HEADS, TOKENS, WIDTH = 12, 4, 64, 32
FLASH, EFFICIENT, CUDNN, MATH = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.MATH,
)
HALF, ALL = (torch.float16, torch.bfloat16), (torch.float16, torch.bfloat16, torch.float32)
DTYPES = {FLASH: HALF, EFFICIENT: ALL, CUDNN: HALF, MATH: ALL}
MASKED = (EFFICIENT, CUDNN, MATH)


class Attention(nn.Module):
    """Self-attention and a residual: the least that has gradients of query, key and value."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(HEADS * WIDTH, 3 * HEADS * WIDTH)

    def forward(self, x, lengths=None):
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mask = None
        if lengths is not None:
            allowed = torch.arange(TOKENS, device=x.device) < lengths[:, None, None, None]
            mask = allowed.expand(-1, HEADS, TOKENS, -1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return x + out.transpose(1, 2).flatten(2)


def attend(model, *batch):
    attended = model(*batch)
    loss = attended.float().square().sum() / attended.numel()
    loss.backward()
    return loss.detach(), attended.detach()


def attended(step, model, batch, backend):
    """What a step returns, and the gradients it leaves; the model is a copy."""
    model = copy.deepcopy(model)
    with sdpa_kernel(backend):
        returned = step(model, *batch)
    return [*returned, *(p.grad for p in model.parameters())]


def errors(expected, actual):
    """The relative error of each value, in the Euclidean norm."""
    return [((a.double() - e).norm() / e.norm()).item() for e, a in zip(expected, actual, strict=True)]


def attentions():
    for backend, dtypes in DTYPES.items():
        for dtype in dtypes:
            for masked in (False, True)[: 1 + (backend in MASKED)]:
                for lowering in ("eager", "inductor"):
                    name = f"{backend.name.lower()}-{str(dtype)[6:]}-{'masked' if masked else 'causal'}-{lowering}"
                    yield on_cuda(backend, dtype, masked, lowering, "cuda", id=f"{name}-cuda")
    yield on_cpu(FLASH, torch.bfloat16, False, "eager", "cpu", id="flash-bfloat16-causal-eager-cpu")
    yield on_cpu(MATH, torch.float16, True, "eager", "cpu", id="math-float16-masked-eager-cpu")
    yield on_cpu(
        FLASH, torch.float32, True, "inductor", "cpu", lowering="inductor", id="flash-float32-masked-inductor-cpu"
    )


@pytest.mark.parametrize(("backend", "dtype", "masked", "lowering", "device"), attentions())
def test_attention_is_as_exact_as_the_full_batch(backend, dtype, masked, lowering, device):
    """Against float64, the error is at most twice the full batch's own; and attention stays in the loop."""
    with seeded(0, device):
        exact, x = Attention(), torch.randn(BATCH, TOKENS, HEADS * WIDTH)
        lengths = [torch.randint(1, TOKENS + 1, (BATCH,))] * masked
    model = copy.deepcopy(exact).to(dtype)
    exact = copy.deepcopy(model).double()  # of the same, rounded numbers
    rounded = x.to(dtype)
    truth = [t.double() for t in attended(attend, exact, (rounded.double(), *lengths), MATH)]
    own = errors(truth, attended(attend, model, (rounded, *lengths), backend))
    step = accumulate(steps=STEPS, lowering=lowering)(attend)
    with step.session.journal.recording() as runs:
        ours = errors(truth, attended(step, model, (rounded, *lengths), backend))
    assert all(o <= max(2 * f, torch.finfo(dtype).eps) for o, f in zip(ours, own, strict=True)), (ours, own)
    assert not [b for run in runs for b in run.plan.barriers if b.kind == "gather"]


# Dropout


def dropping():
    yield from (on_cuda(lowering, "cuda", id=f"{lowering}-cuda") for lowering in ("eager", "inductor"))
    yield on_cpu("eager", "cpu", id="eager-cpu")
    yield on_cpu("inductor", "cpu", lowering="inductor", id="inductor-cpu")


@pytest.mark.parametrize(("lowering", "device"), dropping())
def test_dropout_is_that_of_the_full_batch(lowering, device):
    """Four micro-batches draw the masks that one draws, under the same lowering."""
    with seeded(0, device):
        model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.4), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 3))
        x = torch.randn(13, 4)

    def step(model, x):
        out = model(x)
        loss = out.square().mean()
        loss.backward()
        return loss.detach(), out.detach()

    decorated = accumulate(steps=1, lowering=lowering)(step)
    results = []
    for steps in (1, 4):
        decorated.steps = steps
        copied = copy.deepcopy(model)
        torch.manual_seed(7)
        loss, out = decorated(copied, x)
        results.append(gradients(copied) | state(copied) | {"loss": loss, "out": out})
    assert max_rel_diff(*results) < TOLERANCE
