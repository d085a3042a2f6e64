"""How WVM cuts its windows: the clip that it learns from, turned around or held now and then, and the chunks that it labels with.

Hops 5 and 8 of the tour, inside models/wvm.py. Letters: h frames a chunk; n values predicted a chunk (h, or h - 1); F frames.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from core.specs import EnvSpec
from core.windows import WindowSpec
from models.noise import uniform
from models.wvm_config import WvmConfig


def first_frame(config: WvmConfig) -> int:
    """Index, in clip frames from the present, of the earliest frame that is read: at or before -h."""
    return -(config.chunk_frames + config.num_chained_chunks * config.num_predicted)


def window_spec(config: WvmConfig, env_spec: EnvSpec) -> WindowSpec:
    """Frames from :func:`first_frame` to h after the present, and the values of the clip, -h .. h."""
    step, h = env_spec.action.steps(config.frame_interval_s), config.chunk_frames
    return WindowSpec(
        image_offsets=tuple(step * frame for frame in range(first_frame(config), h + 1)),
        value_offsets=tuple(step * frame for frame in range(-h, h + 1)),
    )


def augmented_order(count: int, config: WvmConfig, generator: torch.Generator) -> NDArray[np.int64]:
    """Which frame of a clip of 2h + 1 is shown where: as recorded, backwards, or the present one throughout (Sec. 2.5).

    The values go with the frames, so "labels re-computed" is the same reordering.

    Returns:
        [count, 2h + 1], values 0 .. 2h.
    """
    h = config.chunk_frames
    as_recorded = np.arange(2 * h + 1)
    draw = uniform((count, 2), generator).cpu().numpy()
    is_rewound = draw[:, 0] < config.rewind_ratio
    is_plateau = is_rewound & (draw[:, 1] < config.plateau_ratio)
    order = np.where(is_rewound[:, None], as_recorded[::-1], as_recorded)
    return np.where(is_plateau[:, None], h, order)


def random_prefix(prefix: torch.Tensor, config: WvmConfig, generator: torch.Generator) -> torch.Tensor:
    """Replace prefixes [B] in [-1, 1] by uniform ones with probability p (Sec. 2.4)."""
    draw = uniform((len(prefix), 2), generator).to(prefix.device)
    return torch.where(draw[:, 0] < config.prefix_randomization, 2 * draw[:, 1] - 1, prefix)


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """The chunks that the values of B windows are made of; windows of neighbouring steps share most of them.

    A value is the mean over J chunks that hold its frame and end up to n - 1 frames later; each is the last of a chain, whose
    every chunk gives the next its prefix.
    """

    frames: NDArray[np.uint8]
    """[D, H, W, 3], the distinct ones."""
    clips: NDArray[np.int64]
    """[U, 1 + h] -> 0 .. D - 1, of the U distinct ones: the frame before the chunk, and the chunk."""
    window: NDArray[np.int64]
    """[U], a window that it occurs in."""
    of_link: NDArray[np.int64]
    """[links of a chain, B, J] -> 0 .. U - 1."""
    place: tuple[int, ...]
    """[J], which of the n predicted values is the present frame's."""

    @classmethod
    def cut(
        cls, frames: NDArray[np.uint8], instructions: Sequence[str], steps: Sequence[Sequence[Hashable]], config: WvmConfig
    ) -> Chunks:
        """Find the distinct chunks of windows.

        Args:
            frames: uint8 [B, F, H, W, 3] from :func:`first_frame` on.
            instructions: [B]; equal frames under another instruction are another chunk.
            steps: [B][F], where each frame is from: frames of one step, and neighbours, are compared (not trusted to be equal).
            config: says how chunks overlap.
        """
        h, n = config.chunk_frames, config.num_predicted
        ends = np.arange(0, n, config.overlap_stride)
        links = np.arange(-config.num_chained_chunks, 1)
        start = ends[None, :] + n * links[:, None] - h - first_frame(config)
        distinct, number = _distinct(frames, steps)
        known: dict[tuple[bytes, str], tuple[int, int, int]] = {}
        of_link = np.zeros((len(links), len(frames), len(ends)), np.int64)
        for (link, end), first in np.ndenumerate(start):
            for b, instruction in enumerate(instructions):
                key = (number[b, first : first + h + 1].tobytes(), instruction)
                of_link[link, b, end] = known.setdefault(key, (len(known), b, int(first)))[0]
        return cls(
            frames=distinct,
            clips=np.stack([number[b, first : first + h + 1] for _, b, first in known.values()]),
            window=np.array([b for _, b, _ in known.values()]),
            of_link=of_link,
            place=tuple((n - 1 - ends).tolist()),
        )

    def frame_names(self) -> list[bytes]:
        """[D], a digest of each distinct frame."""
        return [hashlib.sha256(np.ascontiguousarray(frame).data).digest() for frame in self.frames]


def _distinct(frames: NDArray[np.uint8], steps: Sequence[Sequence[Hashable]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The distinct frames [D, H, W, 3] of windows [B, F, H, W, 3], and [B, F] -> 0 .. D - 1.

    Comparing a frame with the one it probably equals takes a fifth of the time of a digest of every frame.
    """
    found: list[NDArray[np.uint8]] = []
    of_step: dict[Hashable, int] = {}
    number = np.zeros(frames.shape[:2], np.int64)
    for b, f in np.ndindex(number.shape):
        frame, step = frames[b, f], steps[b][f]
        likely = [of_step[step]] if step in of_step else []
        likely += [number[b, f - 1]] if f else []  # past the ends of an episode its first or last frame repeats
        same = next((other for other in likely if np.array_equal(frame, found[other])), len(found))
        if same == len(found):
            found.append(frame)
        number[b, f] = of_step[step] = same
    return np.stack(found), number
