"""N arms that begin, move and stop together: their links and filters, what they were last told, what is wrong with them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np

from core.clock import Clock
from robot_drivers import poses
from robot_drivers.arm_link import ArmLink
from robot_drivers.driver import ArmMode, ArmState, Pose, StopKind, Target
from robot_drivers.limits import RobotConfig
from robot_drivers.messages import ArmStatus, HumanInput
from robot_drivers.safety_filter import ACTION_DIM, AlongTwist, Clip, Commanded, Motion, SafetyFilter, ToGoal, UnsafeError
from robot_drivers.states import RefusedError, Trigger
from robot_drivers.watchdogs import Persistence

_TARGET_LIFETIME_TICKS = 5
_HOMED_M, _HOMED_RAD = 0.005, 0.05


class ArmGroup:
    """The arms of one robot, in the configuration's order. None of its calls waits for an arm."""

    def __init__(self, config: RobotConfig, links: Sequence[ArmLink], clock: Clock) -> None:
        self._config = config
        self._links = links
        self._clock = clock
        self._period_s = 1 / config.tick_hz
        self.filters = [SafetyFilter(arm.limits, self._period_s) for arm in config.arms]
        self._homes = [
            Pose(position_m=np.array(a.limits.home_position_m), quaternion_wxyz=np.array(a.limits.home_quaternion_wxyz))
            for a in config.arms
        ]
        self._sequence = 0
        self._stopped_s = -math.inf
        self._off_track = [Persistence() for _ in links]
        self.commanded: tuple[Commanded, ...] | None = None
        """What each was last told; None while nothing is commanded."""

    def __len__(self) -> int:
        return len(self._links)

    # --- may they move, and what is wrong --------------------------------------------------------------------------------------

    def require_able(self) -> None:
        """Check that motion may begin.

        Raises:
            RefusedError: if an arm is silent or in fault.
            UnsafeError: if one stands outside its limits.
        """
        for link, safety in zip(self._links, self.filters, strict=True):
            state = self._fresh(link)
            if state.mode in (ArmMode.FAULT, ArmMode.ESTOP):
                raise RefusedError(f"arm {link.name}: {', '.join(state.faults)}; clear it first")
            safety.start(state.tool_pose)

    def require_rest(self) -> None:
        """Check that a latched stop may be left.

        Raises:
            RefusedError: if an arm still moves, or its emergency stop is pressed.
        """
        for link in self._links:
            if link.is_stopping or (link.error is None and (link.state is None or link.state.is_moving)):
                raise RefusedError(f"arm {link.name} has not come to rest; wait")
            if link.error is None and link.state is not None and link.state.mode is ArmMode.ESTOP:
                raise RefusedError(f"arm {link.name}: its emergency stop is pressed; release it first")

    def are_heard(self) -> bool:
        """Whether every arm has been heard in time."""
        try:
            return all(map(self._fresh, self._links))
        except RefusedError:
            return False

    def troubles(self, now_s: float) -> Iterator[tuple[Trigger, str]]:
        """What each arm gives cause for, with the reason in words; as long as it lasts."""
        for index, (link, off_track) in enumerate(zip(self._links, self._off_track, strict=True)):
            try:
                state = self._fresh(link)
            except RefusedError as silence:
                yield Trigger.LINK_DOWN, str(silence)
                continue
            if link.is_clearing:
                continue
            if state.mode is ArmMode.ESTOP:
                yield Trigger.STOP, f"arm {link.name}: {', '.join(state.faults)}"
            elif state.mode is ArmMode.FAULT:
                yield Trigger.WRONG, f"arm {link.name}: {', '.join(state.faults)}"
            error_m = 0.0
            if self.commanded is not None:
                error_m = float(np.linalg.norm(self.commanded[index].pose.position_m - state.tool_pose.position_m))
            is_off = error_m > self._config.arms[index].limits.max_tracking_error_m
            if off_track.held_s(is_off, now_s) > self._config.watchdog.tracking_error_s:
                yield Trigger.WRONG, f"arm {link.name} does not follow: {error_m:.3f} m behind"

    def clear_faults(self, *, operator: str, reason: str) -> None:
        """Pass a person's acknowledgement on to the arms in fault."""
        for link in self._links:
            if link.state is not None and link.state.mode is ArmMode.FAULT:
                link.clear_fault(operator=operator, reason=reason)

    # --- motion ----------------------------------------------------------------------------------------------------

    def begin(self) -> tuple[Commanded, ...]:
        """Where motion would begin: at rest, where the arms are. Raises as :meth:`require_able`."""
        self.require_able()
        started = []
        for link, safety in zip(self._links, self.filters, strict=True):
            state = self._fresh(link)
            opening = state.gripper_opening if math.isfinite(state.gripper_opening) else None
            started.append(dataclasses.replace(safety.start(state.tool_pose), gripper_opening=opening))
        return tuple(started)

    def forget_goals(self) -> None:
        """Whoever moves next starts from the commanded poses, whatever was aimed at."""
        self.commanded = tuple(dataclasses.replace(commanded, goal=commanded.pose) for commanded in self._moving())

    def aim_home(self) -> None:
        """Every goal is the home pose."""
        pairs = zip(self._moving(), self._homes, strict=True)
        self.commanded = tuple(dataclasses.replace(commanded, goal=home) for commanded, home in pairs)

    def compose(self, action: Sequence[float]) -> Clip:
        """Put a policy's action [A] on top of the goals.

        Raises:
            UnsafeError: if it is not finite.
        """
        clip, composed = Clip.NONE, []
        for index, (safety, commanded, link) in enumerate(zip(self.filters, self._moving(), self._links, strict=True)):
            part = action[ACTION_DIM * index : ACTION_DIM * (index + 1)]
            following, why = safety.compose(commanded, part, measured=self._fresh(link).tool_pose)
            composed.append(following)
            clip |= why
        if clip & Clip.NOT_FINITE:
            raise UnsafeError(f"the policy's action {tuple(action)} is not finite; the checkpoint or its input is damaged")
        self.commanded = tuple(composed)
        return clip

    def to_goals(self) -> list[Motion]:
        """Every arm on to its goal."""
        return [ToGoal() for _ in self._links]

    def along(self, hand: HumanInput | None) -> list[Motion]:
        """Every arm as the operator's hand says; at rest until it has said something."""
        if hand is None:
            return [AlongTwist(twist=np.zeros(6)) for _ in self._links]
        pairs = zip(self._moving(), hand.gripper_opening, strict=True)
        self.commanded = tuple(
            commanded if opening is None else dataclasses.replace(commanded, gripper_opening=min(1.0, max(0.0, opening)))
            for commanded, opening in pairs
        )
        return [AlongTwist(twist=np.array(twist)) for twist in hand.twist]

    def advance(self, motions: Sequence[Motion], *, generation: int) -> Clip:
        """One tick: filter every arm's motion and send its target.

        Raises:
            RefusedError: if an arm went silent.
            UnsafeError: if the filter finds no motion.
        """
        moved, clip = [], Clip.NONE
        for safety, commanded, motion, link in zip(self.filters, self._moving(), motions, self._links, strict=True):
            following, why = safety.tick(commanded, motion, measured=self._fresh(link).tool_pose)
            moved.append(following)
            clip |= why
        self.commanded = tuple(moved)
        for link, commanded in zip(self._links, moved, strict=True):
            self._sequence += 1
            link.send(
                Target(
                    tool_pose=commanded.pose,
                    gripper_opening=commanded.gripper_opening,
                    sequence=self._sequence,
                    generation=generation,
                    expires_monotonic_s=self._clock.monotonic_s() + _TARGET_LIFETIME_TICKS * self._period_s,
                )
            )
        return clip

    def are_home(self) -> bool:
        """Whether all stand at home, as commanded and as measured."""
        for link, commanded, home in zip(self._links, self._moving(), self._homes, strict=True):
            for pose in (self._fresh(link).tool_pose, commanded.pose):
                step, turn = poses.delta(pose, home)
                if np.linalg.norm(step) > _HOMED_M or np.linalg.norm(turn) > _HOMED_RAD:
                    return False
        return True

    def stop(self, kind: StopKind, *, generation: int) -> None:
        """All of them, at once."""
        self._stopped_s = self._clock.monotonic_s()
        for link in self._links:
            link.stop(kind, generation=generation)

    def restop(self, *, generation: int) -> None:
        """Tell those again that move although nothing should, whatever became of the first stop."""
        now_s = self._clock.monotonic_s()
        if now_s - self._stopped_s <= self._config.watchdog.restop_s:
            return
        for link in self._links:
            if link.error is None and link.state is not None and link.state.is_moving:
                self._stopped_s = now_s
                link.stop(StopKind.HARD, generation=generation)

    # --- what is told ----------------------------------------------------------------------------------------------

    def gripper_openings(self) -> list[float]:
        """[N]: as measured; 0 where it is not known."""
        openings = [link.state.gripper_opening if link.state is not None else math.nan for link in self._links]
        return [opening if math.isfinite(opening) else 0.0 for opening in openings]

    def status(self, now_s: float) -> tuple[ArmStatus, ...]:
        """One for each arm that was ever heard."""
        found = []
        for index, link in enumerate(self._links):
            state = link.state
            if state is None:
                continue
            commanded = self.commanded[index].pose if self.commanded is not None else state.tool_pose
            found.append(
                ArmStatus(
                    name=link.name,
                    mode=state.mode.value if link.error is None else "unreachable",
                    faults=state.faults if link.error is None else (link.error,),
                    is_moving=state.is_moving,
                    state_age_s=now_s - state.time_monotonic_s,
                    position_m=tuple(state.tool_pose.position_m.tolist()),
                    quaternion_wxyz=tuple(state.tool_pose.quaternion_wxyz.tolist()),
                    commanded_position_m=tuple(commanded.position_m.tolist()),
                    commanded_quaternion_wxyz=tuple(commanded.quaternion_wxyz.tolist()),
                    joint_position_rad=tuple(state.joint_position_rad.tolist()),
                    gripper_opening=state.gripper_opening if math.isfinite(state.gripper_opening) else None,
                )
            )
        return tuple(found)

    def _moving(self) -> tuple[Commanded, ...]:
        if self.commanded is None:
            raise UnsafeError("a motion was asked for while nothing is commanded; this is a bug of the supervisor")
        return self.commanded

    def _fresh(self, link: ArmLink) -> ArmState:
        state = link.state
        if link.error is not None or state is None:
            raise RefusedError(f"arm {link.name}: {link.error}")
        age_s = self._clock.monotonic_s() - state.time_monotonic_s
        if age_s > self._config.watchdog.stale_state_s:
            raise RefusedError(f"arm {link.name}: nothing heard for {age_s:.2f} s")
        return state
