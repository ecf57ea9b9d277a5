"""A contrastive step: every sample meets every other, so a plain loop over micro-batches changes the loss.

Cut by hand, this is GradCache: embed everything without a graph, take the loss and its gradient with respect
to the embeddings, embed everything again with a graph, and feed that gradient in. Here the compiler finds the
cut: see the barriers in what `explain` prints.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accumcompile import accumulate, verify


class Encoder(nn.Module):
    """Anything that embeds one sample at a time."""

    def __init__(self, width: int = 256, dim: int = 64):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(32, width), nn.GELU(), nn.Linear(width, dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.layers(x), dim=-1)


@accumulate(steps=8)
def train_step(encoder: Encoder, optimizer: torch.optim.Optimizer, left: Tensor, right: Tensor) -> Tensor:
    optimizer.zero_grad()
    similarity = encoder(left) @ encoder(right).T / 0.07
    labels = torch.arange(len(left), device=left.device)
    loss = (F.cross_entropy(similarity, labels) + F.cross_entropy(similarity.T, labels)) / 2
    loss.backward()
    optimizer.step()
    return loss.detach()


def main() -> None:
    torch.manual_seed(0)
    encoder = Encoder()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    for update in range(1, 41):
        left = torch.randn(256, 32)
        loss = train_step(encoder, optimizer, left, left + 1.5 * torch.randn_like(left))
        if update in (1, 10, 20, 40):
            print(f"update {update:2}  loss {loss.item():.3f}")
    batch = torch.randn(256, 32), torch.randn(256, 32)
    print(train_step.explain(encoder, optimizer, *batch))
    print(verify(train_step, encoder, optimizer, *batch))


if __name__ == "__main__":
    main()
