"""Eight-bit products for the large linear layers of a trained network: Hopper's double rate, at a price in accuracy.

Weights are stored as float8 e4m3 with one scale an output channel; inputs are converted as they come, with one scale a token.
Sums are kept in float32 by the product itself. Nothing is calibrated, so nothing depends on data.
"""

from __future__ import annotations

import torch
from torch import nn

FP8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(FP8).max
_MULTIPLE = 16
"""Of the sizes that the product takes."""

FEED_FORWARD = ("ff", "ffn")
ATTENTION = ("attn1", "attn2")


class Fp8Linear(nn.Module):
    """Computes what ``linear`` does, in eight bits; its output has the input's precision (bfloat16 on a GPU)."""

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = _quantized(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale.t().contiguous())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().to(torch.bfloat16))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]."""
        rows, scale = _quantized(tokens.flatten(0, -2))
        product = torch._scaled_mm(  # noqa: SLF001  (torch has no public name for it)
            rows,
            self.weight.t(),
            scale_a=scale,
            scale_b=self.scale,
            bias=self.bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=rows.is_cuda,
        )
        return product.to(tokens.dtype).unflatten(0, tokens.shape[:-1])


def _quantized(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, D] -> the same in eight bits, and the scale [N, 1], float32, that gives it back."""
    scale = rows.abs().amax(dim=1, keepdim=True).float().clamp_min(1e-12) / _LARGEST
    return (rows.float() / scale).clamp(-_LARGEST, _LARGEST).to(FP8), scale


def swap_to_fp8(network: nn.Module, within: tuple[str, ...]) -> int:
    """Replace linear layers in place, where their sizes allow it.

    Args:
        network: of diffusers' blocks.
        within: names of submodules, for example :data:`FEED_FORWARD`; others stay as they are.

    Returns:
        How many were replaced.
    """
    chosen = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
        and not set(within).isdisjoint(name.split("."))
        and module.in_features % _MULTIPLE == module.out_features % _MULTIPLE == 0
    ]
    for name, linear in chosen:
        parent, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(parent), attribute, Fp8Linear(linear))
    return len(chosen)
