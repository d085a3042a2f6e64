"""What tests of the console's server share: the client of a page, what it sends, a console before a supervisor's socket."""

from __future__ import annotations

import contextlib
import json
import time

from starlette.testclient import TestClient

from console.app import Console
from console.people import People
from console.robot_link import RobotLinkConfig
from robot_drivers.states import Role, State

ORIGIN = "http://testserver"
TOKENS = {role: role.value * 8 for role in (Role.VIEW, Role.OPERATE, Role.SUPERVISE)}


def client_of(console, **headers):
    headers = {"host": "testserver", "origin": ORIGIN} | headers
    return TestClient(console.app(), base_url=ORIGIN, headers=headers)


def sign_in(client, role=Role.OPERATE, name="ada"):
    answer = client.post("/session", content=json.dumps({"token": TOKENS[role], "name": name}))
    assert answer.status_code == 200, answer.text
    return answer


def console_before(folder, **options):
    """A console of the robot whose socket is in ``folder``."""
    config = RobotLinkConfig(name="arm", address=str(folder / "sock"), tokens=folder / "tokens")
    return Console([config], People(TOKENS), origins=[ORIGIN], **options)


@contextlib.contextmanager
def commands(client):
    with client.websocket_connect("/ws/command") as socket:
        yield socket


def press(socket, number=1, **fields):
    socket.send_json({"type": "press", "id": number, "robot": "arm", "phase": "correction", **fields})
    return socket.receive_json()


def frame(fence, sequence=1, **fields):
    twist = [[0.05, 0, 0, 0, 0, 0]]
    whole = {"type": "input", "robot": "arm", "fence": fence, "sequence": sequence, "t": 1.0, "twist": twist, "gripper": [None]}
    return whole | {"phase": "correction"} | fields


def wait_until(condition):
    until_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until_s, "it did not come true"
        time.sleep(0.001)


def connected(client, robot):
    """Wait for the console's link; then the robot is armed."""

    def answers():
        with commands(client) as socket:
            socket.send_json({"type": "do", "id": 1, "robot": "arm", "act": "arm"})
            return socket.receive_json()["ok"]

    wait_until(answers)
    assert robot.state is State.ARMED_IDLE
