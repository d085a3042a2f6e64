"""What the tests of the console in a browser share: an emulated arm here, supervisor and console as processes, pages signed in.

What the arm did is read from the emulator's own log, on this host's monotonic clock; what a page shows is not believed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from omegaconf import OmegaConf

from robot_drivers import messages as m
from robot_drivers.emulators.emulator import Emulator
from robot_drivers.emulators.realman import RealmanController
from robot_drivers.emulators.simulated_arm import MotionLimits
from robot_drivers.protocol import read_tokens
from robot_drivers.states import Role, State
from robot_drivers.supervisor_client import SupervisorClient

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium")
LEASE_S = 0.9
MOVING_M_S = 1e-4
PATIENT = {"late_tick_s": 60, "stale_state_s": 60, "tracking_error_s": 60}
"""A busy test machine is late, which is not what is tested here."""


class ConsoleRig:
    """One emulated Realman, its supervisor, a console."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.emulator = Emulator(RealmanController(host="127.0.0.1", port=0, limits=MotionLimits(hard_stop_factor=20.0)))
        self.emulator.start()
        config = OmegaConf.load(ROOT / "configs/robots/realman_emulator.yaml")
        config.watchdog.update(PATIENT)
        config.lease_ttl_s = LEASE_S
        config.arms[0].options.update({"port": self.emulator.port, "timeout_s": 10.0})
        OmegaConf.save(config, folder / "robot.yaml")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.messages: list[m.Message] = []
        self._changed = threading.Condition()
        self.start_supervisor()
        self.start_console()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start_supervisor(self) -> None:
        options = {"--config": "robot.yaml", "--socket": "arm.sock", "--tokens": "arm.tokens"}
        self._start("supervisor", "robot_drivers.supervisor", options, "listening on")
        token = read_tokens(self.folder / "arm.tokens")[Role.SUPERVISE]
        self.client = SupervisorClient(
            str(self.folder / "arm.sock"), token=token, client="test", on_message=self._see, timeout_s=20.0
        )

    def start_console(self) -> None:
        write = self.folder / "people"
        if not write.exists():
            write.touch(mode=0o600)
            write.write_text("".join(f"{role.value} {role.value * 8}\n" for role in (Role.VIEW, Role.OPERATE, Role.SUPERVISE)))
        options = {"--robot": "arm=arm.sock", "--tokens": "people", "--port": str(self.port)}
        self._start("console", "console", options, "signs in once")
        self._wait(lambda: self._answers())

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()
        process.stdout.close()

    def close(self) -> None:
        self.client.close()
        for name in list(self.processes):
            self.kill(name)
        self.emulator.close()

    def status_where(self, condition, timeout_s: float = 30.0, since_s: float = 0.0) -> m.Status:
        def found():
            newest = next((x for x in reversed(self.messages) if isinstance(x, m.Status)), None)
            return newest if newest and newest.time_monotonic_s >= since_s and condition(newest) else None

        with self._changed:
            last = self.messages[-2:]
            assert self._changed.wait_for(found, timeout_s), f"waited in vain; before was {last}, now {self.messages[-2:]}"
            return found()

    def be(self, state: State) -> None:
        """Come to ``state`` from whatever the test before left."""
        person = {"request_id": 0, "operator": "test", "role": Role.SUPERVISE}
        now = self.status_where(lambda status: status.state is not State.DISCONNECTED, since_s=time.monotonic())
        if now.state is State.ESTOP:
            self.status_where(lambda status: not status.arms[0].is_moving)
            time.sleep(0.6)  # the supervisor wants half a second without input
            self.client.ask(m.Reset(**person, reason="next test", confirmed=True))
        elif now.state is not State.DISARMED:
            self.client.ask(m.Disarm(**person))
        if state is State.ARMED_IDLE:
            self.client.ask(m.Arm(**person))
        self.status_where(lambda status: status.state is state)

    def moves_after(self, time_s: float) -> bool:
        """Whether the arm itself says that it moved, any time from ``time_s`` on."""
        return any(sample.speed_m_s > MOVING_M_S for sample in self.emulator.samples(time_s))

    def wait_for_motion(self, since_s: float) -> None:
        self._wait(lambda: self.moves_after(since_s))

    def wait_for_rest(self) -> float:
        """Until nothing moved for a lease and a half. Returns when the arm moved last."""
        self._wait(lambda: not self.moves_after(time.monotonic() - 1.5 * LEASE_S))
        moving = [sample.time_s for sample in self.emulator.samples() if sample.speed_m_s > MOVING_M_S]
        return max(moving, default=0.0)

    def steps(self, since_s: float, source: str) -> list[m.Step]:
        with self._changed:
            steps = [x for x in self.messages if isinstance(x, m.Step)]
        return [step for step in steps if step.start_monotonic_s >= since_s and step.source == source]

    def events(self, since_s: float, kind: str) -> list[m.Event]:
        with self._changed:
            events = [x for x in self.messages if isinstance(x, m.Event)]
        return [event for event in events if event.time_monotonic_s >= since_s and event.kind == kind]

    def sign_in(self, context, name: str = "ada", role: Role = Role.OPERATE, path: str = ""):
        page = context.new_page()
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(f"{self.url}/{path}#{role.value * 8}")
        page.get_by_label("Your name").fill(name)
        page.get_by_role("button", name="Sign in").click()
        page.locator("body[data-ready=yes]").wait_for()
        page.locator("#acts").wait_for()
        return page

    def _see(self, message: m.Message) -> None:
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()

    def _start(self, name: str, module: str, options: dict[str, str], ready: str) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", module, *(part for option in options.items() for part in option)]
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.processes[name] = process
        assert any(ready in line for line in process.stdout), f"{name} did not start"

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def _wait(self, condition, timeout_s: float = 30.0) -> None:
        until_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < until_s, "waited in vain"
            time.sleep(0.05)


def processes_of(browser_name: str, parent: int) -> list[int]:
    """Every process that descends from ``parent`` and runs ``browser_name``."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    family = {parent}
    for _ in rows:
        family |= {int(pid) for pid, ppid, _ in rows if int(ppid) in family}
    return [int(pid) for pid, _, name in rows if int(pid) in family and name.startswith(browser_name[:15])]


def signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
