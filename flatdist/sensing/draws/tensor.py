"""Counter-based draws in torch: the same integers as :mod:`~flatdist.sensing.draws.philox`, on any device.

Words are held in int64, whose products wrap modulo 2**64; masks bring back the unsigned 32-bit words where they count.
On a GPU every operation here is a launch: both halves of a block, and all streams, go through each of them together.
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
        steps: (steps,) int64, or (steps, streams) if each stream has its own.
        count: words per step.

    Returns:
        (steps, streams, count) int64 holding 32-bit words.
    """
    blocks = -(-count // WORDS_PER_BLOCK)
    shape = (len(steps), len(keys), blocks)
    # Made on the device, since nothing is sent there while a graph is captured.
    rounds, halves = torch.arange(ROUNDS, device=keys.device), torch.arange(2, device=keys.device)
    multipliers, weyl = (torch.where(halves == 0, *pair) for pair in (MULTIPLIERS, WEYL))
    multipliers, crossed = multipliers[:, None, None, None], 1 - halves
    added = (keys + rounds[:, None, None] * weyl) & _MASK  # (rounds, streams, 2)
    added = added.mT[:, :, None, :, None]  # (rounds, 2, 1, streams, 1)
    block = torch.arange(blocks, device=keys.device)
    even = torch.stack(
        (block.expand(shape), (steps if steps.dim() == 2 else steps[:, None])[..., None].expand(shape))
    )  # words 0 and 2
    odd = torch.zeros((), dtype=torch.int64, device=keys.device)  # words 1 and 3; upper halves hold rubbish
    for key in added:
        products = ((even & _MASK) * multipliers).index_select(0, crossed)
        even, odd = (products >> 32) ^ odd ^ key, products
    output = torch.stack((even, odd), dim=-1).movedim(0, -2) & _MASK  # (steps, streams, blocks, 2, 2)
    return output.flatten(2)[..., :count]


def normals(keys: torch.Tensor, steps: torch.Tensor, count: int) -> torch.Tensor:
    """Standard normals, (steps, streams, count) float64."""
    return normals_of(words(keys, steps, 2 * -(-count // 2)))[..., :count]


def indices_of(drawn: torch.Tensor, bound: int | torch.Tensor) -> torch.Tensor:
    """Words as uniform integers in [0, bound)."""
    return (drawn * bound) >> 32


def normals_of(drawn: torch.Tensor) -> torch.Tensor:
    """Pairs of words as pairs of standard normals, float64."""
    uniform = (drawn.to(torch.float64) + 0.5) * 2.0**-32
    radius = torch.sqrt(-2.0 * torch.log(uniform[..., 0::2]))
    angle = (2.0 * math.pi) * uniform[..., 1::2]
    return torch.stack((radius * torch.cos(angle), radius * torch.sin(angle)), dim=-1).flatten(-2)
