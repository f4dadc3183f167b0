"""Counter-based draws in torch: the same integers as :mod:`~flatdist.sensing.draws.philox`, on any device.

Words are held in int64, whose products wrap modulo 2**64; shifts and masks bring back the unsigned 32-bit words.
"""

from __future__ import annotations

import math

import torch

from flatdist.sensing.draws.philox import MULTIPLIERS, ROUNDS, WEYL, WORDS_PER_BLOCK

_MASK = 0xFFFFFFFF


def words(keys: torch.Tensor, steps: torch.Tensor, count: int) -> torch.Tensor:
    """The first ``count`` words of each step of each stream.

    Args:
        keys: (streams, 2) int64 holding 32-bit words.
        steps: (steps,) int64.
        count: words per step.

    Returns:
        (steps, streams, count) int64 holding 32-bit words.
    """
    blocks = -(-count // WORDS_PER_BLOCK)
    block = torch.arange(blocks, device=keys.device)
    zero = torch.zeros((), dtype=torch.int64, device=keys.device)
    c0, c1, c2, c3 = block[None, None, :], zero, steps[:, None, None], zero
    k0, k1 = keys[None, :, :1], keys[None, :, 1:]
    shape = (len(steps), len(keys), blocks)
    for _ in range(ROUNDS):
        low0, high0 = _multiply(MULTIPLIERS[0], c0)
        low1, high1 = _multiply(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + WEYL[0]) & _MASK, (k1 + WEYL[1]) & _MASK
    output = torch.stack([word.expand(shape) for word in (c0, c1, c2, c3)], dim=-1)  # (steps, streams, blocks, 4)
    return output.flatten(2)[..., :count]


def indices(keys: torch.Tensor, steps: torch.Tensor, count: int, bound: int | torch.Tensor) -> torch.Tensor:
    """Uniform integers in [0, bound), (steps, streams, count) int64; bound below 2**31, or (streams, 1) of them."""
    return (words(keys, steps, count) * bound) >> 32


def normals(keys: torch.Tensor, steps: torch.Tensor, count: int) -> torch.Tensor:
    """Standard normals, (steps, streams, count) float64."""
    pairs = -(-count // 2)
    uniform = (words(keys, steps, 2 * pairs).to(torch.float64) + 0.5) * 2.0**-32
    radius = torch.sqrt(-2.0 * torch.log(uniform[..., 0::2]))
    angle = (2.0 * math.pi) * uniform[..., 1::2]
    pair = torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1)
    return pair.flatten(-2)[..., :count]


def _multiply(multiplier: int, word: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Low and high 32 bits of a product of 32-bit words; the wrapped int64 product keeps all its 64 bits."""
    product = word * multiplier
    return product & _MASK, (product >> 32) & _MASK
