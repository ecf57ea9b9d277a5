"""What the examples with a language model share: a small Llama with random weights, a tokenizer, sentences.

Nothing is downloaded. transformers computes a Llama's norms and losses in float32 even where the weights are float64,
so two right answers are equal to about 1e-6 here.
"""

from __future__ import annotations

import random

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["<pad>", "<eos>", *(f"word{i}" for i in range(62))]


def llama() -> LlamaForCausalLM:
    """One layer with random weights, in double precision."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
        use_cache=False,
    )
    return LlamaForCausalLM(config).double()


def tokenizer() -> PreTrainedTokenizerFast:
    """A token for every word."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", bos_token="<eos>")


def _sentence(source: random.Random, longest: int) -> str:
    return " ".join(source.choices(WORDS[2:], k=source.randint(1, longest)))


def rows(count: int, length: int = 12) -> list[dict[str, torch.Tensor]]:
    """Sentences of one to ``length`` random words as tokens, padded; the loss ignores the padding."""
    source = random.Random(0)
    padded = []
    for _ in range(count):
        real = torch.arange(length) < source.randint(2, length)
        ids = torch.tensor(source.choices(range(2, len(WORDS)), k=length)) * real
        padded.append({"input_ids": ids, "attention_mask": real.long(), "labels": ids.masked_fill(~real, -100)})
    return padded


def texts(count: int) -> Dataset:
    """Sentences of one to twelve random words."""
    source = random.Random(0)
    return Dataset.from_list([{"text": _sentence(source, 12)} for _ in range(count)])


def preferences(count: int) -> Dataset:
    """Prompts, each with an answer that is preferred and one that is not."""
    source = random.Random(0)

    def row() -> dict[str, str]:
        return {"prompt": _sentence(source, 4)} | {k: " " + _sentence(source, 8) for k in ("chosen", "rejected")}

    return Dataset.from_list([row() for _ in range(count)])
