"""A transformers model with padding: every micro-batch has another number of real tokens.

The model's own loss is a mean over real tokens. Averaging that mean over micro-batches would be wrong, which
is why trainers pass token counts around; here the step stays as it is. Random weights, nothing is downloaded.
"""

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from accumcompile import accumulate, verify

VOCABULARY = 512


@accumulate(steps=4)
def train_step(model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]) -> Tensor:
    optimizer.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    return loss.detach()


def padded_batch(size: int, length: int) -> dict[str, Tensor]:
    """Rows of 1 to `length` random tokens."""
    ids = torch.randint(VOCABULARY, (size, length))
    real = torch.arange(length) < torch.randint(1, length + 1, (size, 1))
    return {"input_ids": ids, "attention_mask": real.long(), "labels": ids.masked_fill(~real, -100)}


def main() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch = padded_batch(16, 64)
    for update in range(1, 11):
        print(f"update {update:2}  loss {train_step(model, optimizer, batch).item():.3f}")
    print(train_step.explain(model, optimizer, batch))
    print(verify(train_step, model, optimizer, batch))


if __name__ == "__main__":
    main()
