"""The safety supervisor's process: ``python -m robot_drivers.supervisor --config configs/robots/fake.yaml``.

It runs on the robot's host, outside Ray, and outlives whoever asks it for motion. Ticks keep a deadline each on the monotonic
clock; one that is missed is skipped, never made up for. SIGTERM and SIGINT stop the arms before the process ends. A software stop
is not a safety-rated one: see docs/safety.md.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from core.clock import Clock, SystemClock
from core.command import run_command, stop_on_signals
from robot_drivers.arm_link import ArmLink
from robot_drivers.limits import RobotConfig, read_robot_config
from robot_drivers.make import make_driver
from robot_drivers.protocol import listen, read_tokens, write_tokens
from robot_drivers.supervision import Supervision
from robot_drivers.supervisor_server import SupervisorServer

_PRIORITY = -10
"""As nice(1) counts."""


def keep_time(tick: Callable[[float], None], *, clock: Clock, period_s: float, wait_s: Callable[[float], bool]) -> None:
    """Call ``tick(due_s)`` once a period until ``wait_s`` says that it is over.

    Args:
        tick: takes the time at which it was due.
        clock: monotonic.
        period_s: between two.
        wait_s: waits so long and returns True to end.
    """
    due_s = clock.monotonic_s()
    while not wait_s(max(0.0, due_s - clock.monotonic_s())):
        tick(due_s)
        due_s += period_s
        behind_s = clock.monotonic_s() - due_s
        if behind_s > period_s:
            due_s += (behind_s // period_s) * period_s


def run(config: RobotConfig, *, address: str, tokens_path: Path) -> None:
    """Serve until a signal comes.

    Args:
        config: of the robot.
        address: where clients connect; see :func:`robot_drivers.protocol.listen`.
        tokens_path: written if it does not exist.

    Raises:
        ConfigError: for an address or token file that cannot be used, an unknown driver.
    """
    clock = SystemClock()
    links = [ArmLink(arm.name, make_driver(arm.driver, arm.options, clock), clock) for arm in config.arms]
    write_tokens(tokens_path)
    if ":" not in address:
        Path(address).parent.mkdir(parents=True, exist_ok=True)
    listening = listen(address)
    server = SupervisorServer(listening, read_tokens(tokens_path))
    supervision = Supervision(config, links, clock, server.publish)
    with stop_on_signals() as over:
        for link in links:
            link.start()
        server.start(supervision)
        name = listening.getsockname()
        print(f"{config.name}: listening on {name if isinstance(name, str) else f'{name[0]}:{name[1]}'}", flush=True)
        with contextlib.suppress(PermissionError):  # where it may, it goes before whatever else this computer does
            os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
        gc.collect()
        gc.freeze()  # a full collection over everything that is imported would make a tick late
        try:
            keep_time(supervision.tick, clock=clock, period_s=1 / config.tick_hz, wait_s=over.wait)
        finally:
            supervision.shut_down("the supervisor ends")
            for link in links:
                link.close()
            server.close("the supervisor ends")
            if ":" not in address:
                Path(address).unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m robot_drivers.supervisor", description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="of the robot, for example configs/robots/fake.yaml")
    parser.add_argument("--socket", help="path of a Unix socket, or 127.0.0.1:PORT; default runs/supervisor/NAME.sock")
    parser.add_argument("--tokens", type=Path, help="file with a token for each role; default runs/supervisor/NAME.tokens")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    def command() -> None:
        config = read_robot_config(options.config)
        folder = Path("runs/supervisor")
        run(
            config,
            address=options.socket or str(folder / f"{config.name}.sock"),
            tokens_path=options.tokens or folder / f"{config.name}.tokens",
        )

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
