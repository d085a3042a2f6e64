"""A Ray cluster of two nodes on this machine, with the driver on the first: to lose the second.

Either both on this machine's loopback, or each in a network namespace of its own, joined by a link that can be cut.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from benchmarks.chaos.job import Job

_ROOT = Path(__file__).resolve().parents[2]
_PORT = 6390
_FIRST, _SECOND = "192.0.2.1", "192.0.2.2"
"""TEST-NET-1 (RFC 5737); inside the namespaces only."""
_START_S = 60.0
_second: dict[Path, subprocess.Popen[bytes]] = {}
"""Of the cluster that a run uses: the process that keeps its second node."""


@contextlib.contextmanager
def two_nodes(job: Job, rng: random.Random, num_bytes: int) -> Iterator[None]:
    """Both nodes on loopback."""
    with _cluster(job, ("127.0.0.1", ()), ("127.0.0.1", ())):
        yield


@contextlib.contextmanager
def two_hosts(job: Job, rng: random.Random, num_bytes: int) -> Iterator[None]:
    """Each node in a network namespace; they share this machine's disk as a cluster shares a file system."""
    first, second = _names()
    for name in (first, second):
        _ip("netns", "add", name)
    try:
        _ip("link", "add", "eth0", "netns", first, "type", "veth", "peer", "name", "eth0", "netns", second)
        for name, address in ((first, _FIRST), (second, _SECOND)):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", name, "link", "set", device, "up")
        here, there = (("ip", "netns", "exec", name) for name in (first, second))
        job.prefix = here
        with _cluster(job, (_FIRST, here), (_SECOND, there)):
            yield
    finally:
        for name in (first, second):
            _ip("netns", "del", name)


def kill_second_node(job: Job) -> None:
    """All its processes, without notice."""
    _kill_tree(_second[job.run])


def cut_second_link(job: Job) -> None:
    """Its end of the cable."""
    _ip("-n", _names()[1], "link", "set", "eth0", "down")


def no_namespaces() -> str:
    """Why network namespaces cannot be made here; empty if they can."""
    if os.geteuid() != 0:
        return "it needs root, for network namespaces"
    name = f"chaos{os.getpid()}"
    try:
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    except FileNotFoundError:
        return "the program ip is missing (Debian: apt-get install iproute2)"
    if made.returncode != 0:
        return f"network namespaces cannot be made here: {made.stderr.strip()}"
    _ip("netns", "del", name)
    return ""


@contextlib.contextmanager
def _cluster(job: Job, first: tuple[str, tuple[str, ...]], second: tuple[str, tuple[str, ...]]) -> Iterator[None]:
    """Two nodes, each given as its address and what comes before a command that runs there."""
    token = os.environ.get("RAY_AUTH_TOKEN")
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    job.add_arguments(f"execution.ray_address={first[0]}:{_PORT}", "execution.is_spread=true")
    nodes = []
    try:
        head = ["--head", f"--port={_PORT}", "--include-dashboard=false", "--num-cpus=4"]
        nodes.append(_start(first, head, job.log.with_suffix(".head.log")))
        _await_nodes(first, 1)
        nodes.append(_start(second, [f"--address={first[0]}:{_PORT}", "--num-cpus=1"], job.log.with_suffix(".node.log")))
        _second[job.run] = nodes[1]
        _await_nodes(first, 2)
        yield
    finally:
        for node in reversed(nodes):
            _kill_tree(node)
        del os.environ["RAY_AUTH_TOKEN"]
        if token is not None:
            os.environ["RAY_AUTH_TOKEN"] = token


def _start(node: tuple[str, tuple[str, ...]], arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    address, prefix = node
    ray = str(Path(sys.executable).with_name("ray"))
    command = [*prefix, ray, "start", f"--node-ip-address={address}", "--block", "--disable-usage-stats", *arguments]
    command += ["--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=100000000"]
    with log.open("wb") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, "PYTHONPATH": str(_ROOT), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"},
            start_new_session=True,
        )


def _await_nodes(first: tuple[str, tuple[str, ...]], count: int) -> None:
    program = (
        f"import ray; ray.init(address='{first[0]}:{_PORT}', logging_level=50); "
        "print('ALIVE', sum(node['Alive'] for node in ray.nodes()))"
    )
    deadline_s = time.monotonic() + _START_S
    while True:
        done = subprocess.run([*first[1], sys.executable, "-c", program], capture_output=True, text=True)
        if f"ALIVE {count}" in done.stdout:
            return
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{count} Ray nodes did not start within {_START_S:g} s: {done.stderr[-500:]}")


def _kill_tree(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
    process.kill()
    process.wait()


def _names() -> tuple[str, str]:
    return f"chaos{os.getpid()}a", f"chaos{os.getpid()}b"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
