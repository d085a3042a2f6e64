"""How ViVa writes states, values and images into latent frames, and reads them back; each pair is inverse.

Hops 5 and 8 of the tour, inside models/viva.py. C x h x w is the shape of a latent frame.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


def repeat_to_frame(vector: torch.Tensor, latent_shape: tuple[int, int, int]) -> torch.Tensor:
    """Fill a frame with copies of a vector, channel-major; the last copy is cut off where the frame ends.

    Args:
        vector: [B, S].
        latent_shape: (C, h, w) with C h w >= S.

    Returns:
        [B, C, h, w].

    Example:
        >>> repeat_to_frame(torch.tensor([[1.0, 2.0]]), (1, 1, 3)).tolist()
        [[[[1.0, 2.0, 1.0]]]]
    """
    size = int(np.prod(latent_shape))
    copies = -(-size // vector.shape[1])
    return vector.repeat(1, copies)[:, :size].reshape(-1, *latent_shape)


def average_copies(frame: torch.Tensor, length: int) -> torch.Tensor:
    """Read a vector out of :func:`repeat_to_frame`: the mean of its complete copies.

    Args:
        frame: [B, C, h, w].
        length: S.

    Returns:
        [B, S].
    """
    flat = frame.flatten(1)
    complete = flat.shape[1] // length
    return flat[:, : complete * length].unflatten(1, (complete, length)).mean(dim=1)


def value_to_frame(value: torch.Tensor, latent_shape: tuple[int, int, int]) -> torch.Tensor:
    """V [B] in [-1, 0] -> [B, C, h, w], constant: z = -2V - 1."""
    return (-2 * value - 1).reshape(-1, 1, 1, 1).expand(-1, *latent_shape)


def frame_to_value(frame: torch.Tensor) -> torch.Tensor:
    """[B, C, h, w] -> V [B]: the inverse of :func:`value_to_frame` on the frame's mean, clamped to [-1, 0]."""
    return (-(frame.flatten(1).mean(dim=1) + 1) / 2).clamp(-1, 0)


def letterbox(images: NDArray[np.uint8], height_px: int, width_px: int) -> NDArray[np.uint8]:
    """Fit images into another size, aspect kept, black bars around.

    Args:
        images: uint8 [N, H, W, 3].
        height_px: H'.
        width_px: W'.

    Returns:
        uint8 [N, H', W', 3].
    """
    _, height, width, _ = images.shape
    if (height, width) == (height_px, width_px):
        return images
    scale = min(height_px / height, width_px / width)
    inner = (min(height_px, round(height * scale)), min(width_px, round(width * scale)))
    top, left = (height_px - inner[0]) // 2, (width_px - inner[1]) // 2
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    sized = nn.functional.interpolate(pixels, size=inner, mode="bilinear", antialias=True).round().to(torch.uint8)
    boxed = np.zeros((len(images), height_px, width_px, 3), np.uint8)
    boxed[:, top : top + inner[0], left : left + inner[1]] = sized.permute(0, 2, 3, 1).numpy()
    return boxed
