"""What the page may send on its command socket, and how it becomes a request to a supervisor.

Checked against these annotations; a page that sends anything else is disconnected. Times are the page's own clock: only their
differences count (:class:`console.page_clock.PageClock`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from core.errors import RecapError
from robot_drivers import messages as m

Finite = Annotated[float, Field(allow_inf_nan=False)]


class BadPageError(RecapError, ValueError):
    """A page sent what no page of ours sends."""


@dataclass(frozen=True, kw_only=True)
class PageMessage:
    """Any of them."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True)
class Ping(PageMessage):
    """Heartbeat, answered at once by ``{"type": "pong", "t": t}``."""

    type: Literal["ping"] = "ping"
    t: Finite
    """Page's time, s."""


@dataclass(frozen=True, kw_only=True)
class Asked(PageMessage):
    """Answered by ``{"type": "reply", "id": ..., "ok": ...}``."""

    id: m.Count
    robot: m.Name


@dataclass(frozen=True, kw_only=True)
class Press(Asked):
    """The hold key went down."""

    type: Literal["press"] = "press"
    phase: m.Phase
    forced: bool = False


@dataclass(frozen=True, kw_only=True)
class Do(Asked):
    """One of the plain acts."""

    type: Literal["do"] = "do"
    act: Literal["arm", "disarm", "hand_back", "home"]


@dataclass(frozen=True, kw_only=True)
class Clear(Asked):
    """Leave a latched stop or fault."""

    type: Literal["clear"] = "clear"
    act: Literal["reset", "acknowledge"]
    reason: Annotated[str, Field(min_length=1, max_length=400)]
    confirmed: bool


@dataclass(frozen=True, kw_only=True)
class SetLabel(Asked):
    """How an episode went; ``none`` takes it back."""

    type: Literal["label"] = "label"
    episode_id: m.Name
    label: m.Label


@dataclass(frozen=True, kw_only=True)
class StopAll(PageMessage):
    """Everything stands. Answered by ``{"type": "stopped", ...}`` which says what each supervisor said."""

    type: Literal["stop"] = "stop"
    reason: m.Text = ""


@dataclass(frozen=True, kw_only=True)
class Input(PageMessage):
    """While the hold key is down; not answered."""

    type: Literal["input"] = "input"
    robot: m.Name
    fence: m.Count
    sequence: m.Count
    t: Finite
    """Page's time at which keys and sticks were read, s."""
    twist: Annotated[tuple[tuple[Finite, Finite, Finite, Finite, Finite, Finite], ...], Field(min_length=1, max_length=8)]
    gripper: Annotated[tuple[Finite | None, ...], Field(min_length=1, max_length=8)]
    phase: m.Phase


@dataclass(frozen=True, kw_only=True)
class Lead(PageMessage):
    """As :class:`Input`, but the motion is the leader arm's, which the server reads."""

    type: Literal["lead"] = "lead"
    robot: m.Name
    fence: m.Count
    sequence: m.Count
    t: Finite
    """Page's time at which the hold key was seen down, s."""
    arm: Annotated[int, Field(ge=0, le=7)]
    """Which of the robot's arms follows."""
    scale: Annotated[float, Field(gt=0, le=1)]
    """Of the leader's motion, to be precise where it matters."""
    phase: m.Phase


@dataclass(frozen=True, kw_only=True)
class Release(PageMessage):
    """The hold key came up; not answered."""

    type: Literal["release"] = "release"
    robot: m.Name
    fence: m.Count


FromPage = Ping | Press | Do | Clear | SetLabel | StopAll | Input | Lead | Release
_ADAPTER: TypeAdapter[FromPage] = TypeAdapter(Annotated[FromPage, Field(discriminator="type")])


def parse(text: str) -> FromPage:
    """Check one message.

    Raises:
        BadPageError: names the field that is wrong.
    """
    try:
        return _ADAPTER.validate_python(json.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "message"
        raise BadPageError(f"{where}: {first['msg']}; expected a message as console.page_messages lists them") from None
    except (ValueError, RecursionError) as error:
        raise BadPageError(f"{len(text)} characters that are no JSON ({error}); expected one object") from None
