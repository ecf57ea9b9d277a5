"""Trains a small GPT on the documentation that Python ships, in micro-batches that nobody had to write.

`python examples/gpt.py` takes a minute or two on two cores, and as long again for the comparison at its end.
"""

import argparse
import pydoc_data.topics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from nano import GPT, Tokenizer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from accumcompile import accumulate, verify

BATCH, CONTEXT, VOCABULARY = 32, 128, 2048
ROOT = Path(__file__).parents[1]
console = Console(highlight=False)


@accumulate(steps=8)
def train_step(model: GPT, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor) -> Tensor:
    optimizer.zero_grad()
    loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach()


def batches(ids: Tensor, device: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Random windows of the text, and the same windows one token later."""
    while True:
        starts = torch.randint(len(ids) - CONTEXT, (BATCH, 1))
        windows = ids[starts + torch.arange(CONTEXT + 1)].to(device)
        yield windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


def train(model: GPT, optimizer: torch.optim.Optimizer, data: Iterator, updates: int) -> list[float]:
    """The loss of every update."""
    start = time.perf_counter()
    losses = [train_step(model, optimizer, *next(data)).item()]
    console.print(f"first update, compiling included: {time.perf_counter() - start:.1f} s")
    columns = TextColumn("update"), MofNCompleteColumn(), BarColumn(), TextColumn("{task.description}")
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=updates, completed=1)
        for update in range(2, updates + 1):
            losses.append(train_step(model, optimizer, *next(data)).item())
            bar.update(task, advance=1, description=f"loss {losses[-1]:.3f}")
            if not console.is_terminal and update % 25 == 0:
                console.print(f"update {update}/{updates}  loss {losses[-1]:.3f}")
    return losses


def sample(model: GPT, tokenizer: Tokenizer, device: str) -> str:
    prompt = torch.tensor([tokenizer.encode("The class ")], device=device)
    return tokenizer.decode(model.generate(prompt, 60)[0].tolist())


def compare(device: str) -> None:
    """Time and peak memory, each variant in a process of its own."""
    script = [sys.executable, str(ROOT / "benchmarks" / "run.py")]
    subprocess.run([*script, "--case", "gpt-demo", "--quick", "--device", device], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=250)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()

    torch.manual_seed(0)
    text = "\n".join(pydoc_data.topics.topics.values())
    tokenizer = Tokenizer(text, VOCABULARY)
    data = batches(torch.tensor(tokenizer.encode(text)), args.device)
    model = GPT(VOCABULARY, CONTEXT, layers=4, width=128).to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)

    console.rule("training")
    start = time.perf_counter()
    losses = train(model, optimizer, data, args.updates)
    seconds = time.perf_counter() - start
    console.print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f} in {len(losses)} updates, {seconds:.0f} s")
    console.print(f"a sample: {sample(model, tokenizer, args.device)!r}")

    inputs, targets = next(data)
    console.rule("explain")
    console.print(str(train_step.explain(model, optimizer, inputs, targets)), markup=False, soft_wrap=True)
    console.rule("verify")
    report = verify(train_step, model, optimizer, inputs, targets)
    console.print(str(report), markup=False, soft_wrap=True)
    console.rule("time and memory of one update")
    compare(args.device)
    if not report.passed:
        sys.exit("the accumulated step differs from the full batch")


if __name__ == "__main__":
    main()
