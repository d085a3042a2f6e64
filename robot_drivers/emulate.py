"""Run an emulated controller: it speaks its vendor's protocol, moves in real time, and misbehaves on demand.

Example::

    python -m robot_drivers.emulate realman --port 8080 --control-port 9000
    python -m robot_drivers.emulate xarm --host 127.0.0.2
    python -m robot_drivers.emulate simulated        # moves, but has no scene: python -m envs.simulate serve has one
    python -m robot_drivers.emulate inject freeze --control-port 9000
    python -m robot_drivers.emulate clear --control-port 9000
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence

from core.command import port, run_command, stop_on_signals
from robot_drivers.emulators.control import EmulatorControl, ask
from robot_drivers.emulators.emulator import Controller, Emulator, Fault
from robot_drivers.emulators.realman import RealmanController
from robot_drivers.emulators.serial_chain import XARM7_JOINTS, SerialChain
from robot_drivers.emulators.simulated import PatternScene, SimulatedController
from robot_drivers.emulators.simulated_arm import SimulatedArm
from robot_drivers.emulators.xarm import HOME_RAD, XArmController


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until interrupted, or send one request to an emulator that serves. Returns the exit code."""
    options = _parser().parse_args(arguments)

    def command() -> None:
        if options.verb == "inject":
            ask(options.control_port, {"inject": options.fault})
        elif options.verb == "clear":
            ask(options.control_port, {"clear": True})
        else:
            _serve(options)

    return run_command(command)


def _serve(options: argparse.Namespace) -> None:
    faults = [Fault.parse(text) for text in options.fault]
    with contextlib.ExitStack() as stack:
        over = stack.enter_context(stop_on_signals())
        emulator = stack.enter_context(Emulator(_controller(options)))
        print(f"{options.verb} emulator at {options.host}:{emulator.port}", flush=True)
        if options.control_port is not None:
            control = stack.enter_context(EmulatorControl(emulator, options.control_port))
            print(f"control port {control.port}", flush=True)
        for fault in faults:
            emulator.inject(fault)
        over.wait()


def _controller(options: argparse.Namespace) -> Controller:
    if options.verb == "realman":
        return RealmanController(host=options.host, port=options.port, generation=options.generation)
    if options.verb == "simulated":
        arm = SimulatedArm(SerialChain(XARM7_JOINTS), HOME_RAD, time.monotonic())
        return SimulatedController(
            arm, PatternScene(), host=options.host, port=options.port, camera_port=options.camera_port, model=options.model
        )
    return XArmController(host=options.host, port=options.port)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m robot_drivers.emulate", description=(__doc__ or "").partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, usual_port in (("realman", 8080), ("xarm", 502), ("simulated", 8090)):
        serve = verbs.add_parser(name, help=f"serve as a {name} controller")
        serve.add_argument("--host", default="127.0.0.1", help="address to serve at; a loopback address each lets several run")
        serve.add_argument("--port", type=port, default=usual_port, help=f"default {usual_port}; 0 takes a free one")
        serve.add_argument("--fault", action="append", default=[], help="inject at once, as freeze or delay:0.2; may be repeated")
        serve.add_argument("--control-port", type=port, help="take inject and clear here while running")
        if name == "realman":
            serve.add_argument("--generation", type=int, choices=(3, 4), default=3)
        if name == "simulated":
            serve.add_argument("--camera-port", type=port, default=8091)
            serve.add_argument("--model", default="kinematic", help="what it says that it is")
    inject = verbs.add_parser("inject", help="make a running emulator misbehave")
    inject.add_argument("fault")
    clear = verbs.add_parser("clear", help="make it behave again")
    for verb in (inject, clear):
        verb.add_argument("--control-port", type=port, required=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())
