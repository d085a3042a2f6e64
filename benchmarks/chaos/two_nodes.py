"""A Ray cluster of two nodes on this machine, with the driver on the first: to lose the second.

Each node has a network namespace and Ray's temporary folder to itself; they are joined by a link that can be cut, and share
the disk as a cluster shares a file system.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.chaos.job import Job

_ROOT = Path(__file__).resolve().parents[2]
_PORT = 6390
_FIRST, _SECOND = "192.0.2.1", "192.0.2.2"
"""TEST-NET-1 (RFC 5737); inside the namespaces only."""
_START_S = 120.0
_RAY_START = (
    str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats", "--object-store-memory=100000000",
)  # fmt: skip
_STARTED = b"Ray runtime started."
"""What ``ray start`` prints once the cluster knows the node."""
_ENTER = 'mkdir -p /tmp/ray && mount --bind "$1" /tmp/ray && shift && exec "$@"'
"""In the mount namespace that ``ip netns exec`` makes: nodes that share Ray's folder take each other's sockets for their own."""


@contextlib.contextmanager
def two_nodes(job: Job, rng: random.Random, num_bytes: int) -> Iterator[None]:
    """The job runs on the first of two nodes, its rollout workers on both; neither processes nor namespaces stay behind.

    Raises:
        TimeoutError: naming the log of the node that does not start.
    """
    folder = job.run.parent
    first, second = _names()
    environment = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "PYTHONPATH": str(_ROOT),
    }
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        for name in (first, second):
            _ip("netns", "add", name)
        _ip("link", "add", "eth0", "netns", first, "type", "veth", "peer", "name", "eth0", "netns", second)
        for name, address in ((first, _FIRST), (second, _SECOND)):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", name, "link", "set", device, "up")
        here, there = (_entering(name, folder / address) for name, address in ((first, _FIRST), (second, _SECOND)))
        cluster, logs = f"{_FIRST}:{_PORT}", [folder / f"{address}.log" for address in (_FIRST, _SECOND)]
        head = ["--head", f"--port={_PORT}", f"--node-ip-address={_FIRST}", "--num-cpus=4", "--include-dashboard=false"]
        nodes.append(_start_node([*here, *_RAY_START, *head], environment, logs[0]))
        _await_started(nodes[0], logs[0])
        node = [f"--address={cluster}", f"--node-ip-address={_SECOND}", "--num-cpus=1"]
        nodes.append(_start_node([*there, *_RAY_START, *node], environment, logs[1]))
        _await_started(nodes[1], logs[1])
        job.join_cluster(cluster, prefix=here, environment=environment)
        yield
    finally:
        for name in filter(_is_there, (first, second)):
            _kill_all(name)
            _ip("netns", "del", name)
        for process in nodes:
            process.wait()


def is_on_second_node(writer: str) -> bool:
    """Whether that writer of episodes is, or was, a worker there: its name ends with the node's address."""
    return writer.endswith(_SECOND.replace(".", "-"))


def kill_second_node() -> None:
    """Ray's daemon and all workers, without notice."""
    _kill_all(_names()[1])


def cut_link() -> None:
    """The second node goes on without anybody hearing of it."""
    _ip("-n", _names()[1], "link", "set", "eth0", "down")


def no_namespaces() -> str:
    """Why network namespaces cannot be made here; empty if they can."""
    if os.geteuid() != 0:
        return "it needs root, for network namespaces"
    name = _names()[0]
    try:
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    except FileNotFoundError:
        return "the program ip is missing (Debian: apt-get install iproute2)"
    if made.returncode != 0:
        return f"network namespaces cannot be made here: {made.stderr.strip()}"
    _ip("netns", "del", name)
    return ""


def _names() -> tuple[str, str]:
    """Of the namespaces: one cluster at a time in a process."""
    return f"chaos{os.getpid()}a", f"chaos{os.getpid()}b"


def _entering(name: str, folder: Path) -> list[str]:
    """What runs a command on a node."""
    folder.mkdir(parents=True, exist_ok=True)
    return ["ip", "netns", "exec", name, "sh", "-c", _ENTER, "sh", str(folder)]


def _start_node(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={**os.environ, **environment, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )


def _await_started(node: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + _START_S
    while _STARTED not in log.read_bytes():
        if node.poll() is not None or time.monotonic() > deadline_s:
            raise TimeoutError(f"a Ray node ended or did not start within {_START_S:g} s; see {log}")
        time.sleep(0.1)


def _kill_all(name: str) -> None:
    """Every process in a namespace at once: stopped first, so that none sees another's death."""
    while pids := subprocess.run(["ip", "netns", "pids", name], check=True, capture_output=True, text=True).stdout.split():
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), number)
        time.sleep(0.01)


def _is_there(name: str) -> bool:
    return Path("/run/netns", name).exists()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
