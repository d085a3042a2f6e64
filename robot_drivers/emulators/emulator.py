"""One emulated controller in a thread of its own: mechanics on the system clock, a wire, and faults on demand."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from core.errors import ConfigError
from robot_drivers.driver import Pose
from robot_drivers.emulators.simulated_arm import ArmEvent, ArmFault, MotionSample
from robot_drivers.emulators.wire import Wire, WireFault

_TICK_S = 0.01
_ANSWER_TIMEOUT_S = 60.0
"""For the event loop's own answer, which takes a tick; only a machine that stands still takes longer."""
_T = TypeVar("_T")


class Mechanics(Protocol):
    """What moves: :class:`robot_drivers.emulators.simulated_arm.SimulatedArm`, or an arm in a physics engine."""

    @property
    def samples(self) -> deque[MotionSample]:
        """The log of motion, oldest first."""
        ...

    @property
    def events(self) -> deque[ArmEvent]:
        """Commands and faults, oldest first."""
        ...

    @property
    def pose(self) -> Pose:
        """Where the tool is."""
        ...

    def advance(self, now_s: float) -> None:
        """Move on to a time of this host's monotonic clock."""
        ...

    def raise_fault(self, fault: ArmFault) -> None:
        """Brake and refuse to move until the protocol clears it."""
        ...

    def release_estop(self) -> None:
        """Pull the button out; the fault stays."""
        ...


class Controller(Protocol):
    """What a vendor's protocol adds to an arm and a wire."""

    @property
    def arm(self) -> Mechanics:
        """What it drives."""
        ...

    @property
    def junk(self) -> bytes:
        """A whole line or frame that its clients must survive."""
        ...

    async def open(self, wire: Wire) -> int:
        """Serve. Returns the port that clients connect to."""
        ...

    async def report(self) -> None:
        """Tell listeners the state; called once a tick, after the arm has moved."""
        ...


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What can be injected: one of the arm's or one of the wire's."""

    kind: ArmFault | WireFault
    delay_s: float = 0.0
    """Of a delay."""

    @classmethod
    def parse(cls, text: str) -> Fault:
        """From ``"freeze"`` or ``"delay:0.2"``.

        Raises:
            ConfigError: if there is no such fault.
        """
        name, _, parameter = text.partition(":")
        kinds: dict[str, ArmFault | WireFault] = {kind.value: kind for kind in (*ArmFault, *WireFault)}
        if name not in kinds:
            raise ConfigError(f"there is no fault {name!r}; expected one of {', '.join(sorted(kinds))}")
        if (kinds[name] is WireFault.DELAY) != bool(parameter):
            raise ConfigError(f"fault {text!r}: a delay, and only a delay, takes seconds, as in delay:0.2")
        try:
            delay_s = float(parameter or 0)
        except ValueError as error:
            raise ConfigError(f"fault {text!r}: expected seconds after the colon, as in delay:0.2") from error
        if not 0 <= delay_s < 3600:
            raise ConfigError(f"fault {text!r}: expected 0 to 3600 seconds")
        return cls(kind=kinds[name], delay_s=delay_s)


class Emulator:
    """Runs a controller. All methods may be called from any thread.

    Consumes: a :class:`Controller`, faults. Produces: a server; a log of motion and commands on this host's monotonic clock.
    Waits for: its event loop, in every method, for as long as one tick takes.

    Example::

        with Emulator(RealmanController(host="127.0.0.1", port=0)) as emulator:
            driver = RealmanDriver(RealmanConfig(host="127.0.0.1", port=emulator.port, ...))
            emulator.inject("freeze")
    """

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="emulator", daemon=True)
        self._wire: Wire | None = None
        self._ticking: asyncio.Task[None] | None = None
        self.port = 0

    def __enter__(self) -> Emulator:
        """Serve."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop serving."""
        self.close()

    def start(self) -> None:
        """Serve; returns once clients can connect.

        Raises:
            ConfigError: if a port is taken.
        """
        self._thread.start()
        try:
            self._call(self._open())
        except OSError as error:
            self.close()
            raise ConfigError(f"the emulator cannot listen: {error}; choose another --host or --port") from error

    def close(self) -> None:
        """Cut all connections. May be called twice."""
        if self._thread.is_alive():
            self._call(self._close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        if not self._loop.is_closed():
            self._loop.close()

    def inject(self, fault: Fault | str) -> None:
        """Misbehave from now on."""
        self._call(self._inject(Fault.parse(fault) if isinstance(fault, str) else fault))

    def clear(self) -> None:
        """The line works again, and the emergency stop is pulled out. Faults of the arm stay until the protocol clears them."""
        self._call(self._clear())

    def pose(self) -> Pose:
        """Where the tool is."""
        return self._call(self._pose())

    def samples(self, since_s: float = 0.0) -> list[MotionSample]:
        """The log of motion from a time of the monotonic clock on."""
        return [sample for sample in self._call(self._samples()) if sample.time_s >= since_s]

    def events(self, since_s: float = 0.0) -> list[ArmEvent]:
        """The commands that arrived and the faults, from a time of the monotonic clock on."""
        return [event for event in self._call(self._events()) if event.time_s >= since_s]

    def _call(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=_ANSWER_TIMEOUT_S)

    async def _open(self) -> None:
        self._wire = Wire(junk=self._controller.junk)
        self.port = await self._controller.open(self._wire)
        self._ticking = asyncio.create_task(self._tick())

    async def _close(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
        if self._wire is not None:
            await self._wire.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _tick(self) -> None:
        due_s = time.monotonic()
        while True:
            self._controller.arm.advance(time.monotonic())
            with contextlib.suppress(ConnectionError):
                await self._controller.report()
            due_s = max(due_s + _TICK_S, time.monotonic())  # ticks that were missed are not made up for
            await asyncio.sleep(due_s - time.monotonic())

    async def _inject(self, fault: Fault) -> None:
        assert self._wire is not None
        if isinstance(fault.kind, WireFault):
            await self._wire.set_fault(fault.kind, fault.delay_s)
        else:
            self._controller.arm.advance(time.monotonic())  # so that it is logged with its own time
            self._controller.arm.raise_fault(fault.kind)

    async def _clear(self) -> None:
        assert self._wire is not None
        self._controller.arm.release_estop()
        await self._wire.clear_faults()

    async def _pose(self) -> Pose:
        return self._controller.arm.pose

    async def _samples(self) -> list[MotionSample]:
        return list(self._controller.arm.samples)

    async def _events(self) -> list[ArmEvent]:
        return list(self._controller.arm.events)
