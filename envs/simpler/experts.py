"""A scripted expert that picks the object up, as well or as badly as it is told to: demonstrations with known quality.

Hop 1 of the tour, on the acting side. It servoes the tool in end-effector space on privileged poses: to a point behind the
grasp along the approach axis, in, close, lift. On top of that come, drawn once per episode (:mod:`envs.simpler.expert_quality`),
noise on what is executed (the clean action stays known: DART, Laskey et al. 2017, arXiv:1703.09327), an error of aim,
hesitations (standing still), retries (backing off along the path and coming again), a gripper that closes early or late.

Command line::

    python -m envs.simpler.experts --task google_robot_pick_standing_coke_can --quality mixed --episodes 5 --video look.mp4
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from core.errors import RecapError
from envs.simpler.expert_quality import (
    QUALITIES,
    Behaviour,
    ExpertConfig,
    draw_behaviour,
    expert_config,
    progress_label,
)
from envs.task_env import ExpertAction

__all__ = [
    "QUALITIES",
    "Behaviour",
    "ExpertConfig",
    "ScriptedExpert",
    "demonstrate",
    "expert_config",
    "grasp_pose",
    "progress_label",
]

Array = NDArray[np.float64]
_OPEN, _KEEP, _CLOSE = -1.0, 0.0, 1.0
_ARRIVED_M, _ALIGNED_RAD = 0.012, 0.08
_CENTER_OFFSET_M = -0.0076
"""Along a can's y axis, from its origin to the middle of its height."""
_STANDING_GRASP_M = 0.022
"""Above the middle of a standing can: where the fingers do not reach the table."""
_LEFT_BEHIND_M = 0.09
"""A can farther than this from the lifting tool is not in it. (The gripper's closedness does not tell: it closes by a fixed
amount and ends at 0.83, empty or not quite.)"""


class PrivilegedEnv(Protocol):
    """What the expert asks of an environment (:class:`envs.simpler.task_env.SimplerTaskEnv`)."""

    def tcp_pose(self) -> Any:
        """Tool pose; ``.base`` [7] in the robot's base frame, position then w, x, y, z."""
        ...

    def object_pose(self) -> Any:
        """Pose of the object to pick, likewise."""
        ...

    def gripper_closedness(self) -> float:
        """0 open .. 1 closed."""
        ...


@dataclass(frozen=True)
class Pose:
    """Position [3] in m and rotation, in the robot's base frame."""

    position: Array
    rotation: Rotation

    @classmethod
    def of(cls, vector: NDArray[np.floating[Any]]) -> Pose:
        """From [7]: position, then w, x, y, z."""
        return cls(np.asarray(vector[:3], dtype=np.float64), Rotation.from_quat(np.asarray(vector)[[4, 5, 6, 3]]))

    def axis(self, index: int) -> Array:
        """One column of the rotation matrix."""
        return np.asarray(self.rotation.as_matrix()[:, index])


def grasp_pose(item: Pose, tool: Pose) -> Pose:
    """Where the tool should be when the fingers close on a can (its long axis is y; the tool closes along y, looks along z).

    The tool keeps looking where it looks (turning its approach direction too would run the wrist into its limit, where the
    inverse kinematics fail and the arm freezes). For a lying can it turns about that direction, the shorter way, until it
    closes across the can.
    """
    axis = item.axis(1)
    center = item.position + _CENTER_OFFSET_M * axis
    if abs(axis[2]) > 0.7:
        return Pose(center + np.array([0.0, 0.0, _STANDING_GRASP_M]), tool.rotation)
    approach, across = tool.axis(2), np.cross([0.0, 0.0, 1.0], axis)
    across = across * np.sign(np.dot(across, tool.axis(1)))  # both directions of closing are equal: take the nearer
    closing = across - np.dot(across, approach) * approach
    closing = closing / np.linalg.norm(closing)
    turned = np.stack([np.cross(closing, approach), closing, approach], axis=1)
    return Pose(center, Rotation.from_matrix(turned))


class ScriptedExpert:
    """Picks up the can of one environment.

    The loop that uses it::

        expert.reset(env)
        while not ended:
            action = expert.act()
            ... = env.step(action.executed)

    Phases: approach, advance, close, lift, then rest; hesitate and retreat interrupt the first two.

    Args:
        config: how well.
        rng: of the flaws and the noise.
    """

    def __init__(self, config: ExpertConfig, rng: np.random.Generator) -> None:
        self.config = config
        self._rng = rng

    def reset(self, env: PrivilegedEnv) -> None:
        """Take over: after the environment's reset, or in the middle of an episode (from wherever the tool is)."""
        self._env = env
        self.behaviour = draw_behaviour(self.config, self._rng)
        self._start = Pose.of(env.tcp_pose().base)
        self._start_rotation = self._start.rotation
        self._step = 0
        self._attempt = 1
        self._phase_steps = 0
        self._path: list[Pose] = []
        self._intervals: list[dict[str, Any]] = []
        self._interruption: dict[str, Any] | None = None
        self._retreat_path: list[Pose] = []
        self._lift_goal: Pose | None = None
        item = Pose.of(env.object_pose().base)
        holds = env.gripper_closedness() > 0.2 and float(np.linalg.norm(item.position - self._start.position)) < 0.05
        self.phase = "close" if holds else "approach"

    def act(self) -> ExpertAction:
        """Decide on the next action from the environment's present state."""
        tool = Pose.of(self._env.tcp_pose().base)
        grasp = self._aimed_grasp(tool)
        self._interrupt(tool, grasp)
        if self._interruption is None:
            self._advance_phase(tool, grasp)
        phase = self.phase if self._interruption is None else self._interruption["kind"]
        intended = self._intend(tool, grasp)
        if self._interruption is None and self.phase in ("approach", "advance"):
            self._path.append(tool)
        self._count()
        return ExpertAction(executed=self._with_noise(intended), intended=intended, phase=phase)

    def annotations(self) -> Mapping[str, Any]:
        """Ground truth of the episode so far, JSON-like.

        ``intervals``: list of ``{"kind": "hesitation" | "retry" | "miss", "m": first step, "n": first step after it}``, in
        steps since :meth:`reset`; plus what the episode drew. A ``miss`` lasts from the empty lift to the next advance.
        """
        behaviour = self.behaviour
        return {
            "intervals": [dict(interval) for interval in self._intervals],
            "aim_errors_m": list(behaviour.aim_errors_m[: self._attempt]),
            "position_noise_m": behaviour.position_noise_m,
            "rotation_noise_rad": behaviour.rotation_noise_rad,
            "grip": "early" if behaviour.early_grip_m is not None else "late" if behaviour.is_late_grip else "timely",
            "attempts": self._attempt,
            "num_steps": self._step,
        }

    # -- where to go ---------------------------------------------------------------------------------------------

    def _aimed_grasp(self, tool: Pose) -> Pose:
        """The grasp as this expert believes it to be, with the tool's orientation planned from where it started."""
        item = Pose.of(self._env.object_pose().base)
        grasp = grasp_pose(item, Pose(tool.position, self._start_rotation))
        away = np.array([*grasp.position[:2], 0.0])
        short = self.behaviour.aim_errors_m[self._attempt - 1] * away / np.linalg.norm(away)
        return Pose(grasp.position - short, grasp.rotation)

    def _pre_grasp(self, grasp: Pose) -> Pose:
        return Pose(grasp.position - self.config.standoff_m * grasp.axis(2), grasp.rotation)

    def _advance_phase(self, tool: Pose, grasp: Pose) -> None:
        """Go on to the next phase where the present one has reached its end."""
        config, behaviour = self.config, self.behaviour
        distance = float(np.linalg.norm(grasp.position - tool.position))
        if self.phase == "approach" and self._is_at(self._pre_grasp(grasp), tool, 2.5):
            self._enter("advance")
        elif self.phase == "advance":
            is_early = behaviour.early_grip_m is not None and distance < behaviour.early_grip_m
            if is_early or self._is_at(grasp, tool, 1.0) or self._phase_steps >= 14:
                self._enter("close")
        elif self.phase == "close" and self._phase_steps >= (1 if behaviour.is_late_grip else config.close_steps):
            self._lift_goal = Pose(tool.position + np.array([0.0, 0.0, config.lift_m]), tool.rotation)
            self._enter("lift")
        elif self.phase == "lift" and self._phase_steps >= 3 and self._has_missed(tool):
            if self._attempt < config.max_attempts:
                self._attempt += 1
                self._intervals.append({"kind": "miss", "m": self._step, "n": self._step})
                self._enter("approach")
            else:
                self._enter("rest")

    def _is_at(self, goal: Pose, tool: Pose, tolerance: float) -> bool:
        is_near = float(np.linalg.norm(goal.position - tool.position)) < tolerance * _ARRIVED_M
        return is_near and float((goal.rotation * tool.rotation.inv()).magnitude()) < tolerance * _ALIGNED_RAD

    def _has_missed(self, tool: Pose) -> bool:
        item = Pose.of(self._env.object_pose().base)
        return float(np.linalg.norm(item.position - tool.position)) > _LEFT_BEHIND_M

    def _enter(self, phase: str) -> None:
        self.phase, self._phase_steps = phase, 0
        if phase == "advance" and self._intervals and self._intervals[-1]["kind"] == "miss":
            self._intervals[-1]["n"] = self._step

    # -- interruptions -------------------------------------------------------------------------------------------

    def _interrupt(self, tool: Pose, grasp: Pose) -> None:
        """Begin or end a hesitation or a retry."""
        if self._interruption is not None and self._step >= self._interruption["n"]:
            self._interruption = None
        if self._interruption is not None or self._attempt > 1 or self.phase not in ("approach", "advance"):
            return
        seen = {interval["kind"] for interval in self._intervals}
        hesitation, retry = self.behaviour.hesitation, self.behaviour.retry
        distance = float(np.linalg.norm(grasp.position - tool.position))
        if hesitation is not None and "hesitation" not in seen and self._step >= hesitation[0]:
            self._begin("hesitation", hesitation[1])
        elif retry is not None and "retry" not in seen and self.phase == "advance" and distance < retry[0]:
            self._retreat_path = self._path[-1 : -1 - retry[1] : -1]
            self._begin("retry", len(self._retreat_path))

    def _begin(self, kind: str, num_steps: int) -> None:
        if num_steps > 0:
            self._interruption = {"kind": kind, "m": self._step, "n": self._step + num_steps}
            self._intervals.append(self._interruption)

    # -- how to get there ----------------------------------------------------------------------------------------

    def _intend(self, tool: Pose, grasp: Pose) -> NDArray[np.float32]:
        """The clean action [7] of this moment."""
        if self._interruption is not None:
            if self._interruption["kind"] == "hesitation":
                return np.zeros(7, dtype=np.float32)
            return self._servo(tool, self._retreat_path[self._step - self._interruption["m"]], _KEEP)
        if self.phase == "approach":
            is_open = self._env.gripper_closedness() < 0.05
            return self._servo(tool, self._detour(tool, self._pre_grasp(grasp)), _KEEP if is_open else _OPEN)
        if self.phase == "advance":
            return self._servo(tool, grasp, _KEEP)
        if self.phase == "close":
            keeps_coming = self.behaviour.early_grip_m is not None
            return self._servo(tool, grasp if keeps_coming else tool, _CLOSE)
        if self.phase == "lift" and self._lift_goal is not None:
            return self._servo(tool, self._lift_goal, _CLOSE)
        return self._servo(tool, tool, _KEEP)

    def _detour(self, tool: Pose, goal: Pose) -> Pose:
        """Rise before going sideways, so that a tool that starts low does not sweep the can away."""
        sideways = float(np.linalg.norm((goal.position - tool.position)[:2]))
        if tool.position[2] > goal.position[2] - 0.05 or sideways < 0.02:
            return goal
        return Pose(np.array([*tool.position[:2], goal.position[2]]), tool.rotation)

    def _servo(self, tool: Pose, goal: Pose, gripper: float) -> NDArray[np.float32]:
        """One bounded step towards a pose: translation and rotation vector in base axes, as the controller takes them."""
        shift = goal.position - tool.position
        turn = (goal.rotation * tool.rotation.inv()).as_rotvec()
        shift = shift * min(1.0, self.config.max_step_m / max(float(np.linalg.norm(shift)), 1e-9))
        turn = turn * min(1.0, self.config.max_turn_rad / max(float(np.linalg.norm(turn)), 1e-9))
        return np.array([*shift, *turn, gripper], dtype=np.float32)

    def _with_noise(self, intended: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add execution noise to the arm's entries; the gripper obeys."""
        noise = np.zeros(7)
        noise[:3] = self._rng.normal(0.0, 1.0, 3) * self.behaviour.position_noise_m
        noise[3:6] = self._rng.normal(0.0, 1.0, 3) * self.behaviour.rotation_noise_rad
        return (intended + noise).astype(np.float32)

    def _count(self) -> None:
        self._step += 1
        if self._interruption is None:
            self._phase_steps += 1


# -- looking at it ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Demonstration:
    """One episode's outcome, for looking at."""

    seed: int
    is_success: bool
    num_steps: int
    annotations: Mapping[str, Any]
    frames: list[NDArray[np.uint8]]


def demonstrate(env: Any, expert: ScriptedExpert, *, seed: int, keep_frames: bool = False) -> Demonstration:
    """Let the expert act through one episode of a :class:`envs.simpler.task_env.SimplerTaskEnv`."""
    observation, info = env.reset(seed=seed)
    expert.reset(env)
    frames, is_over = [], False
    while not is_over:
        if keep_frames:
            frames += list(observation.images.values())[:1]
        observation, _, terminated, truncated, info = env.step(expert.act().executed)
        is_over = terminated or truncated
    annotations = expert.annotations()
    return Demonstration(seed, bool(info["success"]), annotations["num_steps"], annotations, frames)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m envs.simpler.experts", description="Watch or measure the scripted expert.")
    parser.add_argument("--task", default="google_robot_pick_standing_coke_can")
    parser.add_argument("--assets", default="builtin", help="builtin or upstream")
    parser.add_argument("--quality", default="clean", help=", ".join(QUALITIES))
    parser.add_argument("--max-attempts", type=int, help="override how often it tries")
    parser.add_argument("--episodes", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the first episode")
    parser.add_argument("--video", type=Path, help="write all episodes, one after the other, to this .mp4")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        config = expert_config(options.quality)
        if options.max_attempts is not None:
            config = replace(config, max_attempts=options.max_attempts)
        _show(options, config)
    except RecapError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _show(options: argparse.Namespace, config: ExpertConfig) -> None:
    from envs.simpler.task_env import SimplerTaskEnv

    size = {"image_height_px": 512, "image_width_px": 640} if options.video else {"render": False}
    env = SimplerTaskEnv(options.task, assets=options.assets, **size)
    shown: list[Demonstration] = []
    for seed in range(options.seed, options.seed + options.episodes):
        expert = ScriptedExpert(config, np.random.default_rng([seed, 1]))
        shown.append(demonstrate(env, expert, seed=seed, keep_frames=options.video is not None))
        episode = shown[-1]
        flaws = ", ".join(f"{i['kind']} [{i['m']}, {i['n']})" for i in episode.annotations["intervals"]) or "-"
        outcome = "success" if episode.is_success else "failure"
        print(f"seed {seed}: {outcome} in {episode.num_steps} steps; grip {episode.annotations['grip']}; {flaws}")
    env.close()
    successes = sum(episode.is_success for episode in shown)
    mean_steps = np.mean([episode.num_steps for episode in shown])
    print(f"{options.task}, {options.assets}, {options.quality}: {successes}/{len(shown)} succeeded, mean {mean_steps:.1f} steps")
    if options.video:
        import imageio.v2 as imageio

        frames: list[Any] = [frame for episode in shown for frame in episode.frames]
        imageio.mimwrite(options.video, frames, fps=6, macro_block_size=16)
        print(f"wrote {options.video} ({len(frames)} frames)")


if __name__ == "__main__":
    sys.exit(main())
