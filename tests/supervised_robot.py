"""A supervisor in this process: fake arms, a clock that is moved by hand, and everything that was published."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from core.clock import ManualClock
from robot_drivers import messages as m
from robot_drivers.arm_link import ArmLink
from robot_drivers.fake import FakeArm, FakeArmConfig
from robot_drivers.limits import read_robot_config
from robot_drivers.states import Role
from robot_drivers.supervision import Supervision

CONFIG = Path(__file__).parent.parent / "configs/robots/fake.yaml"


class SupervisedRobot:
    """Ticks exactly when told; the links are served after every tick."""

    def __init__(self, num_arms=1, **changes):
        config = read_robot_config(CONFIG)
        arms = tuple(dataclasses.replace(config.arms[0], name=f"arm{i}") for i in range(num_arms))
        self.config = dataclasses.replace(config, arms=arms, **changes)
        self.clock = ManualClock(50.0)
        self.arms = [FakeArm(FakeArmConfig(), self.clock) for _ in arms]
        self.links = [ArmLink(arm.name, driver, self.clock) for arm, driver in zip(arms, self.arms, strict=True)]
        self.published = []
        self.supervision = Supervision(self.config, self.links, self.clock, self.published.append)
        self.unserved = set()
        self.wait(0.1)

    def serve(self):
        for link in self.links:
            link.serve_stop()
            if link not in self.unserved:
                link.serve_exchange()

    def tick(self, late_s=0.0):
        self.clock.advance_s(late_s)
        self.supervision.tick(self.clock.monotonic_s() - late_s)
        self.serve()
        self.clock.advance_s(1 / self.config.tick_hz)

    def wait(self, duration_s):
        for _ in range(round(duration_s * self.config.tick_hz)):
            self.tick()

    def ask(self, kind, *, token_role=Role.SUPERVISE, role=Role.OPERATE, operator="ada", **fields):
        if issubclass(kind, m.PersonsRequest):
            fields |= {"operator": operator, "role": role}
        elif kind is m.Stop:
            fields |= {"operator": operator}
        return self.supervision.handle(kind(request_id=7, **fields), role=token_role)

    def must(self, kind, **fields):
        reply = self.ask(kind, **fields)
        assert reply.ok, reply.error
        return reply

    def refused(self, kind, **fields):
        reply = self.ask(kind, **fields)
        assert not reply.ok
        return reply.error

    @property
    def state(self):
        return self.supervision.state

    def arm(self):
        self.must(m.Arm)
        return self

    def chunk(self, actions, *, generation=None, period_s=0.2, lifetime_s=0.2, age_s=0.05, first_s=0.0, checkpoint="abc"):
        if generation is None:
            generation = self.ask(m.ReportValue, token_role=Role.POLICY, value=0.0).generation
        starts = tuple(first_s + period_s * i for i in range(len(actions)))
        return {
            "token_role": Role.POLICY,
            "generation": generation,
            "observation_sequence": 3,
            "observation_age_s": age_s,
            "checkpoint": checkpoint,
            "policy_version": 1,
            "actions": tuple(tuple(action) for action in actions),
            "start_after_s": starts,
            "expire_after_s": tuple(start + lifetime_s for start in starts),
        }

    def press(self, operator="ada", **fields):
        return self.must(m.Acquire, operator=operator, **fields).fence

    def push(self, fence, sequence, twist=(0.0, 0.1, 0.0, 0.0, 0.0, 0.0), *, ask=None, age_s=0.0, gripper=None):
        n = len(self.links)
        fields = {"fence": fence, "sequence": sequence, "age_s": age_s, "twist": (twist,) * n, "gripper_opening": (gripper,) * n}
        return (ask or self.must)(m.HumanInput, **fields)

    def hold_key(self, fence, duration_s, twist=(0.0, 0.1, 0.0, 0.0, 0.0, 0.0), first=1, gripper=None):
        for index in range(round(duration_s / 0.05)):
            self.push(fence, first + index, twist, gripper=gripper)
            self.wait(0.05)

    def positions(self):
        return [arm.true_pose().position_m for arm in self.arms]

    def steps(self, source=None):
        return [x for x in self.published if isinstance(x, m.Step) and source in (None, x.source)]

    def events(self, kind):
        return [x for x in self.published if isinstance(x, m.Event) and x.kind == kind]

    def status(self):
        return next(x for x in reversed(self.published) if isinstance(x, m.Status))
