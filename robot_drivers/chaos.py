"""Ten minutes of everything at once: ``python -m robot_drivers.chaos --minutes 10 --out FILE.md``.

Two emulated arms (the simulated one and a Realman) under one supervisor, a process of its own; a policy that acts 10 times a
second, two operators, and 10 times a second a draw of what else happens: faults of arms and wires, clients that are cut off, send
nonsense, come late or fall silent, a computer that stutters, stops, resets. Afterwards the arms' own logs are held against what
must hold whatever happens (:mod:`robot_drivers.chaos_checks`).
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import math
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from core.command import EXIT_FAILED, positive, run_command, whole
from core.errors import RecapError
from robot_drivers import chaos_checks as checks
from robot_drivers import messages as m
from robot_drivers.chaos_report import Findings, report
from robot_drivers.driver import Pose
from robot_drivers.emulators.emulator import Emulator
from robot_drivers.emulators.realman import RealmanController
from robot_drivers.emulators.serial_chain import XARM7_JOINTS, SerialChain
from robot_drivers.emulators.simulated import PatternScene, SimulatedController
from robot_drivers.emulators.simulated_arm import SimulatedArm
from robot_drivers.emulators.xarm import HOME_RAD
from robot_drivers.limits import RobotConfig, read_robot_config
from robot_drivers.protocol import ProtocolError, read_tokens
from robot_drivers.states import RefusedError, Role, State
from robot_drivers.supervisor_client import SupervisorClient

TURN_S = 0.1
STANDS_WITHIN_S = 0.75
"""After the end of motion; an arm that is cut off goes on to its last target, which is at most the lead away."""
LEAST_MOVING = 0.1
"""Share of the time; a run of less shows nothing about motion, and counts as failed."""
OVERSHOOT_M = 0.002
"""Of the emulated arm over a target: its own controller's, not the supervisor's."""
_HALF_BOX_M = 0.12
_WIRE = ("freeze", "drop", "delay:0.3", "partial", "split", "junk")
_ARM = ("collision", "singularity", "estop")


class Chaos:
    """One run; the same seed draws the same, the computer's timing does the rest."""

    def __init__(self, folder: Path, template: Path, *, seed: int) -> None:
        """Start arms, supervisor and clients.

        Args:
            folder: for configuration, socket, tokens and the supervisor's log.
            template: configuration whose limits and watchdogs are used.
            seed: of what happens.

        Raises:
            ConfigError: if the template is refused.
            RecapError: if the supervisor does not start.
        """
        read_robot_config(template)
        self._random = random.Random(seed)
        self._folder = folder
        arm = SimulatedArm(SerialChain(XARM7_JOINTS), HOME_RAD, time.monotonic())
        self._left = SimulatedController(arm, PatternScene(), host="127.0.0.1", port=0, camera_port=0, model="kinematic")
        self._right = RealmanController(host="127.0.0.1", port=0)
        self._emulators = {"left": Emulator(self._left), "right": Emulator(self._right)}
        for emulator in self._emulators.values():
            emulator.start()
        self.config = self._write_config(template)
        self._process = self._start_supervisor()
        self._changes: list[checks.StateChange] = []
        self._status: m.Status | None = None
        self._tokens = read_tokens(folder / "tokens")
        self._watcher = self._client(Role.SUPERVISE, "watcher", self._see)
        self._operator = self._client(Role.SUPERVISE, "operator")
        self._policy = self._client(Role.POLICY, "policy")
        self._fence: int | None = None
        self._hand_sequence = 0
        self._policy_silent_until_s = -math.inf
        self._twist = (0.0,) * 6
        self._happened: collections.Counter[str] = collections.Counter()
        self._draws: dict[str, tuple[float, Callable[[], object]]] = self._what_may_happen()

    def run(self, duration_s: float) -> Findings:
        """Let it all happen, then stop, then look at what the arms logged."""
        start_s = time.monotonic()
        names, weights = list(self._draws), [weight for weight, _ in self._draws.values()]
        while (now_s := time.monotonic()) < start_s + duration_s:
            (name,) = self._random.choices(names, weights)
            with contextlib.suppress(RefusedError):  # what is refused has not happened
                self._draws[name][1]()
                self._happened[name] += 1
            with contextlib.suppress(RefusedError):
                if now_s > self._policy_silent_until_s:
                    self._propose()
            self._push()
            time.sleep(max(0.0, TURN_S / 2 - (time.monotonic() - now_s)))
            self._push()
            time.sleep(max(0.0, TURN_S - (time.monotonic() - now_s)))
        return self._look(time.monotonic() - start_s)

    def close(self) -> None:
        """End the supervisor and the arms."""
        for client in (self._watcher, self._operator, self._policy):
            client.close()
        self._process.terminate()
        self._process.wait(30)
        for emulator in self._emulators.values():
            emulator.close()

    # --- arms, supervisor, clients -------------------------------------------------------------------------------------

    def _write_config(self, template: Path) -> RobotConfig:
        tree = OmegaConf.load(template)
        ports = {name: emulator.port for name, emulator in self._emulators.items()}
        options = {
            "left": {"driver": "simulated", "options": {"host": "127.0.0.1", "port": ports["left"], "model": "kinematic"}},
            "right": {
                "driver": "realman",
                "options": {"host": "127.0.0.1", "port": ports["right"], "state_port": 0, "model": "RM75", "gripper": "eg2"},
            },
        }
        arms = []
        for name, chosen in options.items():
            here = self._emulators[name].pose()
            limits = OmegaConf.to_container(tree.arms[0].limits) | _around(here)  # type: ignore[operator]
            arms.append({"name": name, **chosen, "limits": limits})
        tree.name, tree.control_hz, tree.arms = "chaos", 10, arms
        tree.watchdog.late_fraction = 0.2
        OmegaConf.save(tree, self._folder / "chaos.yaml")
        return read_robot_config(self._folder / "chaos.yaml")

    def _start_supervisor(self) -> subprocess.Popen[str]:
        options = {"--config": "chaos.yaml", "--socket": "s.sock", "--tokens": "tokens"}
        with (self._folder / "supervisor.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "robot_drivers.supervisor"]
                + [text for option, name in options.items() for text in (option, str(self._folder / name))],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert process.stdout is not None
        if "listening" not in process.stdout.readline():
            raise RecapError(f"the supervisor did not start; see {self._folder / 'supervisor.log'}")
        return process

    def _client(
        self, role: Role, name: str, see: Callable[[m.Status | m.Step | m.Event], None] | None = None
    ) -> SupervisorClient:
        socket_path = str(self._folder / "s.sock")
        return SupervisorClient(socket_path, token=self._tokens[role], client=name, on_message=see, timeout_s=10.0)

    def _see(self, message: m.Status | m.Step | m.Event) -> None:
        if isinstance(message, m.Status):
            self._status = message
        elif isinstance(message, m.Event) and message.kind == "state":
            before, _, rest = message.text.partition(" -> ")
            after, _, _ = rest.partition(":")
            self._changes.append(checks.StateChange(time_s=message.time_monotonic_s, before=State(before), after=State(after)))

    # --- what happens -----------------------------------------------------------------------------------------------------

    def _what_may_happen(self) -> dict[str, tuple[float, Callable[[], object]]]:
        """Name -> weight, deed. Refusals are answers like any other."""
        return {
            "nothing": (40, lambda: None),
            "whatever leads on to motion": (60, self._lead_on),
            "arm": (1, lambda: self._ask(m.Arm)),
            "hand back": (3, lambda: self._ask(m.HandBack)),
            "home": (2, lambda: self._ask(m.Home)),
            "take over": (4, self._take_over),
            "take over by force": (1, lambda: self._take_over("bob", forced=True)),
            "release": (3, self._release),
            "silence of the hand": (1.5, self._let_fall),
            "disarm": (0.5, lambda: self._ask(m.Disarm)),
            "stop": (1.5, self._stop),
            "acknowledge": (1, lambda: self._ask(m.Acknowledge, reason="chaos")),
            "reset": (1, self._reset),
            "silence of the policy": (1.5, self._silence_policy),
            "stale observation": (2, lambda: self._propose(age_s=5.0)),
            "old generation": (2, lambda: self._propose(older_by=self._random.randint(1, 5))),
            "late actions": (2, lambda: self._propose(start_s=0.0, lasts_s=1e-3)),
            "far actions": (3, lambda: self._propose(size_m=5.0)),
            "NaN": (0.4, lambda: self._propose(size_m=math.nan)),
            "client cut off": (1, self._cut),
            "junk from a client": (1, self._send_junk),
            "stuttering computer": (0.4, self._stutter),
            "frozen supervisor": (0.4, lambda: self._freeze_supervisor(self._random.uniform(0.1, 0.8))),
            **{f"wire: {fault}": (0.7, functools.partial(self._inject, fault)) for fault in _WIRE},
            **{f"arm: {fault}": (0.4, functools.partial(self._inject, fault)) for fault in _ARM},
            "wires and buttons back to normal": (12, self._clear),
        }

    def _lead_on(self) -> None:
        """What a patient operator does next; whoever sees the arm gone or ill mends it first."""
        state = State.DISCONNECTED if self._status is None else self._status.state
        if state in (State.DISCONNECTED, State.FAULT, State.ESTOP):
            self._clear()
        if state is State.FAULT:
            self._ask(m.Acknowledge, reason="chaos")
        elif state is State.ESTOP:
            self._reset()
        elif state is State.DISARMED:
            self._ask(m.Arm)
        elif state in (State.ARMED_IDLE, State.HOLD):
            if self._random.random() < 0.5:
                self._ask(m.HandBack)
            else:
                self._take_over()

    def _ask(self, kind: type[m.PersonsRequest], operator: str = "ada", **fields: object) -> m.Reply:
        return self._operator.ask(kind(request_id=0, operator=operator, role=Role.SUPERVISE, **fields))  # type: ignore[arg-type]

    def _take_over(self, operator: str = "ada", *, forced: bool = False) -> None:
        reply = self._ask(m.Acquire, operator, forced=forced)
        if reply.ok:
            self._fence = reply.fence
            direction = np.array([self._random.gauss(0, 1) for _ in range(6)]) * ([0.25] * 3 + [0.3] * 3)
            self._twist = tuple(direction.tolist())

    def _release(self) -> None:
        if self._fence is None:
            raise RefusedError("nobody holds a key")
        fence, self._fence = self._fence, None
        self._operator.ask(m.Release(request_id=0, fence=fence))

    def _let_fall(self) -> None:
        self._fence = None

    def _stop(self) -> None:
        self._watcher.ask(m.Stop(request_id=0, operator="bob", reason="chaos"))

    def _reset(self) -> None:
        self._fence = None
        time.sleep(0.6)  # longer than the hands have to be off
        self._ask(m.Reset, reason="chaos", confirmed=True)

    def _silence_policy(self) -> None:
        self._policy_silent_until_s = time.monotonic() + self._random.uniform(0.3, 1.5)

    def _propose(
        self,
        *,
        age_s: float = 0.05,
        older_by: int = 0,
        start_s: float = 0.02,
        lasts_s: float = 0.3,
        size_m: float = 0.025,
    ) -> None:
        if self._status is None:
            return
        sizes = [size_m] * 3 + [0.05] * 3

        def action() -> tuple[float, ...]:
            return (*(self._random.gauss(0, 1) * size for size in sizes), self._random.random())

        actions = tuple(action() + action() for _ in range(2))
        starts = tuple(start_s + TURN_S * index for index in range(len(actions)))
        self._policy.ask(
            m.ProposeChunk(
                request_id=0,
                generation=max(0, self._status.generation - older_by),
                observation_sequence=0,
                observation_age_s=age_s,
                checkpoint="chaos",
                policy_version=0,
                actions=actions,
                start_after_s=starts,
                expire_after_s=tuple(start + lasts_s for start in starts),
            )
        )

    def _push(self) -> None:
        if self._fence is None:
            return
        self._hand_sequence += 1
        with contextlib.suppress(RefusedError, ProtocolError):  # cut off: the next turn has a new client
            self._operator.tell(
                m.HumanInput(
                    request_id=0,
                    fence=self._fence,
                    sequence=self._hand_sequence,
                    age_s=0.0,
                    twist=(self._twist, self._twist),  # type: ignore[arg-type]
                    gripper_opening=(None, self._random.random()),
                )
            )

    def _cut(self) -> None:
        """As a killed process looks: its socket is reset, in the middle of a message."""
        name = self._random.choice(["operator", "policy"])
        client: SupervisorClient = getattr(self, f"_{name}")
        client.close()
        role = Role.SUPERVISE if name == "operator" else Role.POLICY
        setattr(self, f"_{name}", self._client(role, name))

    def _send_junk(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
            stranger.connect(str(self._folder / "s.sock"))
            with contextlib.suppress(OSError):
                stranger.sendall(self._random.choice([os.urandom(200), b"\x00\x00\x00\x05", b"\xff\xff\xff\xff", b""]))

    def _freeze_supervisor(self, duration_s: float) -> None:
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(duration_s)
        self._process.send_signal(signal.SIGCONT)

    def _stutter(self) -> None:
        for _ in range(20):
            self._freeze_supervisor(0.04)
            time.sleep(0.02)
            self._push()

    def _inject(self, fault: str) -> None:
        self._random.choice(list(self._emulators.values())).inject(fault)

    def _clear(self) -> None:
        for emulator in self._emulators.values():
            emulator.clear()

    # --- what the arms logged -----------------------------------------------------------------------------------------------

    def _look(self, seconds: float) -> Findings:
        self._stop()
        time.sleep(1.0)
        found = Findings(seconds=seconds, happened=self._happened, changes=list(self._changes))
        received = list(self._left.received)
        found.num_targets = sum(command.command == "move" for command in received)
        found.violations += checks.unlisted_changes(found.changes)
        found.violations += checks.reused_generations(received)
        found.violations += checks.over_limits(
            received, self.config.arms[0].limits, tick_s=1 / self.config.tick_hz, sequences_per_tick=len(self.config.arms)
        )
        for arm in self.config.arms:
            samples = self._emulators[arm.name].samples()
            positions = np.array([sample.position_m for sample in samples])
            found.num_samples += len(samples)
            found.path_m[arm.name] = float(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum())
            found.violations += checks.outside_box(samples, arm.limits.box, margin_m=OVERSHOOT_M)
            for change, standing_s in checks.standing_times_s(found.changes, samples):
                found.standing_s.append(standing_s)
                if standing_s > STANDS_WITHIN_S:
                    found.violations.append(
                        f"{arm.name} still moved {standing_s:.2f} s after {change.before.value} -> {change.after.value} "
                        f"at {change.time_s:.3f} s"
                    )
        if found.moving_s < LEAST_MOVING * seconds:
            found.violations.append(
                f"the arms were in motion for {found.moving_s:.0f} of {seconds:.0f} s: too little to show anything"
            )
        return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns 1 if anything that must hold did not."""
    parser = argparse.ArgumentParser(prog="python -m robot_drivers.chaos", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=positive, default=10.0)
    parser.add_argument("--seed", type=whole(0), default=0)
    parser.add_argument("--config", type=Path, default=Path("configs/robots/fake.yaml"), help="its limits and watchdogs are used")
    parser.add_argument("--out", type=Path, help="append the report to this file")
    options = parser.parse_args(arguments)
    return run_command(lambda: _report_on(options))


def _report_on(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        chaos = Chaos(Path(folder), options.config, seed=options.seed)
        try:
            found = chaos.run(60 * options.minutes)
        finally:
            chaos.close()
    text = report(found, f"python -m robot_drivers.chaos --minutes {options.minutes:g} --seed {options.seed}")
    print(text)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("a") as file:
            file.write(text)
    return EXIT_FAILED if found.violations else 0


def _around(here: Pose) -> dict[str, object]:
    """Limits whose box and home are where the arm stands, without a cone."""
    position = here.position_m
    return {
        "box": {"low_m": (position - _HALF_BOX_M).tolist(), "high_m": (position + _HALF_BOX_M).tolist()},
        "keep_out": [],
        "cone_half_angle_rad": math.pi,
        "home_position_m": position.tolist(),
        "home_quaternion_wxyz": here.quaternion_wxyz.tolist(),
    }


if __name__ == "__main__":
    sys.exit(main())
