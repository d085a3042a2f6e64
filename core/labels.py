"""What a value model says of an episode. Labels live beside experience, keyed by episode and value version."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.errors import NonFiniteError, SpecError
from core.ids import EpisodeId


class Indicator(enum.IntEnum):
    """RECAP's advantage indicator of a training example, as the policy is told it. Stored as int8."""

    ABSENT = -1
    """Dropped (30 % of the time in training): the unconditional branch of classifier-free guidance."""
    NEGATIVE = 0
    POSITIVE = 1


class LabelKey(NamedTuple):
    """Identifies one labelling; writing the same key twice is the same fact said twice."""

    episode_id: EpisodeId
    value_version: int


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Values and advantages of one episode of T steps under one value version.

    Whether an advantage is *positive* is not stored: it depends on the threshold of the iteration that uses it
    (a per-task quantile), see ``value_service.advantages``.

    Example:
        T=2, V in [-1, 0]: value [-0.6, -0.3, 0.0], return_ [-0.5, -0.25], advantage [0.05, 0.05].
    """

    key: LabelKey
    value: NDArray[np.float32]
    """[T+1], V(o_t) in [-1, 0]; higher is better."""
    return_: NDArray[np.float32]
    """[T], Monte-Carlo return in the same unit as value; NaN throughout where the episode was truncated."""
    advantage: NDArray[np.float32]
    """[T], N-step advantage in the same unit."""
    target: str
    """How the value target was made, for example ``"recap c_fail=1.0 t_ref=80"``."""

    def __post_init__(self) -> None:
        for field in fields(self):
            array = getattr(self, field.name)
            if isinstance(array, np.ndarray):
                object.__setattr__(self, field.name, _read_only(array.astype(np.float32, copy=True)))
        steps = len(self.advantage)
        if self.value.shape != (steps + 1,) or self.return_.shape != (steps,):
            raise SpecError(
                f"labels of episode {self.key.episode_id}: value {self.value.shape}, return_ {self.return_.shape}, "
                f"advantage {self.advantage.shape}; expected ({steps + 1},), ({steps},), ({steps},)"
            )
        for name in ("value", "advantage"):
            bad = np.flatnonzero(~np.isfinite(getattr(self, name)))
            if bad.size:
                raise NonFiniteError(f"labels of episode {self.key.episode_id}: {name}[{bad[0]}] is not finite")

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.advantage)


def _read_only(array: NDArray[np.float32]) -> NDArray[np.float32]:
    array.flags.writeable = False
    return array
