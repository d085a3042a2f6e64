"""A policy's next actions, each with its time. What is late is dropped; nothing is ever played faster to catch up."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass

from robot_drivers.messages import ProposeChunk
from robot_drivers.states import RefusedError


@dataclass(frozen=True, kw_only=True)
class PlannedAction:
    """One action of a chunk, on the supervisor's clock."""

    action: tuple[float, ...]
    """[A]."""
    start_s: float
    expire_s: float
    received_s: float
    observation_s: float
    """When its observation was taken, by the sender's word."""
    observation_sequence: int
    checkpoint: str


class ActionPlan:
    """The chunk that is being played; a new one replaces what is left of it."""

    def __init__(self) -> None:
        self._actions: deque[PlannedAction] = deque()
        self.num_dropped = 0
        """Late actions so far."""

    def __len__(self) -> int:
        return len(self._actions)

    def replace(self, chunk: ProposeChunk, now_s: float, *, action_dim: int) -> None:
        """Take a chunk in place of what is left.

        Raises:
            RefusedError: if its lists do not fit together.
        """
        lengths = {len(chunk.actions), len(chunk.start_after_s), len(chunk.expire_after_s)}
        if len(lengths) != 1:
            raise RefusedError(
                f"a chunk of {len(chunk.actions)} actions with {len(chunk.start_after_s)} starts and {len(chunk.expire_after_s)} "
                "expiries; expected one of each an action"
            )
        if any(len(action) != action_dim for action in chunk.actions):
            raise RefusedError(f"actions of {sorted({len(a) for a in chunk.actions})} entries; this robot takes {action_dim}")
        starts = chunk.start_after_s
        if any(later <= earlier for earlier, later in itertools.pairwise(starts)):
            raise RefusedError(f"actions start after {starts} s; expected increasing times")
        if any(expire <= start for start, expire in zip(starts, chunk.expire_after_s, strict=True)):
            raise RefusedError(f"actions expire after {chunk.expire_after_s} s, before they start after {starts} s")
        self._actions = deque(
            PlannedAction(
                action=action,
                start_s=now_s + start,
                expire_s=now_s + expire,
                received_s=now_s,
                observation_s=now_s - chunk.observation_age_s,
                observation_sequence=chunk.observation_sequence,
                checkpoint=chunk.checkpoint,
            )
            for action, start, expire in zip(chunk.actions, starts, chunk.expire_after_s, strict=True)
        )

    def due(self, now_s: float) -> PlannedAction | None:
        """The action that begins now, once; earlier ones that never began are dropped with the expired."""
        found: PlannedAction | None = None
        while self._actions and self._actions[0].start_s <= now_s:
            self.num_dropped += found is not None
            found = self._actions.popleft()
        if found is not None and found.expire_s <= now_s:
            self.num_dropped += 1
            return None
        return found

    def clear(self) -> None:
        """Drop all of it."""
        self._actions.clear()
