"""A person at a real supervisor: homes, arms, hands over, takes over in every other episode, labels. Runs in a thread."""

from __future__ import annotations

import threading
import time

from robot_drivers import messages as m
from robot_drivers.protocol import ProtocolError, read_tokens
from robot_drivers.states import RefusedError, Role, State
from robot_drivers.supervisor_client import SupervisorClient


class ScriptedOperator:
    """``steps``: what the supervisor told of every episode, by its id there."""

    def __init__(self, socket, tokens, *, is_policy=True, plays_s=1.2):
        self.client = SupervisorClient(
            str(socket), token=read_tokens(tokens)[Role.SUPERVISE], client="operator", on_message=self.see
        )
        self.is_policy, self.plays_s = is_policy, plays_s
        self.status, self.steps, self.homed_s, self.num_episodes = None, {}, 0.0, 0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def see(self, message):
        if isinstance(message, m.Status):
            self.status = message
        elif isinstance(message, m.Step) and message.episode_id is not None:
            self.steps.setdefault(message.episode_id, []).append(message)
        elif isinstance(message, m.Event) and message.kind == "state" and message.text.startswith("homing -> armed_idle"):
            self.homed_s = time.monotonic()

    def ask(self, kind, **fields):
        return self.client.ask(kind(request_id=0, operator="ada", role=Role.OPERATE, **fields))

    def work(self):
        while not self.over.wait(0.05):
            try:
                self.act()
            except (RefusedError, ProtocolError):
                continue  # too early; look again

    def act(self):
        status = self.status
        if status is None:
            return
        if status.state is State.DISARMED:
            self.ask(m.Arm)
        elif status.episode_id is None and status.state in (State.ARMED_IDLE, State.HOLD):
            if time.monotonic() > self.homed_s + 3.0:  # no episode has begun: the worker was not there yet
                self.ask(m.Home)
        elif status.episode_id is not None:
            self.play(status.episode_id)

    def play(self, episode_id):
        self.num_episodes += 1
        self.homed_s = 0.0
        if self.is_policy:
            self.ask(m.HandBack)
            self.wait(self.plays_s)
        if not self.is_policy or self.num_episodes % 2 == 0:
            self.drive(1.0)
            self.wait(0.5)
            if self.is_policy:
                self.ask(m.HandBack)
                self.wait(0.8)
        label = m.Label.SUCCESS if self.num_episodes % 2 else m.Label.FAILURE
        self.ask(m.SetLabel, episode_id=episode_id, label=label)
        while self.status.episode_id == episode_id and not self.over.is_set():
            self.wait(0.02)

    def drive(self, duration_s):
        fence = self.ask(m.Acquire).fence
        for sequence in range(1, round(duration_s / 0.05)):
            twist = ((0.0, 0.05, 0.0, 0.0, 0.0, 0.0),)
            fields = {"fence": fence, "sequence": sequence, "age_s": 0.0, "twist": twist, "gripper_opening": (None,)}
            self.client.ask(m.HumanInput(request_id=0, **fields))
            self.wait(0.05)
        self.client.ask(m.Release(request_id=0, fence=fence))

    def wait(self, duration_s):
        self.over.wait(duration_s)

    def close(self):
        self.over.set()
        self.thread.join()
        self.client.close()
