"""What the supervisor and its clients (console, robot actor) say to each other; :mod:`robot_drivers.protocol` carries it.

Every message is a frozen record; what arrives is checked against these annotations and nothing else is let in. Times between
processes are *durations after receipt*: monotonic clocks of two hosts, or of two boots, cannot be compared. Letters: N arms,
A = 7 N action entries (per arm dx, dy, dz [m], rx, ry, rz [rad], gripper opening 0 closed .. 1 open), H actions in a chunk.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from robot_drivers.states import Role, State

VERSION = 2
"""Of the protocol; grows with every change that an older peer would misread."""

Name = Annotated[str, Field(min_length=1, max_length=80)]
Text = Annotated[str, Field(max_length=400)]
Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Actions = Annotated[tuple[tuple[float, ...], ...], Field(min_length=1, max_length=256)]


class Phase(enum.StrEnum):
    """What an operator is doing (RaC, arXiv 2509.07953)."""

    NONE = "none"
    RECOVERY = "recovery"
    """Back to where the policy knows its way."""
    CORRECTION = "correction"
    """How the task is done."""


class Label(enum.StrEnum):
    """How an episode went, in a person's words. NONE takes a label back."""

    NONE = "none"
    SUCCESS = "success"
    FAILURE = "failure"
    ABORT = "abort"


@dataclass(frozen=True, kw_only=True)
class Message:
    """Any message. Unknown fields are refused."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


# --- from a client -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Hello(Message):
    """First on a connection. The token says what the client may do at most."""

    type: Literal["hello"] = "hello"
    version: int = VERSION
    token: Annotated[str, Field(max_length=200)]
    client: Name
    telemetry: bool = True
    """Whether it wants :class:`Status`, :class:`Step` and :class:`Event`."""


@dataclass(frozen=True, kw_only=True)
class Request(Message):
    """Answered by one :class:`Reply` with the same number."""

    request_id: Count


@dataclass(frozen=True, kw_only=True)
class PersonsRequest(Request):
    """A request that a person stands behind. ``role`` is theirs; the connection's own is the upper limit."""

    operator: Name
    role: Role


@dataclass(frozen=True, kw_only=True)
class ProposeChunk(Request):
    """A policy's next actions. They replace what is left of the chunk before."""

    type: Literal["propose_chunk"] = "propose_chunk"
    generation: Count
    """As last told by the supervisor; a chunk of an older one is refused."""
    observation_sequence: Count
    observation_age_s: Seconds
    """How old the observation was when this was sent."""
    checkpoint: Name
    policy_version: Count
    actions: Actions
    """[H, A]."""
    start_after_s: tuple[Seconds, ...]
    """[H], increasing: when each begins."""
    expire_after_s: tuple[Seconds, ...]
    """[H]: when each may no longer begin. A late action is dropped, never made up for."""


@dataclass(frozen=True, kw_only=True)
class BeginEpisode(Request):
    """The robot actor starts an episode, or a checkpoint was swapped before it: the generation grows, nothing moves yet."""

    type: Literal["begin_episode"] = "begin_episode"
    episode_id: Name
    instruction: Text
    checkpoint: Name


@dataclass(frozen=True, kw_only=True)
class EndEpisode(Request):
    """The episode is over; a policy that was acting stops and stays armed."""

    type: Literal["end_episode"] = "end_episode"
    episode_id: Name


@dataclass(frozen=True, kw_only=True)
class ReportValue(Request):
    """What the value model makes of the present; passed on to every console."""

    type: Literal["report_value"] = "report_value"
    value: Annotated[float, Field(allow_inf_nan=False)]
    advantage: float | None = None
    threshold: float | None = None


@dataclass(frozen=True, kw_only=True)
class ReportWaiting(Request):
    """What the robot actor waits for, for whoever stands at a console; repeated for as long as it waits."""

    type: Literal["report_waiting"] = "report_waiting"
    what: Text
    """In words, as in ``a person to send it home``; empty: it goes on."""
    valid_s: Seconds
    """From receipt. After that it is forgotten: an actor that died waits for nothing."""


@dataclass(frozen=True, kw_only=True)
class Acquire(PersonsRequest):
    """A new press of the hold key: take over. The reply carries the fence number of the lease."""

    type: Literal["acquire"] = "acquire"
    phase: Phase = Phase.CORRECTION
    forced: bool = False
    """Take it from whoever holds it; only with role ``supervise``."""


@dataclass(frozen=True, kw_only=True)
class HumanInput(Request):
    """Sent at 20 Hz or more while the hold key is down; it alone renews the lease."""

    type: Literal["human_input"] = "human_input"
    fence: Count
    sequence: Count
    """Increases with every frame of this lease."""
    age_s: Seconds
    """How old the input was when this was sent."""
    twist: tuple[tuple[float, float, float, float, float, float], ...]
    """[N, 6]: linear [m/s] and angular [rad/s] velocity wanted, base frame."""
    gripper_opening: tuple[float | None, ...]
    """[N]; None leaves a gripper alone."""
    phase: Phase | None = None
    """None: as before."""


@dataclass(frozen=True, kw_only=True)
class Release(Request):
    """The hold key came up: zero velocity, HOLD."""

    type: Literal["release"] = "release"
    fence: Count


@dataclass(frozen=True, kw_only=True)
class Arm(PersonsRequest):
    """Let it move from now on. The operator has seen the scene."""

    type: Literal["arm"] = "arm"


@dataclass(frozen=True, kw_only=True)
class Disarm(PersonsRequest):
    """Nothing moves until armed again."""

    type: Literal["disarm"] = "disarm"


@dataclass(frozen=True, kw_only=True)
class HandBack(PersonsRequest):
    """Let the policy act (again)."""

    type: Literal["hand_back"] = "hand_back"


@dataclass(frozen=True, kw_only=True)
class Home(PersonsRequest):
    """Go to the home pose."""

    type: Literal["home"] = "home"


@dataclass(frozen=True, kw_only=True)
class Stop(Request):
    """Everything stands, latched. Any role may."""

    type: Literal["stop"] = "stop"
    operator: Name
    reason: Text = ""


@dataclass(frozen=True, kw_only=True)
class Reset(PersonsRequest):
    """Leave the latched stop, for DISARMED."""

    type: Literal["reset"] = "reset"
    reason: Annotated[str, Field(min_length=1, max_length=400)]
    confirmed: bool
    """The operator has looked and said so; False is refused."""


@dataclass(frozen=True, kw_only=True)
class Acknowledge(PersonsRequest):
    """A person has seen the fault and its cause; clears it at the arm, for DISARMED."""

    type: Literal["acknowledge"] = "acknowledge"
    reason: Annotated[str, Field(min_length=1, max_length=400)]


@dataclass(frozen=True, kw_only=True)
class SetLabel(PersonsRequest):
    """How an episode went; passed on to the robot actor, which stores it. Never inferred from a stop."""

    type: Literal["set_label"] = "set_label"
    episode_id: Name
    label: Label
    tag: Text = ""


# --- from the supervisor -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Welcome(Message):
    """The answer to :class:`Hello`."""

    type: Literal["welcome"] = "welcome"
    version: int
    role: Role
    robot: Name
    arms: tuple[Name, ...]
    """[N], in the order in which actions are laid out."""
    action_names: tuple[str, ...]
    """[A], for example ``left.dx``."""
    action_units: tuple[str, ...]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    control_hz: float
    limits_digest: str
    lease_ttl_s: float


@dataclass(frozen=True, kw_only=True)
class Reply(Message):
    """To a request."""

    type: Literal["reply"] = "reply"
    request_id: Count
    ok: bool
    error: str = ""
    """In words, with what to do; empty if ok."""
    generation: Count
    state: State
    fence: Count | None = None
    """Of a lease just acquired."""
    holder: str | None = None
    """Who has control, if a competing request was refused."""


@dataclass(frozen=True, kw_only=True)
class ArmStatus(Message):
    """One arm, as last heard."""

    name: Name
    mode: str
    faults: tuple[str, ...]
    is_moving: bool
    state_age_s: float
    position_m: tuple[float, float, float]
    quaternion_wxyz: tuple[float, float, float, float]
    commanded_position_m: tuple[float, float, float]
    commanded_quaternion_wxyz: tuple[float, float, float, float]
    joint_position_rad: tuple[float, ...]
    gripper_opening: float | None
    """None without a gripper or where it is not read back."""


@dataclass(frozen=True, kw_only=True)
class Status(Message):
    """What is the case now; newest only, a slow client misses some."""

    type: Literal["status"] = "status"
    sequence: Count
    time_monotonic_s: float
    """The supervisor's clock."""
    state: State
    reason: str
    """Why it is in this state, in words."""
    generation: Count
    holder: str | None
    fence: Count
    lease_age_s: float | None
    operator_of_last_change: str | None
    arms: tuple[ArmStatus, ...]
    episode_id: str | None
    instruction: str
    checkpoint: str | None
    intervention_id: int
    value: float | None
    advantage: float | None
    threshold: float | None
    waiting_for: str
    """What the robot actor waits for, in words; empty if for nothing, or if it has not said so lately."""
    ticks: Count
    late_ticks: Count
    tick_late_p99_ms: float
    clipped_ticks: Count
    dropped_actions: Count


@dataclass(frozen=True, kw_only=True)
class Step(Message):
    """One action as it was asked for and as it was executed; the robot actor stores every one."""

    type: Literal["step"] = "step"
    index: Count
    episode_id: str | None
    start_monotonic_s: float
    duration_s: float
    source: Literal["policy", "human", "hold", "home"]
    operator: str | None
    fence: Count | None
    generation: Count
    checkpoint: str | None
    policy_action: tuple[float, ...] | None
    """[A]: what the policy asked for, also while a person acts if it still proposes."""
    requested_action: tuple[float, ...]
    """[A]: what was asked of the filter, in action units."""
    executed_action: tuple[float, ...]
    """[A]: the motion commanded to the arms over the step, in action units. This is what learning uses."""
    clip_mask: Count
    """:class:`robot_drivers.safety_filter.Clip`, or-ed over the step's ticks and arms."""
    intervention_id: int
    """Which takeover of this run, from 0; -1 outside one."""
    phase: Phase
    observation_sequence: Count | None
    observation_age_s: float | None
    action_age_s: float | None
    tick_late_ms: float
    """The worst of the step's ticks."""


@dataclass(frozen=True, kw_only=True)
class Event(Message):
    """Something that a person or an audit wants to read; none is left out."""

    type: Literal["event"] = "event"
    time_monotonic_s: float
    kind: Name
    """``state``, ``lease``, ``label``, ``episode``, ``request`` (control asked for), ``watchdog``."""
    operator: str | None
    text: str
    episode_id: str | None
    label: Label | None = None


@dataclass(frozen=True, kw_only=True)
class Goodbye(Message):
    """The supervisor closes this connection, and why."""

    type: Literal["goodbye"] = "goodbye"
    reason: str


FromClient = (
    Hello
    | ProposeChunk
    | BeginEpisode
    | EndEpisode
    | ReportValue
    | ReportWaiting
    | Acquire
    | HumanInput
    | Release
    | Arm
    | Disarm
    | HandBack
    | Home
    | Stop
    | Reset
    | Acknowledge
    | SetLabel
)
FromSupervisor = Welcome | Reply | Status | Step | Event | Goodbye
