"""SIMPLER's robots as a robot: they step in real time, and are driven, seen and stopped like a real arm.

``python -m envs.simulate serve`` is the robot: a process of its own, with a controller that speaks the protocol of
:mod:`robot_drivers.emulators.simulated`, a camera port, and faults on demand. The supervisor drives it through
``configs/robots/simulated.yaml`` and knows no difference.

Differs from :class:`envs.simpler.task_env.SimplerTaskEnv` on purpose: time runs by itself, and targets are absolute tool poses at
the supervisor's rate. The arm's servo is better than SIMPLER's, whose drives follow about 0.6 s late: a trajectory generator with
the kinematic limits of a robot's controller, whose joint speeds are fed forward to the same PD drives. The frame is the same,
SIMPLER's base frame. The gripper's polarity is the driver's, 0 closed .. 1 open.
"""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import RecapError
from envs.simpler.native import unwrap
from envs.simpler.task_env import SimplerTaskEnv
from robot_drivers.driver import Pose
from robot_drivers.emulators.serial_chain import Joint, SerialChain
from robot_drivers.emulators.simulated_arm import ArmEvent, ArmFault, MotionLimits, MotionSample, SimulatedArm

LIMITS = MotionLimits(speed_m_s=0.6, acceleration_m_s2=4.0, speed_rad_s=2.0, acceleration_rad_s2=12.0)
"""Of the trajectory generator: about what the benchmark's own planner reaches with 1.5 rad/s a joint."""
_STEPS_AT_ONCE = 5
"""Physics steps between two settings of the drives: about 10 ms."""
_MAX_CATCH_UP_S = 0.05
_MAX_SAMPLES = 200_000
_OFF_TRACK_RAD, _OFF_TRACK_S = 0.05, 0.15
"""A joint that is so far from where it was sent, for so long, is held by something: a collision."""
_MOVING_M_S, _MOVING_RAD_S = 2e-3, 2e-2
_REST_M_S = 0.01
_CLOSED = 1e-3
"""An opening below that means: close, on whatever is between the fingers."""
_Z_TO_X = np.array([[0.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
"""A frame's z axis where SAPIEN has x: its revolute joints turn about x."""


class NotAtRestError(RecapError, RuntimeError):
    """The objects cannot be laid out anew while the arm moves."""


@dataclass(frozen=True, kw_only=True)
class Fingers:
    """How one robot's fingers are driven."""

    joints: tuple[str, ...]
    open: float
    """rad or m."""
    closed: float
    """Where they meet, with nothing between them."""
    pressing: float
    """Where they are sent in order to close, as SIMPLER's own controllers do: being beyond is what supplies the grip force."""
    strokes_per_s: float


_FINGERS = {
    "google_robot": Fingers(
        joints=("joint_finger_right", "joint_finger_left"), open=0.0, closed=1.074, pressing=1.31, strokes_per_s=0.9
    ),
    "widowx": Fingers(joints=("left_finger", "right_finger"), open=0.037, closed=0.015, pressing=0.014, strokes_per_s=2.0),
}
"""By what the robot's uid contains."""


class SimplerWorld:
    """A SIMPLER task in which time runs; implements :class:`robot_drivers.emulators.simulated.Scene`.

    Args:
        env: with its camera.
        seed: of the first layout.
    """

    def __init__(self, env: SimplerTaskEnv, *, seed: int) -> None:
        self._env = env
        self.scene = env.gym_env.scene
        self.robot = unwrap(self.scene.agent.robot)
        self.step_s = _STEPS_AT_ONCE / self.scene.embodiment.sim_hz
        self._judge_every = round(1 / (self.step_s * self.scene.embodiment.control_hz))
        self._num_steps = 0
        self._is_success = False
        self.tool_speed_m_s = 0.0
        """On average over the last :meth:`step`: fingers that press on something make momentary speeds jitter."""
        self.lock = threading.Lock()
        """Held by whoever moves or looks."""
        (self.camera,) = env.env_spec.cameras
        self._image: NDArray[np.uint8]
        self._lay_out(seed)

    def step(self) -> None:
        """Let physics run for :attr:`step_s`. The task is judged at its own control rate, as in an episode."""
        before = self.scene.agent.tcp_pose().p
        for _ in range(_STEPS_AT_ONCE):
            self.scene.scene.px.step()
        self.tool_speed_m_s = float(np.linalg.norm(self.scene.agent.tcp_pose().p - before)) / self.step_s
        self._num_steps += 1
        if self._num_steps % self._judge_every == 0:
            self._is_success = self._is_success or bool(self.scene.evaluate()["success"])

    def look(self) -> NDArray[np.uint8]:
        """[H, W, 3], RGB: the policy's camera now; the last image while objects are laid out."""
        if self.lock.acquire(blocking=False):
            try:
                self._image = next(iter(self._env.gym_env.get_obs()["image"].values()))["rgb"]
            finally:
                self.lock.release()
        return self._image

    def rearrange(self, seed: int) -> None:
        """Lay out the objects anew, as the task's reset with this seed does; the robot stays where it is.

        Raises:
            NotAtRestError: while it moves.
        """
        with self.lock:
            if self.tool_speed_m_s > _REST_M_S:
                raise NotAtRestError(
                    f"the tool moves at {self.tool_speed_m_s:.3f} m/s; stop it before the objects are laid out anew"
                )
            joints = self.scene.agent.qpos_upstream()
            self._lay_out(seed)
            self.scene.agent.set_qpos_upstream(joints)

    def describe(self) -> dict[str, Any]:
        """``seed``, ``instruction``, ``is_success`` since the objects were laid out."""
        return {"seed": self._seed, "instruction": self._env.instruction, "is_success": self._is_success}

    def _lay_out(self, seed: int) -> None:
        observation, _ = self._env.reset(seed=seed)
        self._image = observation.images[self.camera.name]
        self._seed, self._is_success, self._num_steps = seed, False, 0


class SimplerArm:
    """The robot of a SIMPLER task; implements :class:`robot_drivers.emulators.simulated.Arm`.

    Consumes: targets, stops, faults. Produces: what is measured, a log of motion and of events. Called by one thread.

    Args:
        world: that it stands in.
        now_s: on the clock of :meth:`advance`.
        limits: of the trajectory generator; the gripper's speed is the robot's own.
    """

    def __init__(self, world: SimplerWorld, now_s: float, limits: MotionLimits = LIMITS) -> None:
        self._world = world
        self._agent = world.scene.agent
        self._fingers = next(fingers for name, fingers in _FINGERS.items() if name in self._agent.uid)
        chain, self._arm_drives = _chain(unwrap(self._agent.tcp))
        names = [joint.name for joint in world.robot.active_joints]
        self._arm_index = np.array([names.index(joint.name) for joint in self._arm_drives])
        self._finger_index = [i for i, joint in enumerate(self._agent.robot.active_joints) if joint.name in self._fingers.joints]
        self._finger_drives = [world.robot.active_joints[index] for index in self._finger_index]
        self.joints_rad = self._measured_joints()
        self._plan = SimulatedArm(
            chain, self.joints_rad, now_s, dataclasses.replace(limits, gripper_strokes_per_s=self._fingers.strokes_per_s)
        )
        self._lived_until_s = now_s
        self._off_track_since_s: float | None = None
        self.pose = chain.forward(self.joints_rad)
        self.gripper_opening = 1.0
        self.is_moving = False
        self.samples: deque[MotionSample] = deque(maxlen=_MAX_SAMPLES)
        self._measure()

    @property
    def chain(self) -> SerialChain:
        """Its kinematics, base to tool."""
        return self._plan.chain

    @property
    def events(self) -> deque[ArmEvent]:
        """Commands and faults."""
        return self._plan.events

    @property
    def fault(self) -> ArmFault | None:
        """What stopped it."""
        return self._plan.fault

    @property
    def is_estop_pressed(self) -> bool:
        """Whether the emergency stop is."""
        return self._plan.is_estop_pressed

    def move_to(self, pose: Pose) -> None:
        """Head for a pose, from whatever motion there is. A faulted arm stays."""
        self._plan.move_to(pose)

    def move_gripper(self, opening: float) -> None:
        """Head for an opening, 0 closed .. 1 open."""
        self._plan.move_gripper(opening)

    def stop(self, *, is_hard: bool) -> None:
        """Brake and forget the target."""
        self._plan.stop(is_hard=is_hard)

    def raise_fault(self, fault: ArmFault) -> None:
        """Brake and refuse to move until :meth:`clear_fault`."""
        self._plan.raise_fault(fault)

    def release_estop(self) -> None:
        """Pull the button out; the fault stays."""
        self._plan.release_estop()

    def clear_fault(self) -> None:
        """Able to move again, from where it stands; does not move."""
        self._plan.clear_fault()
        self._plan.place(self.joints_rad)

    def advance(self, now_s: float) -> None:
        """Let physics run on to a time. Of a longer gap only the end is lived through: on a busy machine the arm is slow.

        While the objects are laid out anew, time stands still; what was measured last is reported.
        """
        if not self._world.lock.acquire(blocking=False):
            return
        try:
            self._lived_until_s = max(self._lived_until_s, now_s - _MAX_CATCH_UP_S)
            self._plan.skip_to(self._lived_until_s)  # plan and physics live through the same time
            while self._lived_until_s + self._world.step_s <= now_s:
                self._lived_until_s += self._world.step_s
                self._live()
        finally:
            self._world.lock.release()

    def _live(self) -> None:
        opening = self._plan.gripper_opening
        self._plan.advance(self._lived_until_s)
        self._drive(self._plan.gripper_opening - opening)
        self._world.step()
        self._measure()
        self._watch_for_collision()

    def _drive(self, stroke: float) -> None:
        """Hand the plan's joints and speeds, and a stroke of the gripper since the last time, to the drives."""
        for joint, angle, speed in zip(
            self._arm_drives, self._plan.joints_rad.tolist(), self._plan.joint_speeds_rad_s.tolist(), strict=True
        ):
            joint.set_drive_target(angle)
            joint.set_drive_velocity_target(speed)
        fingers, opening = self._fingers, self._plan.gripper_opening
        span = fingers.open - fingers.closed
        for joint in self._finger_drives:
            joint.set_drive_target(fingers.closed + span * opening if opening > _CLOSED else fingers.pressing)
            joint.set_drive_velocity_target(span * stroke / self._world.step_s)

    def _measured_joints(self) -> NDArray[np.float64]:
        return np.asarray(self._world.robot.get_qpos()[self._arm_index], dtype=np.float64)

    def _measure(self) -> None:
        before_rad, self.joints_rad = self.joints_rad, self._measured_joints()
        self.pose = self._plan.chain.forward(self.joints_rad)
        qpos, fingers = self._world.robot.get_qpos(), self._fingers
        opening = (float(np.mean(qpos[self._finger_index])) - fingers.closed) / (fingers.open - fingers.closed)
        self.gripper_opening = min(1.0, max(0.0, opening))
        x, y, z = self.pose.position_m.tolist()
        speed_m_s = self._world.tool_speed_m_s
        speed_rad_s = float(np.abs(self.joints_rad - before_rad).max()) / self._world.step_s
        self.is_moving = self._plan.is_moving or speed_m_s > _MOVING_M_S or speed_rad_s > _MOVING_RAD_S
        self.samples.append(
            MotionSample(
                time_s=self._lived_until_s,
                position_m=(x, y, z),
                speed_m_s=speed_m_s,
                speed_rad_s=speed_rad_s,
                gripper_opening=self.gripper_opening,
            )
        )

    def _watch_for_collision(self) -> None:
        if np.abs(self._plan.joints_rad - self.joints_rad).max() < _OFF_TRACK_RAD:
            self._off_track_since_s = None
            return
        self._off_track_since_s = self._off_track_since_s or self._lived_until_s
        if self._lived_until_s - self._off_track_since_s > _OFF_TRACK_S:
            if self.fault is None:
                self.raise_fault(ArmFault.COLLISION)
            self._plan.place(self.joints_rad)  # it does not go on pushing


def _chain(tool: Any) -> tuple[SerialChain, list[Any]]:
    """Kinematics from the root to a link of SAPIEN's, and the revolute joints on the way."""
    joints: list[Any] = []
    placements: list[NDArray[np.float64]] = []
    link, following = tool, np.eye(4)  # from the tool inwards; `following` leads from here to the frame that was placed last
    while link.joint.parent_link is not None:
        joint = link.joint
        to_joint = joint.pose_in_parent.to_transformation_matrix().astype(np.float64)
        from_joint = joint.pose_in_child.inv().to_transformation_matrix().astype(np.float64)
        if joint.type == "fixed":
            following = to_joint @ from_joint @ following
        else:
            joints.insert(0, joint)
            placements.insert(0, _Z_TO_X.T @ from_joint @ following)
            following = to_joint @ _Z_TO_X
        link = joint.parent_link
    *placements, tool_placement = following, *placements
    limits = [joint.limits[0].tolist() for joint in joints]
    chain = [Joint(placement=frame, limit_rad=(low, high)) for frame, (low, high) in zip(placements, limits, strict=True)]
    return SerialChain(tuple(chain), tool=tool_placement), joints
