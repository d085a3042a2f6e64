"""The demonstration robot: its limits are ones that its arm can reach, its pictures show the arm, its parts start and end."""

from __future__ import annotations

import fcntl
import itertools
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from console import demo
from console.demo_process import Process
from console.demo_robots import REALMAN
from console.drawn_arm import DrawnArm
from core.errors import ConfigError, WorkerError
from core.specs import CameraSpec
from robot_drivers import messages as m
from robot_drivers.emulators.realman import RealmanController
from robot_drivers.limits import Box, read_robot_config
from robot_drivers.protocol import ProtocolError, read_tokens
from robot_drivers.states import Role, State
from robot_drivers.supervisor_client import SupervisorClient

BOX = Box(low_m=(0.2, -0.2, 0.05), high_m=(0.35, 0.2, 0.3))


@pytest.fixture
def controller():
    return RealmanController(host="127.0.0.1", port=0)


def drawn(controller, eye_m):
    def look():
        return controller.arm.chain.frames(controller.arm.joints_rad), 0.5

    spec = CameraSpec(name="front", height_px=90, width_px=120)
    return DrawnArm(spec, rate_hz=1000, eye_m=eye_m, at_m=(0.2, 0, 0.25), box=BOX, look=look).grab().image


def test_every_corner_of_the_box_can_be_reached_from_where_the_arm_starts(controller):
    limits = read_robot_config(REALMAN).arms[0].limits
    arm = controller.arm
    start, rotation = arm.pose.position_m, Rotation.from_quat(arm.pose.quaternion_wxyz, scalar_first=True).as_matrix()
    goals = [np.array(corner) for corner in itertools.product(*zip(limits.box.low_m, limits.box.high_m, strict=True))]
    for goal in [*goals, np.array(limits.home_position_m)]:
        joints = arm.joints_rad
        for part in np.linspace(0, 1, 40)[1:]:
            joints = arm.chain.follow(joints, start + part * (goal - start), rotation)
            assert joints is not None, f"{goal} is out of reach"
    assert (np.array(limits.box.low_m) < start).all()
    assert (start < np.array(limits.box.high_m)).all()


def test_a_picture_shows_where_the_arm_is(controller):
    before = drawn(controller, (1.05, 0.35, 0.62))
    assert before.shape == (90, 120, 3)
    assert (before == drawn(controller, (1.05, 0.35, 0.62))).all()
    controller.arm.joints_rad = controller.arm.joints_rad + 0.2
    assert (before != drawn(controller, (1.05, 0.35, 0.62))).any()


def test_a_part_that_does_not_start_is_named_with_its_words(tmp_path):
    with (
        pytest.raises(WorkerError, match=r"console did not start; it said:\n.*--robot"),
        Process("console", [], log=tmp_path / "log", ready="ready"),
    ):
        pass


def test_a_second_demonstration_in_a_folder_leaves_the_first_ones_files_alone(tmp_path):
    (tmp_path / "supervisor.log").write_text("listening on arm.sock")
    with (tmp_path / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match=r"already runs in .*; stop it first, or choose another --folder"):
            demo.run("realman", tmp_path, 1, threading.Event())
    assert (tmp_path / "supervisor.log").read_text() == "listening on arm.sock"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "supervisor.log"]


def test_what_a_part_says_is_whole_though_one_that_was_left_over_writes_there_too(tmp_path):
    def said_again_and_again(word):
        program = f"import time\nwhile True: print('{word}', flush=True); time.sleep(0.005)"
        return Process("timeit", ["-n", "1", "-r", "1", program], log=tmp_path / "log", ready=word)

    with said_again_and_again("before") as left_over, said_again_and_again("after") as part:
        while "before" not in part.words:
            assert left_over.is_running
        assert re.fullmatch(r"(before|after|\n)*", part.words)
        assert "after" in part.words


@pytest.mark.realtime
def test_the_demonstration_starts_and_an_interrupt_ends_every_part(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "console.demo", "--folder", "demo", "--port", str(port)]
    root = str(Path(__file__).parent.parent)
    process = subprocess.Popen(
        command, cwd=tmp_path, env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin"}, stdout=subprocess.PIPE, text=True
    )
    try:
        printed = ""
        while "Ctrl-C" not in printed:
            line = process.stdout.readline()
            assert line, printed
            printed += line
        assert set(re.findall(r"(\w+) +http://127\.0\.0\.1:\d+/#\S+", printed)) == {"view", "operate", "supervise"}
        armed = threading.Event()
        token = read_tokens(tmp_path / "demo/arm.tokens")[Role.SUPERVISE]
        address = str(tmp_path / "demo/arm.sock")

        def see(message):
            if isinstance(message, m.Status) and message.state is State.DISARMED:
                armed.set()

        client = SupervisorClient(address, token=token, client="test", on_message=see, timeout_s=20.0)
        assert armed.wait(30), "the supervisor does not reach the arm"
        client.ask(m.Arm(request_id=0, operator="ada", role=Role.SUPERVISE))
        client.close()
    finally:
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert "All parts have ended." in rest
    with pytest.raises(ProtocolError):
        SupervisorClient(address, token=token, client="test")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
