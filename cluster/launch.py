"""Starts Ray, or joins a cluster: quiet, private, on loopback.

Not on the tour: data does not pass here. Different from ``ray.init()``: no usage statistics are sent, there is no
dashboard, a cluster of our own is reached only with a token that lives as long as it does, and nothing is written to the
user's home directory.
"""

from __future__ import annotations

import logging
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants

from core.errors import ConfigError, WorkerError

# Else Ray POSTs usage statistics to its vendor and probes the cloud's metadata address.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Else errors of calls whose answer nobody needs any more are printed with their traceback.
os.environ["RAY_IGNORE_UNHANDLED_ERRORS"] = "1"

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """Which cluster, and how much of this machine."""

    address: str | None = None
    """None: a cluster of our own on this machine; ``"auto"``: the one running here; ``"HOST:PORT"``: that one."""
    num_cpus: int | None = None
    """Logical CPUs of a cluster of our own; None: as many as the machine has."""
    num_gpus: int | None = None
    object_store_mb: int = 1024
    """Shared memory of a cluster of our own; episodes sent by reference pass through it."""
    has_dashboard: bool = False
    """The web page on 127.0.0.1:8265; costs 140 MB and nine processes."""
    metrics_port: int | None = None
    """Where a cluster of our own serves Prometheus metrics (docs/observability.md); None: any free port."""
    shows_worker_output: bool = True
    """Whether what workers print, warnings included, appears in this terminal; equal lines once."""

    def __post_init__(self) -> None:
        if self.address is not None and (self.num_cpus is not None or self.num_gpus is not None):
            raise ConfigError(
                f"num_cpus={self.num_cpus}, num_gpus={self.num_gpus} with address={self.address!r}: a cluster that is running "
                "has its own numbers; leave them out, or leave the address out to start a cluster"
            )
        if self.object_store_mb < 80:
            raise ConfigError(f"object_store_mb is {self.object_store_mb}; Ray needs at least 80")


def start_ray(config: RayConfig) -> None:
    """Connect this process to Ray; nothing happens if it is connected already.

    Raises:
        WorkerError: if Ray does not start, or there is no cluster at the address.
    """
    if ray.is_initialized():
        return
    if config.address is None:
        _keep_private()
        _make_importable()
    own_cluster: dict[str, Any] = {
        "num_cpus": config.num_cpus,
        "num_gpus": config.num_gpus,
        "object_store_memory": config.object_store_mb * 2**20,
        "include_dashboard": config.has_dashboard,
        "dashboard_host": _LOOPBACK,
        "_node_ip_address": _LOOPBACK,
        "_metrics_export_port": config.metrics_port,
    }
    try:
        ray.init(
            address=config.address or "local",
            log_to_driver=config.shows_worker_output,
            logging_level=logging.ERROR,
            configure_logging=True,
            **(own_cluster if config.address is None else {}),
        )
    except Exception as error:  # on a starved machine Ray raises a bare one
        ray.shutdown()  # of what had started
        where = "on this machine" if config.address is None else f"at {config.address}"
        raise WorkerError(
            f"no Ray {where}: {error}. Run `python -m envs.doctor`, or use a local run, which needs no Ray"
        ) from error


def stop_ray() -> None:
    """Disconnect; a cluster of our own goes down with all its workers."""
    ray.shutdown()


def _keep_private() -> None:
    """Make a cluster of our own listen on 127.0.0.1 only, and answer only to who has its token."""
    # Ray offers a loopback cluster only where a firewall would ask (Windows, macOS). This switch, read when ray is imported,
    # gives the same on Linux; the environment carries it to Ray's own processes, the attribute to this one.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    if "RAY_AUTH_MODE" not in os.environ:  # then Ray asks for a token, and takes this one instead of making a file
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _make_importable() -> None:
    """Let Ray's workers import this project wherever it was started from: Ray passes on the working directory only."""
    known = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    root = str(Path(__file__).resolve().parents[1])
    if root not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *known])
