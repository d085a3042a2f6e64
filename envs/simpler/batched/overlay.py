"""Photographs behind the robot and the objects of many images at once; :mod:`envs.simpler.overlay` with a leading dimension."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envs.simpler.overlay import fit_overlay


class BatchedOverlay:
    """Puts one of several photographs behind the robot and the objects of each environment.

    Args:
        photos: [h, w, 3] uint8 RGB each, any size.
        height_px: of the camera's image.
        width_px: of the camera's image.
        device: of the images.
    """

    def __init__(self, photos: Sequence[NDArray[np.uint8]], *, height_px: int, width_px: int, device: torch.device) -> None:
        fitted = [fit_overlay(photo, height_px=height_px, width_px=width_px) for photo in photos]
        self.photos = torch.from_numpy(np.stack(fitted)).to(device)
        """[P, height_px, width_px, 3] uint8."""
        self._is_kept = torch.zeros(1, dtype=torch.bool, device=device)

    def keep(self, ids: set[int]) -> None:
        """Say which segmentation ids stay as rendered: ``per_scene_id``, the same in all environments."""
        # One entry more than the largest id: what any id beyond them maps to.
        self._is_kept = torch.zeros(max(ids) + 2, dtype=torch.bool, device=self.photos.device)
        self._is_kept[list(ids)] = True

    def apply(self, rgb: Tensor, segmentation: Tensor, shown: Tensor) -> Tensor:
        """Composite.

        Args:
            rgb: [N, H, W, 3] uint8 as rendered.
            segmentation: [N, H, W] integers, the id of what each pixel shows; 0 for nothing.
            shown: [N], index of each environment's photograph.

        Returns:
            [N, H, W, 3] uint8.
        """
        is_kept = self._is_kept[segmentation.long().clamp(max=len(self._is_kept) - 1)]
        return torch.where(is_kept[..., None], rgb, self.photos[shown])
