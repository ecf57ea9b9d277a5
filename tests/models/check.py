"""One model of the zoo, trained on the full batch in eager and accumulated: what comes of it."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from zoo import ZOO, Batch

from accumcompile import AccumulateError, accumulate
from accumcompile.verify.compare import largest, rel_diff

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from live import live_peak

BATCH, STEPS, TOLERANCE = 16, 8, 1e-9
EXACT = "equal"


@dataclass(frozen=True)
class Outcome:
    """What became of one model.

    ``activations`` is the peak of live bytes in an update beside that of the full batch; gradients, and what the
    user's code keeps (``kept``, bytes of the model's output), are left out of both.
    """

    name: str
    verdict: str  # EXACT, "differs", "refused", "error" or "fails in eager"
    why: str = ""
    difference: float = float("nan")
    loops: int = 0
    micro_batches: int = 0
    gathered: int = 0
    graphs: int = 0
    activations: float = float("nan")
    kept: int = 0
    batch_norm: bool = False
    seconds: float = 0.0

    @property
    def runs(self) -> bool:
        return self.verdict == EXACT


def train_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> torch.Tensor:
    optimizer.zero_grad()
    out = model(**batch)
    out.loss.backward()
    optimizer.step()
    return out.loss.detach()


def check(name: str) -> Outcome:
    """Run the model both ways."""
    torch._dynamo.reset()
    start = time.perf_counter()
    full, batch = ZOO[name].build(), _batch(name)
    split, optimizer = copy.deepcopy(full), sgd(full)
    norm = any(isinstance(module, torch.nn.modules.batchnorm._BatchNorm) for module in full.modules())
    step = accumulate(steps=STEPS, lowering="eager")(train_step)
    try:
        expected = _state(full, train_step(full, optimizer, batch))
    except Exception as error:
        return Outcome(name, "fails in eager", _first_line(error), batch_norm=norm)
    try:
        difference = _difference(expected, _state(split, step(split, sgd(split), batch)))
        report = step.explain(split, sgd(split), batch)
    except AccumulateError as error:
        return Outcome(name, "refused", str(error).splitlines()[0], batch_norm=norm)
    except Exception as error:  # what a user would see as a crash
        return Outcome(name, "error", _first_line(error), batch_norm=norm)
    kept = _kept(full, batch)
    gradients = sum(p.numel() * p.itemsize for p in split.parameters() if p.requires_grad)
    return Outcome(
        name,
        EXACT if difference <= TOLERANCE else "differs",
        difference=difference,
        loops=len(report.loops),
        micro_batches=max((loop.micro_batches for loop in report.loops), default=1),
        gathered=report.gathered_bytes,
        graphs=len(report.graphs),
        # The full batch's peak comes before its gradients; sums of gradients live from the first micro-batch on.
        activations=(_peak(step, split, batch) - kept - gradients) / (_peak(train_step, full, batch) - kept),
        kept=kept,
        batch_norm=norm,
        seconds=time.perf_counter() - start,
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[:1]}"


def _peak(step: Callable[..., torch.Tensor], model: torch.nn.Module, batch: Batch) -> int:
    optimizer = sgd(model)
    return live_peak(lambda: step(model, optimizer, batch))


def _kept(model: torch.nn.Module, batch: Batch) -> int:
    """The bytes of the model's output, which the step holds until it returns."""
    with torch.no_grad():
        leaves = torch.utils._pytree.tree_leaves(dict(copy.deepcopy(model)(**batch)))
    memory = {t.untyped_storage().data_ptr(): t.nbytes for t in leaves if isinstance(t, torch.Tensor)}
    return sum(memory.values())


def sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def _batch(name: str) -> Batch:
    torch.manual_seed(1)
    return ZOO[name].batch(BATCH)


State = dict[str, dict[str, torch.Tensor]]


def _state(model: torch.nn.Module, loss: torch.Tensor) -> State:
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    buffers = {name: b for name, b in model.named_buffers() if b.is_floating_point()}
    return {"loss": {"": loss}, "gradient": gradients, "parameter": dict(model.named_parameters()), "buffer": buffers}


def _difference(expected: State, actual: State) -> float:
    """The largest difference, relative to the largest value of its kind: a gradient's to the gradients'."""
    return max(_relative(expected[kind], actual[kind]) for kind in expected)


def _relative(expected: dict[str, torch.Tensor], actual: dict[str, torch.Tensor]) -> float:
    if expected.keys() != actual.keys():
        return float("inf")
    scale = largest(expected.values())
    return max((rel_diff(value, actual[name], scale) for name, value in expected.items()), default=0.0)
