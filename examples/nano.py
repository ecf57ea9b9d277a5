"""A small GPT and a small lossless tokenizer: what the demo and the benchmarks need of a language model."""

import re
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Causal self-attention with all heads in one projection."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._split_heads(part) for part in self.qkv(x).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.proj(y.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """Token ids `[batch, time]` to logits `[batch, time, vocabulary]`; the head is tied to the embedding."""

    def __init__(self, vocabulary: int, context: int, layers: int, width: int, heads: int = 4):
        super().__init__()
        self.context = context
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.apply(_init)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.tokens.weight)

    @torch.no_grad()
    def generate(self, ids: Tensor, count: int) -> Tensor:
        """`count` sampled tokens after `ids`."""
        for _ in range(count):
            logits = self(ids[:, -self.context :])[:, -1] / 0.8
            ids = torch.cat([ids, torch.multinomial(logits.softmax(-1), 1)], dim=1)
        return ids


def _init(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


class Tokenizer:
    """The most frequent words of a text are tokens, the rest is spelled: every text comes back unchanged."""

    PIECE = re.compile(r" ?\w+|\s+|[^\w\s]")

    def __init__(self, text: str, vocabulary: int):
        letters = sorted(set(text))
        words = [word for word, _ in Counter(self.PIECE.findall(text)).most_common() if len(word) > 1]
        self.pieces = letters + words[: vocabulary - len(letters)]
        self.ids = {piece: i for i, piece in enumerate(self.pieces)}

    def encode(self, text: str) -> list[int]:
        pieces = self.PIECE.findall(text)
        return [self.ids[part] for piece in pieces for part in ([piece] if piece in self.ids else piece)]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.pieces[i] for i in ids)
