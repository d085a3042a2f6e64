"""A network's repeated blocks: the units in which activations are recomputed and parameters are sharded.

Hop 8 of the tour, when a learner is built. Every network here keeps them in a ``nn.ModuleList`` and calls them as modules.
"""

from __future__ import annotations

import functools

from torch import nn
from torch.utils.checkpoint import checkpoint


def repeated_blocks(module: nn.Module) -> list[nn.Module]:
    """The elements of the outermost module lists that have at least two, for example a transformer's layers."""
    found: list[nn.Module] = []
    for child in module.children():
        found += list(child) if isinstance(child, nn.ModuleList) and len(child) > 1 else repeated_blocks(child)
    return found


def recompute_activations(module: nn.Module) -> None:
    """Have each block keep its inputs only and compute itself again in the backward pass (Chen et al., arXiv:1604.06174).

    A third more computing for memory that grows with one block's activations instead of all blocks'. Gradients are the same
    to the bit.
    """
    for block in repeated_blocks(module):
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]
