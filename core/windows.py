"""Windows: the slices of episodes that models read. The sampler and the labeler make them, models declare them.

Letters: B batch, F image offsets, G state offsets, H action horizon, A action dimension, S state dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from core.experience import Episode, Observation, Source, imitation_target
from core.ids import EpisodeId


@dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """Which indices a model reads around a step t, in environment steps; indices are clipped to 0..T.

    Example:
        VideoVLA tiny: image_offsets (0, 6), state_offsets (0,), action_horizon 6.
    """

    image_offsets: tuple[int, ...] = (0,)
    state_offsets: tuple[int, ...] = (0,)
    action_horizon: int = 0
    value_offsets: tuple[int, ...] = ()
    """Of the value targets that a value model learns from, [B, O]; empty: one a window, at t itself, [B]."""


@dataclass(frozen=True, kw_only=True)
class WindowBatch:
    """B windows."""

    images: Mapping[str, NDArray[np.uint8]]
    """Camera name -> [B, F, H, W, 3]."""
    state: NDArray[np.float32]
    """[B, G, S]."""
    action: NDArray[np.float32]
    """[B, H, A], what to imitate (see core.experience.imitation_target), in ActionSpec units; zeros where padded."""
    action_is_pad: NDArray[np.bool_]
    """[B, H], true past the end of the episode and on hold steps."""
    instruction: tuple[str, ...]
    episode_id: tuple[EpisodeId, ...]
    t: NDArray[np.int64]
    """[B], environment index of the window."""

    def __len__(self) -> int:
        return len(self.instruction)


class ActedSteps(Protocol):
    """The part of an Episode that action windows are cut from; a store reads it without the images."""

    @property
    def executed_action(self) -> NDArray[np.float32]:
        """[T, A]."""
        ...

    @property
    def supervisor_action(self) -> NDArray[np.float32]:
        """[T, A], NaN rows where there is none."""
        ...

    @property
    def source(self) -> NDArray[np.int8]:
        """[T], values of Source."""
        ...

    @property
    def num_steps(self) -> int:
        """T."""
        ...


def clipped_indices(t: NDArray[np.int64], offsets: tuple[int, ...], last: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices ``t + offset`` clipped to 0..last.

    Args:
        t: [B].
        offsets: F offsets.
        last: [B], the last valid index (T for observations).

    Returns:
        [B, F].

    Example:
        >>> clipped_indices(np.array([0, 4]), (-1, 0, 2), np.array([5, 5])).tolist()
        [[0, 0, 2], [3, 4, 5]]
    """
    wanted = t[:, None] + np.asarray(offsets, dtype=np.int64)[None, :]
    return np.minimum(np.maximum(wanted, 0), last[:, None])  # a third of the time of np.clip, which is felt in batches


def episode_windows(episode: Episode, t: NDArray[np.int64], spec: WindowSpec) -> WindowBatch:
    """Cut windows out of one episode that is in memory.

    Args:
        episode: T steps.
        t: [B], each in 0..T.
        spec: what to read.
    """
    last = np.full(len(t), episode.num_steps, dtype=np.int64)
    image_index = clipped_indices(t, spec.image_offsets, last)
    state_index = clipped_indices(t, spec.state_offsets, last)
    action, is_pad = action_windows(episode, t, spec.action_horizon)
    return WindowBatch(
        images={name: frames[image_index] for name, frames in episode.images.items()},
        state=episode.state[state_index],
        action=action,
        action_is_pad=is_pad,
        instruction=(episode.instruction,) * len(t),
        episode_id=(episode.episode_id,) * len(t),
        t=t,
    )


def action_windows(episode: ActedSteps, t: NDArray[np.int64], horizon: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Imitation targets ``t..t+horizon-1`` and which of them are padding; see :class:`WindowBatch`."""
    target = imitation_target(episode.executed_action, episode.supervisor_action)
    index = t[:, None] + np.arange(horizon)[None, :]
    inside = np.minimum(index, episode.num_steps - 1)
    is_pad = (index >= episode.num_steps) | (episode.source[inside] == Source.HOLD)
    return np.where(is_pad[..., None], np.float32(0), target[inside]).astype(np.float32), is_pad


def observation_windows(observations: tuple[Observation, ...], instructions: tuple[str, ...]) -> WindowBatch:
    """One window an observation, with only the present in it; what a policy is given when it acts."""
    cameras = observations[0].images
    count = len(observations)
    return WindowBatch(
        images={name: np.stack([o.images[name] for o in observations])[:, None] for name in cameras},
        state=np.stack([o.state for o in observations])[:, None],
        action=np.zeros((count, 0, 0), np.float32),
        action_is_pad=np.zeros((count, 0), bool),
        instruction=instructions,
        episode_id=(EpisodeId(""),) * count,
        t=np.zeros(count, np.int64),
    )
