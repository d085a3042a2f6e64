"""The emulated arms: kinematics, mechanics in simulated time, the wire's faults, the control port, the command line."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from emulated_arms import realman_emulator, wait_until
from scipy.spatial.transform import Rotation

from core.errors import ConfigError, RecapError
from robot_drivers import emulate
from robot_drivers.driver import Pose
from robot_drivers.emulators.control import EmulatorControl, ask
from robot_drivers.emulators.emulator import Fault
from robot_drivers.emulators.realman import HOME_RAD as RM75_HOME_RAD
from robot_drivers.emulators.serial_chain import RM75_JOINTS, XARM7_JOINTS, SerialChain
from robot_drivers.emulators.simulated_arm import ArmFault, MotionLimits, SimulatedArm
from robot_drivers.emulators.wire import WireFault
from robot_drivers.emulators.xarm import HOME_RAD as XARM7_HOME_RAD

ARMS = {"xarm7": (XARM7_JOINTS, XARM7_HOME_RAD), "rm75": (RM75_JOINTS, RM75_HOME_RAD)}


def arm(name: str = "xarm7", **limits: float) -> SimulatedArm:
    links, home_rad = ARMS[name]
    return SimulatedArm(SerialChain(links), home_rad, 0.0, MotionLimits(**limits))


def offset(pose: Pose, offset_m: tuple[float, float, float], turn_rad: tuple[float, float, float] = (0, 0, 0)) -> Pose:
    rotation = Rotation.from_rotvec(turn_rad) * Rotation.from_quat(pose.quaternion_wxyz, scalar_first=True)
    return Pose(position_m=pose.position_m + np.array(offset_m), quaternion_wxyz=rotation.as_quat(scalar_first=True))


def run(arm: SimulatedArm, duration_s: float) -> None:
    start_s = arm.samples[-1].time_s if arm.samples else 0.0
    for tick in range(1, round(duration_s * 100) + 1):
        arm.advance(start_s + tick / 100)


def test_the_flange_is_where_the_manuals_say() -> None:
    xarm = SerialChain(XARM7_JOINTS).forward(np.zeros(7))
    assert xarm.position_m == pytest.approx([0.206, 0, 0.1205], abs=1e-9)
    assert np.abs(xarm.quaternion_wxyz) == pytest.approx([0, 1, 0, 0], abs=1e-9)  # pointing down
    assert SerialChain(RM75_JOINTS).forward(np.zeros(7)).position_m == pytest.approx([0, 0, 0.8505], abs=1e-9)


@pytest.mark.parametrize("name", ARMS)
def test_a_target_is_reached_within_the_limits(name: str) -> None:
    moving = arm(name, speed_m_s=0.2, acceleration_m_s2=1.0, speed_rad_s=0.5)
    goal = offset(moving.pose, (0.04, 0.08, -0.04), (0.0, 0.1, 0.3))
    moving.move_to(goal)
    run(moving, 2.0)
    assert moving.pose.position_m == pytest.approx(goal.position_m, abs=1e-5)
    assert abs(moving.pose.quaternion_wxyz @ goal.quaternion_wxyz) == pytest.approx(1, abs=1e-6)
    assert not moving.is_moving
    speeds = np.array([sample.speed_m_s for sample in moving.samples])
    assert 0.15 < speeds.max() <= 0.2 + 1e-9
    assert np.abs(np.diff(speeds)).max() <= 1.0 * 0.01 + 1e-9
    assert max(sample.speed_rad_s for sample in moving.samples) <= 0.5 + 1e-9


@pytest.mark.parametrize("is_hard", [True, False])
def test_a_stop_forgets_the_target_and_a_hard_one_is_shorter(is_hard: bool) -> None:
    moving = arm(speed_m_s=0.25, acceleration_m_s2=1.0)
    start = moving.pose.position_m
    moving.move_to(offset(moving.pose, (0, 0.2, 0)))
    run(moving, 0.4)
    at_stop = moving.samples[-1]
    moving.stop(is_hard=is_hard)
    run(moving, 1.0)
    braking_m = moving.samples[-1].position_m[1] - at_stop.position_m[1]
    deceleration = 4.0 if is_hard else 1.0
    assert braking_m == pytest.approx(at_stop.speed_m_s**2 / (2 * deceleration), abs=0.002)
    assert moving.samples[-1].position_m[1] - start[1] < 0.15
    assert not moving.is_moving


def test_a_busy_machine_makes_the_arm_slow_and_not_fast() -> None:
    moving = arm(speed_m_s=0.2)
    start = moving.pose.position_m
    moving.move_to(offset(moving.pose, (0, 0.2, 0)))
    for second in range(1, 6):
        moving.advance(float(second))  # five ticks where there should have been five hundred
    assert 0.01 < moving.pose.position_m[1] - start[1] < 5 * 0.05 * 0.2 + 1e-6
    assert moving.samples[-1].time_s == pytest.approx(5.0)


def test_a_velocity_ends_by_itself() -> None:
    moving = arm()
    moving.move_at(np.array([0.0, 0.05, 0.0]), np.zeros(3), duration_s=0.3)
    run(moving, 1.0)
    assert moving.samples[-1].speed_m_s == 0
    assert 0.01 < moving.samples[-1].position_m[1] < 0.05 * 0.35


def test_a_fault_stops_the_arm_until_it_is_cleared() -> None:
    moving = arm()
    goal = offset(moving.pose, (0, 0.1, 0))
    moving.move_to(goal)
    run(moving, 0.2)
    moving.raise_fault(ArmFault.COLLISION)
    run(moving, 0.5)
    stood = moving.pose.position_m
    moving.move_to(goal)
    run(moving, 0.5)
    assert moving.pose.position_m == pytest.approx(stood)
    moving.clear_fault()
    run(moving, 0.5)
    assert moving.pose.position_m == pytest.approx(stood)  # cleared, and does not go on by itself
    moving.move_to(goal)
    run(moving, 1.0)
    assert moving.pose.position_m == pytest.approx(goal.position_m, abs=1e-5)


def test_an_emergency_stop_is_cleared_only_when_released() -> None:
    stopped = arm()
    stopped.raise_fault(ArmFault.ESTOP)
    stopped.clear_fault()
    assert stopped.fault is ArmFault.ESTOP
    stopped.release_estop()
    assert stopped.fault is ArmFault.ESTOP
    stopped.clear_fault()
    assert stopped.fault is None


@pytest.mark.parametrize("name", ARMS)
def test_out_of_reach_is_a_singularity_on_the_way(name: str) -> None:
    moving = arm(name)
    moving.move_to(offset(moving.pose, (2.0, 0, 0)))
    run(moving, 8.0)
    assert moving.fault is ArmFault.SINGULARITY
    assert not moving.is_moving


@pytest.mark.parametrize("text", ["", "frieze", "freeze:1", "delay", "delay:soon", "delay:-1", "delay:nan"])
def test_a_fault_that_does_not_exist_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=repr(text).strip("'") or "expected one of"):
        Fault.parse(text)


def test_faults_are_read() -> None:
    assert Fault.parse("delay:0.2") == Fault(kind=WireFault.DELAY, delay_s=0.2)
    assert Fault.parse("collision") == Fault(kind=ArmFault.COLLISION)


def question(port: int, timeout_s: float = 5.0) -> list[bytes]:
    """The pieces in which the answer to one question came."""
    pieces = []
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.sendall(b'{"command":"get_current_arm_state"}\r\n')
        while not (b"current_arm_state" in (answer := b"".join(pieces)) and answer.endswith(b"\r\n")):
            pieces.append(connection.recv(4096))
            if not pieces[-1]:
                raise ConnectionResetError("the emulator closed the connection")
    return pieces


def test_the_wire_misbehaves_and_behaves_again() -> None:
    with realman_emulator() as emulator:
        assert len(question(emulator.port)) == 1
        emulator.inject("partial")
        assert any(len(question(emulator.port)) == 2 for _ in range(50))  # who reads late finds the pieces joined
        emulator.clear()
        emulator.inject("split")
        assert any(len(question(emulator.port)) > 5 for _ in range(50))
        emulator.clear()
        emulator.inject("junk")
        lines = b"".join(question(emulator.port)).split(b"\r\n")
        assert json.loads(lines[-2])["state"] == "current_arm_state"
        assert len(lines) > 3
        emulator.clear()
        emulator.inject("freeze")
        with pytest.raises(TimeoutError):
            question(emulator.port, timeout_s=0.1)
        emulator.clear()
        emulator.inject("drop")
        with pytest.raises(ConnectionError):
            question(emulator.port)
        emulator.clear()
        assert len(question(emulator.port)) == 1


def test_a_command_that_makes_no_sense_is_ignored() -> None:
    with realman_emulator() as emulator:
        bad = [
            b"\r\n", b"nonsense\r\n", b"[1]\r\n", b'{"command":7}\r\n', b'{"command":"movep_canfd"}\r\n',
            b'{"command":"movep_canfd","pose_quat":[0,0,0,0,0,0,0]}\r\n', b'{"command":"movep_canfd","pose_quat":["a"]}\r\n',
            b'{"command":"set_gripper_position","position":5000,"block":false}\r\n',
        ]  # fmt: skip
        with socket.create_connection(("127.0.0.1", emulator.port), timeout=5) as connection:
            for line in bad:
                connection.sendall(line)
            connection.sendall(b'{"command":"get_gripper_state"}\r\n')
            answers = connection.makefile("rb")
            assert json.loads(answers.readline()) == {"command": "set_gripper", "state": False}
            assert json.loads(answers.readline())["actpos"] == 1000
        assert emulator.events() == []


def test_the_control_port_injects_clears_and_logs() -> None:
    start_s = time.monotonic()
    with realman_emulator() as emulator, EmulatorControl(emulator, port=0) as control:
        assert ask(control.port, {"inject": "collision"}) == {"ok": True}
        assert ask(control.port, {"clear": True}) == {"ok": True}
        wait_until(lambda: bool(emulator.samples()))
        log = ask(control.port, {"log_since_s": start_s})
        assert [(event["name"], event["detail"]) for event in log["events"]] == [("fault", "collision")]
        assert len(log["samples"][0]["position_m"]) == 3
        assert ask(control.port, {"log_since_s": time.monotonic() + 1e6}) == {"samples": [], "events": []}
        for bad in ({"inject": "nothing"}, {"inject": 3}, {"clear": False}, {}):
            with pytest.raises(RecapError, match="refuses"):
                ask(control.port, bad)
        assert emulate.main(["inject", "freeze", "--control-port", str(control.port)]) == 0
        with pytest.raises(TimeoutError):
            question(emulator.port, timeout_s=0.1)
        assert emulate.main(["clear", "--control-port", str(control.port)]) == 0
        assert question(emulator.port)
        with pytest.raises(RecapError, match=str(control.port)):
            EmulatorControl(emulator, port=control.port)


def test_the_command_line_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert emulate.main(["realman", "--port", port]) == 2
        assert "choose another --host or --port" in capsys.readouterr().err
    assert emulate.main(["clear", "--control-port", port]) == 1
    assert "no emulator answers" in capsys.readouterr().err
    assert emulate.main(["xarm", "--fault", "frieze"]) == 2
    assert "'frieze'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        emulate.main(["sawyer"])


@pytest.mark.realtime
def test_the_command_serves_until_interrupted() -> None:
    options = ["--port", "0", "--control-port", "0", "--fault", "collision"]
    command = [sys.executable, "-m", "robot_drivers.emulate", "realman", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rsplit(":", 1)[1])
        control_port = int(process.stdout.readline().split()[-1])
        try:
            wait_until(lambda: bool(ask(control_port, {"log_since_s": 0.0})["events"]), timeout_s=20)
            assert json.loads(question(port)[0])["arm_state"]["arm_err"] == 0x100D
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
