"""A RealEnv on a supervisor in this process: fake arm, a clock moved by hand, cameras that show the tick, a person who acts."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np

from core.experience import ActionChunk
from core.specs import CameraSpec
from envs.real import RealEnv
from envs.real_config import RealEnvConfig
from robot_drivers import messages as m
from robot_drivers.cameras.camera import Frame, StaleFrameError
from robot_drivers.protocol import ProtocolError
from robot_drivers.states import RefusedError, Role
from tests.supervised_robot import SupervisedRobot

TICK_HZ = 25.0
"""A quarter of the shipped rate: four times as fast to simulate."""
CAMERA = CameraSpec(name="front", height_px=4, width_px=6)


class TickCameras:
    """The picture's brightness is the number of the tick."""

    def __init__(self, robot):
        self.robot, self.is_dead, self.number, self.is_closed = robot, False, 0, False
        self.newest = None
        self.see()

    def see(self):
        if not self.is_dead:
            self.number += 1
            now_s = self.robot.clock.monotonic_s()
            self.newest = Frame(
                image=np.full((4, 6, 3), self.number % 256, np.uint8),
                sequence=self.number,
                capture_monotonic_s=now_s,
                arrival_monotonic_s=now_s,
                device_frame_number=None,
                device_time_s=None,
            )

    def read_fresh(self, max_age_s):
        if self.newest.age_s(self.robot.clock.monotonic_s()) > max_age_s:
            raise StaleFrameError("the front camera is dead")
        return {"front": self.newest}

    def latest(self):
        return {"front": self.newest}

    def close(self):
        self.is_closed = True


class Link:
    """What the socket does, without one."""

    def __init__(self, rig, on_message):
        self.rig, self.on_message, self.is_open = rig, on_message, True
        self.welcome = rig.robot.supervision.welcome(Role.POLICY)
        self.num_told = len(rig.robot.published)

    def ask(self, request):
        if not self.is_open:
            raise ProtocolError("not connected")
        reply = self.rig.robot.supervision.handle(request, role=Role.POLICY)
        self.tell()
        if not reply.ok:
            raise RefusedError(reply.error)
        return reply

    def tell(self):
        published = self.rig.robot.published
        while self.is_open and self.num_told < len(published):
            self.num_told += 1
            self.on_message(published[self.num_told - 1])

    def close(self):
        self.is_open = False


class Clock:
    """Whoever sleeps lets the robot tick, its cameras see and the person act."""

    def __init__(self, rig):
        self.rig = rig

    def monotonic_s(self):
        return self.rig.robot.clock.monotonic_s()

    def sleep_s(self, duration_s):
        self.rig.live()


class InlineExecutor:
    """Computes at once, but lets the robot go on for as long as a computation takes."""

    def __init__(self, rig, takes_s=0.0):
        self.rig, self.takes_s = rig, takes_s

    def submit(self, call, *arguments):
        future = Future()
        result = call(*arguments)
        for _ in range(round(self.takes_s * self.rig.robot.config.tick_hz)):
            self.rig.live()
        future.set_result(result)
        return future

    def shutdown(self, **_):
        pass


class Rig:
    """``person``: a generator function of the rig; it is continued after every tick."""

    def __init__(self, person, *, task="push", **config):
        self.robot = SupervisedRobot(tick_hz=TICK_HZ)
        self.cameras = TickCameras(self.robot)
        self.links = []
        config = {"label_undo_s": 0.3, "is_homed_first": False, **config}
        self.env = RealEnv(self.connect, self.cameras, (CAMERA,), RealEnvConfig(**config), task=task, clock=Clock(self))
        self.person = person(self)

    def connect(self, on_message):
        self.links.append(Link(self, on_message))
        return self.links[-1]

    def live(self):
        self.robot.tick()
        self.cameras.see()
        next(self.person, None)
        for link in self.links:
            link.tell()
        assert self.robot.clock.monotonic_s() < 300, "the rig's person has fallen asleep"

    def pause(self, duration_s):
        """For the person."""
        for _ in range(round(duration_s * self.robot.config.tick_hz)):
            yield

    def hand_over(self):
        """For the person."""
        yield from self.pause(0.1)
        self.robot.must(m.Arm)
        while self.robot.status().episode_id is None:
            yield
        self.robot.must(m.HandBack)

    def drive(self, duration_s, phase=m.Phase.CORRECTION):
        """For the person: take over, push, let go."""
        fence = self.robot.press(phase=phase)
        for sequence in range(1, round(duration_s / 0.08) + 1):
            self.robot.push(fence, sequence)
            yield from self.pause(0.08)
        self.robot.must(m.Release, fence=fence, token_role=Role.OPERATE)

    def mark(self, label, tag=""):
        """For the person."""
        self.robot.must(m.SetLabel, episode_id=self.env.episode_id, label=label, tag=tag)


class StepPolicy:
    """Always the same small move; remembers what it was asked."""

    def __init__(self, version=3, horizon=6, move=0.01):
        self.version, self.horizon, self.move, self.asked = version, horizon, move, []

    def sample_actions(self, observations, instructions, generators):
        self.asked.append(observations[0])
        action = np.array([0, self.move, 0, 0, 0, 0, 1.0], np.float32)
        return [
            ActionChunk(
                actions=np.tile(action, (self.horizon, 1)),
                policy_version=self.version,
                observation_time_s=observations[0].time_s,
            )
        ]


def take_over(rig):
    """A person who hands over, recovers, corrects, hands back and is content."""
    yield from rig.hand_over()
    yield from rig.pause(1.1)
    yield from rig.drive(0.5, m.Phase.RECOVERY)
    yield from rig.drive(0.5)
    yield from rig.pause(0.5)
    rig.robot.must(m.HandBack)
    yield from rig.pause(1.0)
    rig.mark(m.Label.SUCCESS, tag="clean")
