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

import numpy as np
import pytest
from omegaconf import OmegaConf
from playwright.sync_api import expect

from core.specs import CameraSpec
from robot_drivers import messages as m
from robot_drivers.cameras.camera import Camera
from robot_drivers.cameras.share import share
from robot_drivers.cameras.simulated import SimulatedSource
from robot_drivers.emulators.emulator import Emulator
from robot_drivers.emulators.realman import RealmanController
from robot_drivers.emulators.simulated_arm import MotionLimits
from robot_drivers.protocol import read_tokens
from robot_drivers.states import RefusedError, Role, State
from robot_drivers.supervisor_client import SupervisorClient

ROOT = Path(__file__).parent.parent
CHROMIUM = shutil.which("chromium")
LEASE_S = 0.9
TICK_S = 0.01
BUSY_S = 0.5
"""So late a test machine that does other things too may be; what is asserted besides does not depend on it."""
MOVING_M_S = 1e-5
CAMERAS = ("front", "wrist", "left", "right")
TOKENS = {role: role.value * 8 for role in (Role.VIEW, Role.OPERATE, Role.SUPERVISE)}
PATIENT = {"late_tick_s": 60, "stale_state_s": 60, "tracking_error_s": 60}
"""A busy test machine is late, which is not what is tested here."""


class ConsoleRig:
    """One emulated Realman with four cameras, its supervisor, a console."""

    def __init__(self, folder: Path, *console_options: str) -> None:
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
        self.console_options = console_options
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.messages: list[m.Message] = []
        self._changed = threading.Condition()
        self._is_over = threading.Event()
        specs = [CameraSpec(name=name, height_px=240, width_px=320) for name in CAMERAS]
        self.cameras = {spec.name: SimulatedSource(spec, rate_hz=10) for spec in specs}
        cameras = [Camera(source) for source in self.cameras.values()]
        self._sharing = threading.Thread(target=share, args=(cameras, folder / "cameras", self._is_over.wait))
        self._sharing.start()
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
        people = self.folder / "people"
        if not people.exists():
            people.touch(mode=0o600)
            people.write_text("".join(f"{role.value} {token}\n" for role, token in TOKENS.items()))
        options = {"--robot": "arm=arm.sock", "--tokens": "people", "--port": str(self.port), "--cameras": "arm=cameras"}
        self.links = self._start("console", "console", options, "signs in once", self.console_options)
        self.wait(lambda: self._answers())

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()
        process.stdout.close()

    def close(self) -> None:
        self.client.close()
        for name in list(self.processes):
            self.kill(name)
        self._is_over.set()
        self._sharing.join()
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
            self.client.ask(m.Home(**person))  # or a push could meet the box's edge
            self.status_where(lambda status: status.reason == "home")
        self.status_where(lambda status: status.state is state)

    def moves_after(self, time_s: float) -> bool:
        """Whether the arm itself says that it moved, any time from ``time_s`` on."""
        return any(sample.speed_m_s > MOVING_M_S for sample in self.emulator.samples(time_s))

    def went_m(self, since_s: float) -> float:
        """How far the tool came away from where it was, by the arm's own log."""
        positions = np.array([sample.position_m for sample in self.emulator.samples(since_s)])
        return float(np.linalg.norm(positions - positions[0], axis=1).max())

    def wait_for_motion(self, since_s: float) -> None:
        self.wait(lambda: self.moves_after(since_s))

    def stopped_after(self, time_s: float) -> float:
        """When the first stop after ``time_s`` reached the arm."""
        self.wait(lambda: any(event.name == "stop" for event in self.emulator.events(time_s)))
        return next(event.time_s for event in self.emulator.events(time_s) if event.name == "stop")

    def rests_since(self, stop_s: float) -> bool:
        """Whether after a stop the arm was asked for nothing, came to rest, and rests."""
        targets = [event for event in self.emulator.events(stop_s) if event.name == "target" and event.time_s > stop_s]
        self.wait(lambda: self.emulator.samples()[-1].speed_m_s <= MOVING_M_S)
        speeds = [sample.speed_m_s for sample in self.emulator.samples(stop_s)]
        return targets == [] and bool((np.diff(speeds) <= 1e-9).all())

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
        page.errors, page.foreign = [], []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("request", lambda request: request.url.startswith((self.url, "blob:")) or page.foreign.append(request.url))
        page.goto(f"{self.url}/{path}#{TOKENS[role]}")
        page.get_by_label("Your name").fill(name)
        page.get_by_role("button", name="Sign in").click()
        page.locator("body[data-live=yes]").wait_for()
        return page

    def _see(self, message: m.Message) -> None:
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()

    def _start(self, name: str, module: str, options: dict[str, str], ready: str, more: tuple[str, ...] = ()) -> str:
        """Start a module as a process. Returns what it printed until it was ready."""
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", module, *(part for option in options.items() for part in option), *more]
        process = subprocess.Popen(
            command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.processes[name] = process
        printed = ""
        while ready not in printed:
            line = process.stdout.readline()
            assert line, f"{name} did not start; it printed {printed!r}"
            printed += line
        return printed

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def wait(self, condition, timeout_s: float = 30.0, period_s: float = 0.05) -> None:
        until_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < until_s, "waited in vain"
            time.sleep(period_s)


class ScriptedPolicy:
    """In the robot worker's place: an episode, small motions while the policy may act, values as they are set."""

    def __init__(self, rig: ConsoleRig, checkpoint: str, episode_id: str = "episode-1") -> None:
        token = read_tokens(rig.folder / "arm.tokens")[Role.POLICY]
        self.client = SupervisorClient(
            str(rig.folder / "arm.sock"), token=token, client="policy", on_message=self._see, timeout_s=20.0
        )
        self._checkpoint, self._episode_id = checkpoint, episode_id
        self.value: tuple[float, float, float] | None = None
        self._status: m.Status | None = None
        self._is_over = threading.Event()
        self.client.ask(m.BeginEpisode(request_id=0, episode_id=episode_id, instruction="pick the can", checkpoint=checkpoint))
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()
        self.client.ask(m.EndEpisode(request_id=0, episode_id=self._episode_id))
        self.client.close()

    def _see(self, message: m.Message) -> None:
        if isinstance(message, m.Status):
            self._status = message

    def _run(self) -> None:
        number = 0
        while not self._is_over.wait(0.1):
            number += 1
            if self.value is not None:
                value, advantage, threshold = self.value
                self.client.ask(m.ReportValue(request_id=0, value=value, advantage=advantage, threshold=threshold))
            if self._status is not None and self._status.state is State.POLICY:
                sway = 0.012 * float(np.sin(0.25 * number))
                chunk = m.ProposeChunk(
                    request_id=0,
                    generation=self._status.generation,
                    observation_sequence=number,
                    observation_age_s=0.02,
                    checkpoint=self._checkpoint,
                    policy_version=1,
                    actions=((0.0, sway, -sway / 2, 0.0, 0.0, 0.0, 1.0),) * 4,
                    start_after_s=(0.0, 0.2, 0.4, 0.6),
                    expire_after_s=(0.2, 0.4, 0.6, 0.8),
                )
                with contextlib.suppress(RefusedError):  # a person took over meanwhile
                    self.client.ask(chunk)


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


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH; on Debian: apt-get install chromium")


def take_over(rig: ConsoleRig, page) -> None:
    """Press and wait until the arm moves."""
    start_s = time.monotonic()
    page.keyboard.down("Space")
    expect(page.locator("#hold-state")).to_contain_text("you have control")
    page.side = 1 if rig.emulator.pose().position_m[1] < 0 else -1  # towards the middle of the box
    page.keyboard.down("KeyA" if page.side > 0 else "KeyD")
    rig.wait_for_motion(start_s)
