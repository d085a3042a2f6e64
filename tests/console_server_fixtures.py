"""Fixtures of the tests of the console's server: a supervisor in this process, a page's client of a console before it."""

from __future__ import annotations

import pytest
from console_server_rig import client_of, console_before
from supervised_robot import SupervisedRobot

from robot_drivers.protocol import listen, read_tokens, write_tokens
from robot_drivers.supervisor_server import SupervisorServer


@pytest.fixture
def robot(tmp_path):
    """A supervisor in this process behind a real socket, with a fake arm."""
    robot = SupervisedRobot()
    write_tokens(tmp_path / "tokens")
    listening = listen(str(tmp_path / "sock"))
    server = SupervisorServer(listening, read_tokens(tmp_path / "tokens"))
    robot.supervision._publish = lambda telemetry: (robot.published.append(telemetry), server.publish(telemetry))
    server.start(robot.supervision)
    yield robot
    server.close("the test is over")


@pytest.fixture
def client(robot, tmp_path):
    """A page's client of a console that is connected to the robot."""
    with client_of(console_before(tmp_path)) as client:
        yield client
