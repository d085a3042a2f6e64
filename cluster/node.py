"""Starts Ray on one host of a cluster, with what ``hosts.yaml`` says that this host is for.

Called by ``cluster.yaml`` on every host. Ray's on-premise provider knows one kind of node only; here a host finds itself in the
list by its address, and tells Ray what it has: GPUs for learners and values, CPUs for simulation, a robot by name::

    python -m cluster.node head
    RAY_HEAD_IP=192.0.2.10 python -m cluster.node worker
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.command import run_command
from core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
HOSTS_FILE = ROOT / "hosts.yaml"
PORT = 6379


@dataclass
class Host:
    """One line of ``hosts.yaml``."""

    address: str
    """As in ``cluster.yaml``."""
    num_cpus: int | None = None
    """Logical CPUs offered to Ray; null: all. 0 on a robot's host whose CPUs belong to its supervisor."""
    num_gpus: int | None = None
    resources: dict[str, float] = field(default_factory=dict)
    """What parts are pinned by: ``learner``, ``simulation``, ``robot_NAME``. Amounts are counted down like CPUs."""


@dataclass
class Hosts:
    """The whole file."""

    hosts: list[Host]


def load_hosts(path: Path = HOSTS_FILE) -> list[Host]:
    """Read the list.

    Raises:
        ConfigError: naming the file and the key that is unknown, missing or of a wrong type; an address listed twice.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Hosts), OmegaConf.load(path))
        hosts = OmegaConf.to_object(merged)
    except FileNotFoundError:
        raise ConfigError(f"no {path}: list this cluster's hosts there, as docs/cluster.md shows") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {error.full_key or error.key}: {str(error).splitlines()[0]}") from None
    assert isinstance(hosts, Hosts)
    addresses = [host.address for host in hosts.hosts]
    for address in addresses:
        if addresses.count(address) > 1:
            raise ConfigError(f"{path} lists {address} {addresses.count(address)} times; expected once")
    return hosts.hosts


def find_host(hosts: Sequence[Host], own_addresses: Iterable[str]) -> Host:
    """The entry of this host.

    Raises:
        ConfigError: if none or several of its addresses are listed.
    """
    own = set(own_addresses)
    found = [host for host in hosts if host.address in own]
    if len(found) != 1:
        what = "none" if not found else ", ".join(host.address for host in found)
        raise ConfigError(
            f"of this host's addresses ({', '.join(sorted(own))}) hosts.yaml lists {what}; expected exactly one. "
            f"It lists: {', '.join(host.address for host in hosts)}"
        )
    return found[0]


def ray_start_command(host: Host, *, head_address: str | None, autoscaling_config: Path | None) -> list[str]:
    """What starts Ray on a host.

    Args:
        host: this one.
        head_address: of the head; None on the head itself.
        autoscaling_config: head only: what ``ray up`` leaves there, by which the head starts and recovers the others.

    Example:
        >>> ray_start_command(Host(address="192.0.2.11", num_cpus=8), head_address="192.0.2.10", autoscaling_config=None)[:4]
        ['ray', 'start', '--node-ip-address=192.0.2.11', '--disable-usage-stats']
    """
    command = ["ray", "start", f"--node-ip-address={host.address}", "--disable-usage-stats"]
    if head_address is None:
        # The dashboard shows every path and log of the run to who reaches it: `ray dashboard cluster.yaml` tunnels to it.
        command += ["--head", f"--port={PORT}", "--dashboard-host=127.0.0.1"]
        command += [f"--autoscaling-config={autoscaling_config}"] if autoscaling_config else []
    else:
        command.append(f"--address={head_address}:{PORT}")
    command += [f"--num-cpus={host.num_cpus}"] if host.num_cpus is not None else []
    command += [f"--num-gpus={host.num_gpus}"] if host.num_gpus is not None else []
    command += [f"--resources={json.dumps(host.resources)}"] if host.resources else []
    return command


def own_addresses() -> set[str]:
    """IPv4 addresses of this machine's interfaces, loopback left out."""
    import psutil

    found = (item for items in psutil.net_if_addrs().values() for item in items if item.family == socket.AF_INET)
    return {item.address for item in found} - {"127.0.0.1"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: replaces this process by ``ray start``."""
    parser = argparse.ArgumentParser(prog="python -m cluster.node", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("role", choices=("head", "worker"))
    parser.add_argument("--hosts", type=Path, default=HOSTS_FILE, help="default: hosts.yaml of this project")
    parser.add_argument("--autoscaling-config", type=Path, help="head only: as ray up gives it")
    options = parser.parse_args(arguments)
    return run_command(lambda: _become_ray(options))


def _become_ray(options: argparse.Namespace) -> int:
    head = os.environ.get("RAY_HEAD_IP")
    if options.role == "worker" and not head:
        raise ConfigError("RAY_HEAD_IP is not set: `ray up` sets it; by hand, give the head's address")
    if not (Path.home() / ".ray" / "auth_token").exists():
        raise ConfigError("no ~/.ray/auth_token on this host: make one with `ray get-auth-token --generate`, then `ray up` again")
    host = find_host(load_hosts(options.hosts), own_addresses())
    head_address = None if options.role == "head" else head
    command = ray_start_command(host, head_address=head_address, autoscaling_config=options.autoscaling_config)
    # Ray's second autoscaler starts one on-premise worker and no more (2.60), and does not bring back one that was cut off.
    os.environ["RAY_enable_autoscaler_v2"] = "0"  # noqa: SIM112 - Ray spells it so
    # Ray's workers inherit these: only who has the token may talk to the cluster, and they import the project from here.
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    return os.execv(Path(sys.executable).with_name("ray"), command)


if __name__ == "__main__":
    sys.exit(main())
