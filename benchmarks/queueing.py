"""Discrete-event simulation of stations with queues, and the closed-form results that it is tested against.

A station has ``servers`` that each serve one visit at a time, first come first served; None: as many as there are visits (a pure
delay). A process is a generator that yields visits and is resumed when a visit is over; one that yields None waits until somebody
wakes it.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field


class Visit:
    """What a process yields: be served for ``service_s`` seconds at ``station``."""

    __slots__ = ("service_s", "station")

    def __init__(self, station: Station, service_s: float) -> None:
        self.station = station
        self.service_s = service_s


Process = Generator[Visit | None, None, None]
"""Yields visits; None parks it until :meth:`Simulation.wake`."""


@dataclass
class Station:
    """Servers and their queue; sums over the measured time."""

    name: str
    servers: int | None
    """None: no queue, only the service takes time."""
    busy: int = 0
    queue: deque[tuple[float, float, Process]] = field(default_factory=deque)
    busy_s: float = 0.0
    """Server-seconds of service begun while measuring."""
    wait_s: float = 0.0
    num_visits: int = 0

    @property
    def mean_wait_s(self) -> float:
        """Mean time in the queue, before service."""
        return self.wait_s / self.num_visits if self.num_visits else 0.0

    def utilisation(self, duration_s: float) -> float:
        """Share of the servers' time in use; 0 for a pure delay."""
        return self.busy_s / (self.servers * duration_s) if self.servers else 0.0


class Simulation:
    """Runs processes over stations on one clock."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.is_measuring = True
        self._events: list[tuple[float, int, Station | None, Process]] = []
        self._number = itertools.count()

    def start(self, process: Process, *, delay_s: float = 0.0) -> None:
        """Begin a process, now or later."""
        heapq.heappush(self._events, (self.now_s + delay_s, next(self._number), None, process))

    def wake(self, process: Process) -> None:
        """Resume a parked process."""
        self.start(process)

    def run(self, until_s: float) -> None:
        """Advance the clock to ``until_s``, or to where nothing happens any more."""
        while self._events and self._events[0][0] <= until_s:
            self.now_s, _, station, process = heapq.heappop(self._events)
            if station is not None:
                self._leave(station)
            self._resume(process)
        self.now_s = until_s

    def _resume(self, process: Process) -> None:
        visit = next(process, None)
        if visit is None:
            return
        station = visit.station
        if station.servers is None or station.busy < station.servers:
            self._serve(station, self.now_s, visit.service_s, process)
        else:
            station.queue.append((self.now_s, visit.service_s, process))

    def _serve(self, station: Station, arrived_s: float, service_s: float, process: Process) -> None:
        station.busy += 1
        if self.is_measuring:
            station.busy_s += service_s
            station.wait_s += self.now_s - arrived_s
            station.num_visits += 1
        heapq.heappush(self._events, (self.now_s + service_s, next(self._number), station, process))

    def _leave(self, station: Station) -> None:
        station.busy -= 1
        if station.queue and station.servers is not None and station.busy < station.servers:
            self._serve(station, *station.queue.popleft())


def mm1_wait_s(arrivals_per_s: float, service_s: float) -> float:
    """Mean wait in an M/M/1 queue (Kleinrock, Queueing Systems I, 3.2)."""
    return mmc_wait_s(arrivals_per_s, service_s, 1)


def mmc_wait_s(arrivals_per_s: float, service_s: float, servers: int) -> float:
    """Mean wait in an M/M/c queue: Erlang's C over the spare capacity (Kleinrock I, 3.5).

    Raises:
        ValueError: if more arrives than can be served.
    """
    load = arrivals_per_s * service_s
    if load >= servers:
        raise ValueError(f"load {load} is not below {servers} servers: the queue grows without end")
    terms = [load**k / math.factorial(k) for k in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last) * service_s / (servers - load)


def md1_wait_s(arrivals_per_s: float, service_s: float) -> float:
    """Mean wait with constant service, M/D/1: half of M/M/1 (Pollaczek and Khinchine)."""
    return mm1_wait_s(arrivals_per_s, service_s) / 2


def finite_source_throughput(sources: int, think_s: float, service_s: float, servers: int = 1) -> float:
    """Completions a second of a closed M/M/c//N system, the machine repair model (Kleinrock I, 3.8).

    Args:
        sources: N, each thinks for ``think_s`` (exponential) and then asks for one service.
        think_s: mean.
        service_s: mean, exponential.
        servers: c.
    """
    weight, weights = 1.0, [1.0]
    for k in range(1, sources + 1):
        weight *= (sources - k + 1) * service_s / (think_s * min(k, servers))
        weights.append(weight)
    total = sum(weights)
    return sum(min(k, servers) * w for k, w in enumerate(weights)) / total / service_s
