"""What an environment or a robot shows and accepts: cameras, state, actions; each with a digest.

A policy is trained for one ``EnvSpec``; checkpoints, episodes and results carry its digest, and whoever joins two
of them compares digests through :func:`require_same_spec`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import SpecError
from core.ids import digest


@dataclass(frozen=True, kw_only=True)
class CameraSpec:
    """One camera: images are uint8 [height, width, 3], RGB."""

    name: str
    height_px: int
    width_px: int


@dataclass(frozen=True, kw_only=True)
class StateSpec:
    """Proprioception: float32 [S], one name and one unit an entry ("rad", "m", "1")."""

    names: tuple[str, ...]
    units: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.units):
            raise SpecError(f"StateSpec has {len(self.names)} names but {len(self.units)} units")

    @property
    def dim(self) -> int:
        """S, the number of entries."""
        return len(self.names)


@dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """Actions: float32 [A] in the environment's own units, with the bounds that are accepted.

    Example:
        SIMPLER's Google robot: names ("dx", "dy", "dz", "rx", "ry", "rz", "gripper"), units
        ("m", "m", "m", "rad", "rad", "rad", "1"), control_hz 3.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    control_hz: float

    def __post_init__(self) -> None:
        lengths = {len(self.names), len(self.units), len(self.low), len(self.high)}
        if len(lengths) != 1:
            raise SpecError(f"ActionSpec fields have different lengths: {self}")
        if not self.control_hz > 0:
            raise SpecError(f"control_hz must be positive, got {self.control_hz}")

    @property
    def dim(self) -> int:
        """A, the number of entries."""
        return len(self.names)

    def steps(self, duration_s: float) -> int:
        """Convert a duration to environment steps, at least one.

        Example:
            >>> spec = ActionSpec(names=("x",), units=("m",), low=(-1.0,), high=(1.0,), control_hz=3.0)
            >>> spec.steps(1.0), spec.steps(0.1)
            (3, 1)
        """
        return max(1, round(duration_s * self.control_hz))


@dataclass(frozen=True, kw_only=True)
class EnvSpec:
    """All that a policy must agree on with whoever runs it."""

    cameras: tuple[CameraSpec, ...]
    state: StateSpec
    action: ActionSpec

    def to_json(self) -> dict[str, Any]:
        """As a JSON-like record; :meth:`from_json` is the exact inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> EnvSpec:
        """Rebuild from :meth:`to_json`, also after a trip through JSON text (lists for tuples)."""

        def tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
            return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}

        return cls(
            cameras=tuple(CameraSpec(**camera) for camera in record["cameras"]),
            state=StateSpec(**tuples(record["state"])),
            action=ActionSpec(**tuples(record["action"])),
        )

    @property
    def digest(self) -> str:
        """16 hex digits; equal exactly when the specifications are."""
        return digest(self.to_json())


def require_same_spec(found: EnvSpec, expected: EnvSpec, *, what: str) -> None:
    """Refuse a mismatch with one message that names the first differing field.

    Args:
        found: the specification of the thing at hand (a checkpoint, an episode).
        expected: the specification of where it is to be used.
        what: names the thing in the message, for example ``"checkpoint runs/a/policy_3"``.

    Raises:
        SpecError: if they differ.
    """
    if found == expected:
        return
    for part in ("cameras", "state", "action"):
        left, right = getattr(found, part), getattr(expected, part)
        if left != right:
            raise SpecError(
                f"{what} was made for another {part} specification: it has {left}, here {right} is expected. "
                "Use a checkpoint made for this environment, or set the environment (camera size, task family) to match."
            )
