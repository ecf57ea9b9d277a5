"""Inductor's random numbers, computed without Inductor: functions of a seed and an element's index.

Its C++ and Triton code both use Philox4x32-10 with the seed as the key and the index as the counter (Salmon et al.,
"Parallel random numbers: as easy as 1, 2, 3", 2011), and differ in how they convert its words to floats (sources:
torch's ``PhiloxRNGEngine.h`` and ``inductor/cpp_prefix.h``, and Triton's ``language/random.py``).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_KEY_STEPS = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
_UNIT = 4.6566127342e-10  # the largest float32 that keeps 2**31 - 1 below one


def rand(seed: Tensor, index: Tensor) -> Tensor:
    """Uniform float32 numbers in [0, 1) for int64 indices of any shape."""
    return _uniform(_words(seed, index)[0])


def randn(seed: Tensor, index: Tensor) -> Tensor:
    """Normal float32 numbers, by the Box-Muller method."""
    first, second, *_ = map(_uniform, _words(seed, index))
    if seed.device.type == "cpu":
        first, second = (1 - first).double(), (1 - second).double()
    else:
        first = first.clamp_min(1e-7)
    return ((-2.0 * first.log()).sqrt() * (2.0 * math.pi * second).cos()).float()


def randint(seed: Tensor, index: Tensor, low: int, high: int) -> Tensor:
    """int64 numbers in [low, high)."""
    first, second, *_ = _words(seed, index)
    span, rest = high - low, torch.zeros_like(first)
    for word in (second, first):  # both as one unsigned 64-bit number, which int64 cannot hold, modulo span
        for bit in reversed(range(32)):
            rest = torch.where(rest >= span - rest, rest - (span - rest), rest + rest)
            rest = rest + ((word >> bit) & 1)
            rest = torch.where(rest == span, 0, rest)
    return rest + low


def _words(seed: Tensor, index: Tensor) -> list[Tensor]:
    """The four 32-bit words of each index, in int64."""
    key = [seed & _WORD, torch.zeros_like(seed) if seed.device.type == "cpu" else (seed >> 32) & _WORD]
    zeros = torch.zeros_like(index)
    counter = [index & _WORD, zeros, zeros, zeros]
    for _ in range(_ROUNDS):
        (low0, high0), (low1, high1) = (_product(c, m) for c, m in zip(counter[::2], _MULTIPLIERS, strict=True))
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
        key = [(k + step) & _WORD for k, step in zip(key, _KEY_STEPS, strict=True)]
    return counter


def _product(word: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """The low and the high word of a product; int64 wraps around but keeps every bit."""
    product = word * by
    return product & _WORD, (product >> 32) & _WORD


def _uniform(word: Tensor) -> Tensor:
    if word.device.type == "cpu":
        return (word & 0x7FFFFFFF).float() * _UNIT
    return torch.where(word > 0x7FFFFFFF, _WORD - word, word).float() * _UNIT
