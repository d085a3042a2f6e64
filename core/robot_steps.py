"""What only a robot's supervisor knows of each step of an episode: who held control, what was asked for, what limits made of it.

Letters: T environment steps, A action dimension. A simulated episode has none of this.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import NonFiniteError, SpecError


class InterventionPhase(enum.IntEnum):
    """What the operator of a step was doing (RaC, arXiv 2509.07953). Stored as int8."""

    NONE = 0
    RECOVERY = 1
    """Back to where the policy knows its way."""
    CORRECTION = 2
    """How the task is done."""


@dataclass(frozen=True, kw_only=True)
class RobotSteps:
    """Per-step records beside those of an ``Episode``. Arrays are read-only.

    Example:
        T=30, one operator: requested_action float32 [30, 7], lease int32 [30] with 4 where ada held control under fence 4,
        operator int16 [30] with 0 there and -1 elsewhere, operators ("ada",).
    """

    requested_action: NDArray[np.float32]
    """[T, A]: what was asked of the safety filter, by whoever acted, in action units."""
    clip_mask: NDArray[np.int32]
    """[T], bits of ``robot_drivers.safety_filter.Clip``: which limits changed it; 0 where none did."""
    phase: NDArray[np.int8]
    """[T], values of InterventionPhase."""
    lease: NDArray[np.int32]
    """[T], fence number of the operator's lease; -1 where no operator acted."""
    operator: NDArray[np.int16]
    """[T], index into ``operators``; -1 where no operator acted."""
    plan_age_s: NDArray[np.float32]
    """[T]: how long ago the action had reached the supervisor when it began; NaN where no policy's action was played."""
    tick_late_s: NDArray[np.float32]
    """[T]: the supervisor's worst tick of the step, behind its deadline."""
    frame_age_s: NDArray[np.float32]
    """[T+1]: age of the oldest image of each observation when it was taken down."""
    operators: tuple[str, ...]
    checkpoint: str
    """As the supervisor and the console were told; empty where no policy was loaded."""
    limits_digest: str
    """Of the limits that the supervisor enforced."""

    def checked(self, *, num_steps: int, action_dim: int, who: str) -> RobotSteps:
        """These records, with read-only arrays, after a look at shapes, dtypes and references.

        Raises:
            SpecError: if an array has another shape or dtype than T and A ask for, or an operator is not listed.
            NonFiniteError: if a requested action, a lateness or a frame's age is not finite.
        """
        shapes: dict[str, tuple[tuple[int, ...], type]] = {
            "requested_action": ((num_steps, action_dim), np.float32),
            "clip_mask": ((num_steps,), np.int32),
            "phase": ((num_steps,), np.int8),
            "lease": ((num_steps,), np.int32),
            "operator": ((num_steps,), np.int16),
            "plan_age_s": ((num_steps,), np.float32),
            "tick_late_s": ((num_steps,), np.float32),
            "frame_age_s": ((num_steps + 1,), np.float32),
        }
        views: dict[str, Any] = {}
        for name, (shape, dtype) in shapes.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != dtype:
                raise SpecError(f"{who}: robot.{name} is {array.dtype} {array.shape}; expected {np.dtype(dtype)} {shape}")
            views[name] = array.view()
            views[name].flags.writeable = False
        for name in ("requested_action", "tick_late_s", "frame_age_s"):
            bad = np.argwhere(~np.isfinite(views[name]))
            if bad.size:
                raise NonFiniteError(f"{who}: robot.{name}{bad[0].tolist()} is not finite")
        if ((self.operator < -1) | (self.operator >= len(self.operators))).any():
            raise SpecError(f"{who}: robot.operator holds {np.unique(self.operator).tolist()}; operators are {self.operators}")
        if not set(np.unique(self.phase).tolist()) <= {int(phase) for phase in InterventionPhase}:
            raise SpecError(f"{who}: robot.phase holds {np.unique(self.phase).tolist()}; known are 0, 1, 2")
        return RobotSteps(**views, operators=self.operators, checkpoint=self.checkpoint, limits_digest=self.limits_digest)
