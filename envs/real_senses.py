"""What a real robot shows: the images of its cameras and the state of its arms, as one Observation under one specification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from core.errors import WorkerError
from core.experience import Observation
from core.specs import ActionSpec, CameraSpec, EnvSpec, StateSpec
from robot_drivers import messages as m
from robot_drivers.cameras.camera import Frame
from robot_drivers.cameras.camera_set import CameraSet, fresh_age_s
from robot_drivers.safety_filter import ACTION_DIM

_STATE_NAMES = ("x", "y", "z", "qw", "qx", "qy", "qz", "gripper")
_STATE_UNITS = ("m", "m", "m", "1", "1", "1", "1", "1")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """An observation, and how old its images were when it was taken down."""

    observation: Observation
    frame_age_s: float
    """Of the oldest image."""


def robot_env_spec(welcome: m.Welcome, cameras: tuple[CameraSpec, ...]) -> EnvSpec:
    """The specification of a supervised robot: its arms one after the other, poses in their base frames.

    Example:
        One arm called "arm": state ("arm.x", ..., "arm.gripper") [8], action ("arm.dx", ..., "arm.gripper") [7].
    """
    return EnvSpec(
        cameras=cameras,
        state=StateSpec(
            names=tuple(f"{arm}.{name}" for arm in welcome.arms for name in _STATE_NAMES),
            units=_STATE_UNITS * len(welcome.arms),
        ),
        action=ActionSpec(
            names=welcome.action_names,
            units=welcome.action_units,
            low=welcome.action_low,
            high=welcome.action_high,
            control_hz=welcome.control_hz,
        ),
    )


class RobotSenses:
    """Joins what the cameras and the supervisor say.

    Consumes: frames, a Status. Produces: Observations. Waits for: nothing. Example::

        fresh = senses.fresh(status)  # raises StaleFrameError: the policy has nothing to act on
        seen = senses.latest(status, now_s=clock.monotonic_s(), told=None)  # for the record, whatever there is
    """

    def __init__(self, cameras: CameraSet, spec: EnvSpec) -> None:
        """``cameras``: started; frames of another size than in ``spec`` are scaled."""
        self._cameras = cameras
        self._spec = spec

    def fresh(self, status: m.Status, *, told: Sequence[float] | None) -> Observation:
        """What a policy may act on, dated by the oldest of what is in it.

        Args:
            status: of the supervisor, the newest.
            told: [A], the last executed action; stands in for a gripper that is not read back.

        Raises:
            StaleFrameError: if a camera has no fresh frame.
        """
        frames = self._cameras.read_fresh(fresh_age_s(self._spec.action.control_hz))
        time_s = min([status.time_monotonic_s, *(frame.capture_monotonic_s for frame in frames.values())])
        return self._observation(frames, status, time_s, told)

    def latest(self, status: m.Status, *, now_s: float, time_s: float, told: Sequence[float] | None) -> Seen:
        """What there is, however old, to be recorded under ``time_s``; arguments as of :meth:`fresh`.

        Raises:
            WorkerError: if a camera never gave a frame.
        """
        frames = self._cameras.latest()
        age_s = max((frame.age_s(now_s) for frame in frames.values() if frame is not None), default=0.0)
        return Seen(observation=self._observation(frames, status, time_s, told), frame_age_s=age_s)

    def _observation(
        self, frames: Mapping[str, Frame | None], status: m.Status, time_s: float, told: Sequence[float] | None
    ) -> Observation:
        state: list[float] = []
        for index, arm in enumerate(status.arms):
            opening = arm.gripper_opening
            if opening is None:  # not read back: what it was last told
                opening = 1.0 if told is None else told[ACTION_DIM * (index + 1) - 1]
            sign = -1.0 if arm.quaternion_wxyz[0] < 0 else 1.0  # q and -q are one rotation
            state += [*arm.position_m, *(sign * entry for entry in arm.quaternion_wxyz), opening]
        return Observation(
            images={spec.name: _scaled(frames[spec.name], spec) for spec in self._spec.cameras},
            state=np.array(state, np.float32),
            time_s=time_s,
        )


def _scaled(frame: Frame | None, spec: CameraSpec) -> NDArray[np.uint8]:
    size = (spec.width_px, spec.height_px)
    if frame is None:
        raise WorkerError(f"camera {spec.name!r} has no frame; reset waits for it")
    if frame.image.shape[:2] == size[::-1]:
        return frame.image
    return cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
