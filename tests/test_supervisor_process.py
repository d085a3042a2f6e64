"""The supervisor as its own process, with clients that are killed, stopped and continued."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from core.errors import ConfigError
from robot_drivers import messages as m
from robot_drivers.make import make_driver
from robot_drivers.protocol import ProtocolError, dial, read_tokens
from robot_drivers.states import RefusedError, Role, State
from robot_drivers.supervisor import keep_time, main
from robot_drivers.supervisor_client import SupervisorClient

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "configs/robots/fake.yaml"
PERSON = {"request_id": 0, "operator": "ada", "role": Role.OPERATE}


class Watcher:
    """A client that sees everything."""

    def __init__(self, folder, role=Role.SUPERVISE):
        self.messages = []
        self.changed = threading.Condition()
        token = read_tokens(folder / "tokens")[role]
        self.client = SupervisorClient(str(folder / "s.sock"), token=token, client="watcher", on_message=self.see)

    def see(self, message):
        with self.changed:
            self.messages.append(message)
            self.changed.notify_all()

    def status_where(self, condition, timeout_s=10.0):
        def newest():
            statuses = [x for x in self.messages if isinstance(x, m.Status)]
            return statuses[-1] if statuses and condition(statuses[-1]) else None

        with self.changed:
            assert self.changed.wait_for(newest, timeout_s), f"waited in vain; last was {self.messages[-1:]}"
            return newest()


@pytest.fixture
def process(tmp_path):
    patient = OmegaConf.load(CONFIG)  # a busy test machine is late, which is not what is tested here
    patient.watchdog.update({"late_tick_s": 60, "stale_state_s": 60, "tracking_error_s": 60})
    patient.lease_ttl_s = 1.0
    OmegaConf.save(patient, tmp_path / "robot.yaml")
    options = {"--config": tmp_path / "robot.yaml", "--socket": tmp_path / "s.sock", "--tokens": tmp_path / "tokens"}
    started = subprocess.Popen(
        [sys.executable, "-m", "robot_drivers.supervisor", *(str(part) for option in options.items() for part in option)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert "listening on" in started.stdout.readline()
    started.folder = tmp_path
    yield started
    if started.poll() is None:
        started.kill()
    started.wait()
    started.stdout.close()


def drive_forever(folder):
    """A child that holds the key down."""
    client = SupervisorClient(str(folder / "s.sock"), token=read_tokens(folder / "tokens")[Role.OPERATE], client="hand")
    fence = client.ask(m.Acquire(**PERSON)).fence
    for sequence in range(10**6):
        sign = 1 if (sequence // 40) % 2 else -1
        client.tell(
            m.HumanInput(
                request_id=0,
                fence=fence,
                sequence=sequence,
                age_s=0.0,
                twist=((0.0, 0.05 * sign, 0.0, 0.0, 0.0, 0.0),),
                gripper_opening=(None,),
            )
        )
        time.sleep(0.05)


@pytest.fixture
def driven(process):
    watcher = Watcher(process.folder)
    watcher.status_where(lambda status: status.state is State.DISARMED)
    watcher.client.ask(m.Arm(**PERSON))
    driver = multiprocessing.get_context("spawn").Process(target=drive_forever, args=(process.folder,))
    driver.start()
    watcher.status_where(lambda status: status.state is State.HUMAN and status.arms[0].is_moving, timeout_s=60)
    yield watcher, driver
    if driver.is_alive():
        os.kill(driver.pid, signal.SIGKILL)
    driver.join()
    watcher.client.close()


@pytest.mark.slow
def test_a_killed_client_is_held_within_its_lease(driven):
    watcher, driver = driven
    os.kill(driver.pid, signal.SIGKILL)
    status = watcher.status_where(lambda status: status.state is State.HOLD)
    assert "no input from ada" in status.reason
    watcher.status_where(lambda status: not status.arms[0].is_moving)


@pytest.mark.slow
def test_a_client_stopped_and_continued_does_not_move_it_again(driven):
    watcher, driver = driven
    os.kill(driver.pid, signal.SIGSTOP)
    hold = watcher.status_where(lambda status: status.state is State.HOLD)
    held = watcher.status_where(lambda status: status.sequence > hold.sequence + 5)
    assert not held.arms[0].is_moving
    os.kill(driver.pid, signal.SIGCONT)
    later = watcher.status_where(lambda status: status.sequence > held.sequence + 20)
    assert later.state is State.HOLD
    assert later.arms[0].position_m == held.arms[0].position_m


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_arms_then_ends_the_process(driven, process, number):
    watcher, _ = driven
    process.send_signal(number)
    assert process.wait(10) == 0
    assert not (process.folder / "s.sock").exists()
    stops = [x.text for x in watcher.messages if isinstance(x, m.Event) and x.kind == "state"]
    assert stops[-1] == "human -> estop: the supervisor ends"
    with pytest.raises(ProtocolError):
        watcher.client.ask(m.Arm(**PERSON))


@pytest.mark.slow
def test_strangers_and_nonsense_are_shown_the_door_and_change_nothing(process):
    address = str(process.folder / "s.sock")
    with pytest.raises(ProtocolError, match="unknown token"):
        SupervisorClient(address, token="x" * 43, client="stranger")
    for sent in (b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x02\xc1\xc1", b"\x80\x04pickle"):
        sock = dial(address, timeout_s=2.0)
        sock.settimeout(5.0)
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(4096):
                pass
        sock.close()
    viewer = Watcher(process.folder, Role.VIEW)
    with pytest.raises(RefusedError, match="needs operate"):
        viewer.client.ask(m.Arm(**PERSON))
    viewer.client.ask(m.Stop(request_id=0, operator="guest"))
    assert viewer.status_where(lambda status: status.state is State.ESTOP)
    viewer.client.close()


def test_ticks_keep_their_deadlines_and_missed_ones_are_skipped():
    from core.clock import ManualClock

    clock, ticks = ManualClock(), []

    def tick(due_s):
        ticks.append((round(due_s, 3), round(clock.monotonic_s(), 3)))
        clock.advance_s(0.035 if len(ticks) == 3 else 0.001)

    def wait_s(duration_s):
        clock.advance_s(duration_s)
        return len(ticks) == 6

    keep_time(tick, clock=clock, period_s=0.01, wait_s=wait_s)
    assert ticks == [(0.0, 0.0), (0.01, 0.01), (0.02, 0.02), (0.05, 0.055), (0.06, 0.06), (0.07, 0.07)]


def test_a_config_or_driver_that_cannot_be_used_ends_with_a_message(tmp_path, capsys):
    (tmp_path / "robot.yaml").write_text(CONFIG.read_text().replace("lease_ttl_s: 0.25", ""))
    assert main(["--config", str(tmp_path / "robot.yaml")]) == 2
    assert "lease_ttl_s: Field required" in capsys.readouterr().err
    assert main(["--config", str(tmp_path / "none.yaml")]) == 2
    assert "cannot read" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="unknown driver 'ghost'; known are"):
        make_driver("ghost", {}, None)
    with pytest.raises(ConfigError, match="unknown option"):
        make_driver("fake", {"speed": 1}, None)
    with pytest.raises(ConfigError, match="state_rate_hz of FakeArmConfig"):
        make_driver("fake", {"state_rate_hz": "often"}, None)
