"""Serve the operator's console: ``python -m console --robot arm=runs/supervisor/fake.sock``.

Example::

    python -m robot_drivers.supervisor --config configs/robots/fake.yaml &
    python -m console --robot fake=runs/supervisor/fake.sock   # prints a link that signs in one person, once
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import logging
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from console.app import Console
from console.leader_arm import LeaderArm, LeaderArmConfig
from console.people import People
from console.recordings import Recordings
from console.robot_link import RobotLinkConfig
from core.command import run_command, stop_on_signals, whole
from core.errors import ConfigError
from robot_drivers.cameras.shared import SharedFrames
from robot_drivers.protocol import read_tokens, write_tokens

if TYPE_CHECKING:
    from console.promotions import Promotions


_LEADERS = ("so100", "so101")
"""LeRobot reads both alike."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return run_command(lambda: serve(options))


def serve(options: argparse.Namespace) -> None:
    """Serve until interrupted.

    Raises:
        ConfigError: for robots, addresses or files that cannot be used.
    """
    _require_safe(options)
    robots = [_robot(text) for text in options.robot]
    names = [robot.name for robot in robots]
    if len(set(names)) != len(names):
        raise ConfigError(f"robots are named {names}; expected each with a name of its own")
    people, tokens = _people(options.tokens)
    with contextlib.ExitStack() as opened:
        leader = _leader(options)
        if leader is not None:
            leader.open()
            opened.callback(leader.close)
        _serve(options, robots, people, tokens, leader)


def _serve(
    options: argparse.Namespace, robots: Sequence[RobotLinkConfig], people: People, tokens: Path, leader: LeaderArm | None
) -> None:
    origins = _origins(options)
    console = Console(
        robots,
        people,
        origins=origins,
        feeds=_feeds(options.cameras, [robot.name for robot in robots]),
        recordings=Recordings(options.recordings) if options.recordings else None,
        promotions=_promotions(options.checkpoints) if options.checkpoints else None,
        leader=leader,
    )
    # Before the links are shown: whoever follows one at once waits for an answer instead of being refused.
    listening = _listen(options.host, options.port)
    for role in people.roles:
        print(f"{role.value:9} {origins[0]}/#{people.new_link_token(role)}", flush=True)
    print(f"Each link signs in once; later people take a token from {tokens}", flush=True)
    server = uvicorn.Config(
        console.app(),
        ws="websockets-sansio",
        ws_max_size=1 << 16,
        ssl_certfile=options.certificate,
        ssl_keyfile=options.key,
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    with stop_on_signals():  # uvicorn ends on both, then raises the signal again
        uvicorn.Server(server).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(f"cannot listen at {host}:{port}: {error}; choose another --port") from None


def _promotions(store: Path) -> Promotions:
    # Here, because checkpoints bring torch: seconds and half a gigabyte that a console without them does not need.
    from checkpoints.fleet import Fleet
    from console.promotions import Promotions

    return Promotions(Fleet.open(store))


def _people(tokens: Path | None) -> tuple[People, Path]:
    """Those of a token file, which is written if none is named."""
    if tokens is None:
        tokens = Path("runs/console/tokens")
        write_tokens(tokens)
    return People(read_tokens(tokens)), tokens


def _origins(options: argparse.Namespace) -> list[str]:
    """What a browser calls this server."""
    scheme = "https" if options.certificate else "http"
    names = options.public_name or list(dict.fromkeys([_in_address(options.host), "localhost"]))
    origins = [f"{scheme}://{name}:{options.port}" for name in names]
    if options.port == {"http": 80, "https": 443}[scheme]:
        origins += [f"{scheme}://{name}" for name in names]
    return origins


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _feeds(texts: Sequence[str], robots: Sequence[str]) -> dict[str, SharedFrames]:
    feeds = {}
    for text in texts:
        name, _, folder = text.partition("=")
        if name not in robots or not folder:
            raise ConfigError(f"--cameras {text!r}; expected ROBOT=FOLDER with a robot of {', '.join(robots)}")
        feeds[name] = SharedFrames(Path(folder))
    return feeds


def _require_safe(options: argparse.Namespace) -> None:
    """Raises ConfigError if others could reach it unprotected."""
    try:
        is_loopback = ipaddress.ip_address(options.host).is_loopback
    except ValueError:
        raise ConfigError(f"--host {options.host!r} is not an address; expected one such as 127.0.0.1") from None
    if bool(options.certificate) != bool(options.key):
        raise ConfigError("TLS needs both --certificate and --key")
    for file in (options.certificate, options.key):
        if file is not None and not file.is_file():
            raise ConfigError(f"{file} is not there; expected a PEM file")
    missing = [f"--{name}" for name in ("tokens", "certificate", "key") if not getattr(options, name)]
    if not is_loopback and missing:
        raise ConfigError(f"--host {options.host} can be reached by others; that needs {', '.join(missing)}. Or use a tunnel.")
    if not is_loopback and not options.public_name:
        raise ConfigError(f"--host {options.host} needs --public-name: what browsers call this server")


def _robot(text: str) -> RobotLinkConfig:
    name, _, address = text.partition("=")
    if not (name and address):
        raise ConfigError(f"--robot {text!r}; expected NAME=SOCKET, as in arm=runs/supervisor/fake.sock")
    tokens = Path(address).with_suffix(".tokens")
    address, _, given = address.partition(",")
    return RobotLinkConfig(name=name, address=address, tokens=Path(given) if given else tokens)


def _leader(options: argparse.Namespace) -> LeaderArm | None:
    """Not opened yet; None if none is asked for."""
    files = (options.leader_calibration, options.leader_urdf)
    if options.leader is None:
        if any(files):
            raise ConfigError("--leader-calibration and --leader-urdf go with --leader so101=PORT")
        return None
    model, _, port = options.leader.partition("=")
    if model not in _LEADERS or not port:
        raise ConfigError(f"--leader {options.leader!r}; expected {' or '.join(_LEADERS)} and a port, as in so101=/dev/ttyACM0")
    if not all(files):
        raise ConfigError("--leader needs --leader-calibration FILE and --leader-urdf FILE")
    return LeaderArm(LeaderArmConfig(port=port, calibration=options.leader_calibration, urdf=options.leader_urdf))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m console", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--robot",
        action="append",
        required=True,
        metavar="NAME=SOCKET[,TOKENS]",
        help="a supervisor's socket and its token file (default: the socket's path with .tokens); may be repeated",
    )
    parser.add_argument(
        "--cameras",
        action="append",
        default=[],
        metavar="ROBOT=FOLDER",
        help="where robot_drivers.cameras.share puts a robot's frames; may be repeated",
    )
    parser.add_argument("--host", default="127.0.0.1", help="others than loopback need --tokens, --certificate, --key")
    parser.add_argument("--port", type=whole(1, 65535), default=8500)
    parser.add_argument("--public-name", action="append", help="what browsers call this server; may be repeated")
    parser.add_argument("--tokens", type=Path, help="people's token file, a line ROLE TOKEN each; default runs/console/tokens")
    parser.add_argument("--certificate", type=Path, help="for TLS, PEM")
    parser.add_argument("--key", type=Path, help="for TLS, PEM")
    parser.add_argument("--leader", metavar="so101=PORT", help="a LeRobot leader arm at this host, to drive with (extra so101)")
    parser.add_argument("--leader-calibration", type=Path, metavar="FILE", help="NAME.json, as lerobot-calibrate wrote it")
    parser.add_argument("--leader-urdf", type=Path, metavar="FILE", help="of the arm, with the frame gripper_frame_link")
    parser.add_argument("--recordings", type=Path, help="folder of a replay store, for the recordings page")
    parser.add_argument("--checkpoints", type=Path, help="checkpoint store, to promote and roll back; robots by their names here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
