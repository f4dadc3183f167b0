"""Gradients of a loss with respect to the layers, by the chain rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flatdist.factorization.products import partial_products


def layer_gradients(layers: Sequence[Any], gradient: Any) -> list[Any]:
    """grad W_j = (W_L ... W_{j+1})^T G (W_{j-1} ... W_1)^T, from G, the gradient with respect to the product."""
    gradients = []
    for left, right in zip(*partial_products(layers), strict=True):
        pulled = gradient if left is None else left.mT @ gradient
        gradients.append(pulled if right is None else pulled @ right.mT)
    return gradients
