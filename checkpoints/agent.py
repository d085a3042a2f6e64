"""The robot-side agent: makes what a robot runs equal to what its channel says, between episodes, or says why not.

Hop 10 of the tour. A plain class; what touches the robot is given to it::

    agent = RobotAgent(config, promotion, capabilities=..., load=load_policy, infer=..., swap=..., clock=SystemClock())
    while True:
        agent.between_episodes()          # pull, verify, contract, warm-up, swap; or stay with what runs
        with agent.episode() as running:
            play(speed_fraction=running.speed_fraction)

What does not fit, is too slow or computes anything but finite numbers never replaces what runs. A process that died in an episode
crashed; several crashes in a short while are a crash loop: back to the checkpoint before, frozen until a person releases the pin.
A canary gets no second crash: it fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from checkpoints.agent_memory import AgentMemory, Running
from checkpoints.canonical import canonical_json
from checkpoints.contract import Contract, LiveCapabilities, require_contract
from checkpoints.gate_record import GateEpisode, GateRecord
from checkpoints.promotion import Promotion
from checkpoints.robot_cache import RobotCache
from core.clock import Clock
from core.durable import write_atomically
from core.errors import CheckpointError, ConfigError, NonFiniteError, RecapError

LoadedT = TypeVar("LoadedT")
MEMORY_FILE = "agent.json"
_STAY = "stay"
_NUM_REMEMBERED_REFUSALS = 8


class SwapRefusedError(CheckpointError):
    """A swap was asked for in the middle of an episode."""


@dataclass(frozen=True, kw_only=True)
class AgentConfig:
    """Of one robot's agent. What can move a robot has no default: name and latency are the site's to say."""

    robot: str
    """As in the channel ``robot:NAME``."""
    cache: Path
    """On the robot's own disk: what it runs and what it ran before, and the agent's memory."""
    max_latency_s: float
    """The slowest inference that is accepted."""
    num_warm_up: int = 5
    """Inferences that are timed, after one that is not."""
    crash_limit: int = 3
    """So many crashes within ``crash_window_s`` are a crash loop."""
    crash_window_s: float = 600.0
    public_key: Path | None = None
    """PEM file on the robot: only what its owner signed is pulled (extra ``signing``); None: anything in the store."""

    def __post_init__(self) -> None:
        if not self.max_latency_s > 0 or self.num_warm_up < 1 or self.crash_limit < 1:
            raise ConfigError(f"max_latency_s, num_warm_up and crash_limit must be positive; got {self}")


class RobotAgent(Generic[LoadedT]):
    """Keeps one robot at its channel. One process a robot; not thread-safe."""

    def __init__(
        self,
        config: AgentConfig,
        promotion: Promotion,
        *,
        capabilities: Callable[[], LiveCapabilities],
        load: Callable[[Path], LoadedT],
        infer: Callable[[LoadedT], NDArray[np.float32]],
        swap: Callable[[LoadedT, Running], None],
        clock: Clock,
        unix_time_s: Callable[[], float] = time.time,
    ) -> None:
        """Takes up where the last process left off; one that died in an episode counts as a crash.

        Args:
            config: of this robot.
            promotion: of the store, which may be on a shared disk.
            capabilities: asks the robot what it is.
            load: makes something that infers, from a checkpoint directory.
            infer: one inference on an observation of this robot: actions [H, A].
            swap: hands over what was loaded to whoever plays the next episode.
            clock: times the inferences.
            unix_time_s: times the crashes, over restarts.
        """
        self._config = config
        self._promotion = promotion
        self._capabilities, self._load, self._infer, self._swap = capabilities, load, infer, swap
        self._clock, self._unix_time_s = clock, unix_time_s
        self._file = Path(config.cache) / MEMORY_FILE
        self._cache = RobotCache(Path(config.cache) / "checkpoints", promotion.store, config.public_key)
        self._memory = AgentMemory.read(self._file)
        self._loaded = ""
        """What was handed over; empty: nothing, after a restart for example."""
        self._is_in_episode = False
        if self._memory.is_in_episode:
            self._remember(is_in_episode=False)
            self.crashed("the process died in an episode")

    @property
    def memory(self) -> AgentMemory:
        """What runs, what was refused and why, whether it is frozen."""
        return self._memory

    # -- the loop ------------------------------------------------------------------------------------------------------

    def between_episodes(self) -> Running:
        """Make what runs equal to what is desired, or stay and say why (:attr:`memory`; also in the store).

        A store that cannot be reached changes nothing, except that a canary ends.

        Returns:
            What drives the next episode.

        Raises:
            SwapRefusedError: in an episode.
            CheckpointError: if nothing runs and nothing can.
        """
        if self._is_in_episode:
            raise SwapRefusedError("asked to swap in the middle of an episode; a policy changes between episodes only")
        live = self._capabilities()
        if live.robot != self._config.robot:
            raise ConfigError(f"the robot calls itself {live.robot!r}, the agent is for {self._config.robot!r}; which is it?")
        wanted, circumstances = self._wanted(live)
        if circumstances == _STAY or circumstances in self._memory.refusals:
            self._stay(live)
        else:
            try:
                self._become(wanted, live)
            except (RecapError, OSError) as error:
                self._refuse(circumstances, " ".join(str(error).split()))
                self._stay(live)
        self._report(wanted)
        return self._memory.running

    @contextmanager
    def episode(self) -> Iterator[Running]:
        """Around every episode: nothing is swapped inside, and an exception that leaves it counts as a crash.

        Raises:
            SwapRefusedError: if :meth:`between_episodes` did not prepare it.
        """
        if self._is_in_episode or not self._loaded:
            raise SwapRefusedError("an episode begins after between_episodes() has returned, and not inside another")
        self._enter(True)
        try:
            yield self._memory.running
        except Exception as error:
            self._enter(False)
            self.crashed(f"{type(error).__name__}: {error}")
            raise
        self._enter(False)

    def crashed(self, reason: str) -> None:
        """Count a crash of what runs; a canary fails at once, anything else at the limit: then the one before, and frozen."""
        now_s, bad = self._unix_time_s(), self._memory.running
        if bad.canary:
            self._fail_canary(f"{reason}, unix time {now_s:.3f}")
            return
        recent = (*(t for t in self._memory.crash_times_s if now_s - t <= self._config.crash_window_s), now_s)
        self._remember(crash_times_s=recent)
        if len(recent) < self._config.crash_limit or self._memory.frozen:
            return
        why = (
            f"crash loop: {len(recent)} crashes of {bad.checkpoint_id[:12]} in {self._config.crash_window_s:g} s, last: {reason}"
        )
        self._remember(
            running=Running(generation=bad.generation),
            settled=self._memory.previous,
            previous="",
            frozen=why,
            is_pin_pending=True,
            crash_times_s=(),
        )
        self._loaded = ""
        self._tell_pin()

    # -- what is wanted ------------------------------------------------------------------------------------------------

    def _wanted(self, live: LiveCapabilities) -> tuple[Running, str]:
        """What the store asks for, and under which circumstances; what is settled if it is frozen or out of reach."""
        stay = Running(checkpoint_id=self._memory.settled), _STAY
        try:
            self._promotion.register(live, by=self._name)
            self._tell_pin()
            if self._memory.frozen and (self._memory.is_pin_pending or self._promotion.pin(self._config.robot).is_pinned):
                return stay
            self._remember(frozen="")
            canary = self._promotion.gates.open_canary(live.digest)
            channel = self._promotion.channel(f"robot:{self._config.robot}")
        except (RecapError, OSError):
            return stay
        if canary is not None and (circumstances := _trial(canary.record.name, live)) not in self._memory.refusals:
            fraction = float(canary.record.rule["max_speed_fraction"])
            tried = canary.record.checkpoint_id
            return Running(checkpoint_id=tried, canary=canary.record.name, speed_fraction=fraction), circumstances
        if channel is None:
            return stay
        return Running(checkpoint_id=channel.checkpoint_id), f"{channel.name} {channel.pointer.serial} on {live.digest}"

    def _tell_pin(self) -> None:
        """Pin the robot in the store, if a freeze is not known there yet; tried again as long as it is out of reach."""
        if not self._memory.is_pin_pending:
            return
        with suppress(RecapError, OSError):
            self._promotion.set_pin(self._config.robot, is_pinned=True, by=self._name, reason=self._memory.frozen)
            self._remember(is_pin_pending=False)

    def _fail_canary(self, reason: str) -> None:
        gate_name, live = self._memory.running.canary, self._capabilities()
        self._refuse(_trial(gate_name, live), f"crashed in its canary: {reason}")
        self._remember(running=Running(generation=self._memory.running.generation))
        self._loaded = ""
        with suppress(RecapError, OSError):
            canary = self._promotion.gates.open_canary(live.digest)
            if canary is not None and canary.record.name == gate_name:
                crash = GateEpisode(key=f"crash: {reason}", is_success=False, is_stopped=True, speed_fraction=0.0)
                grow = partial(GateRecord.with_episodes, episodes=[crash])
                self._promotion.gates.add(canary, grow, by=self._name, reason="the process crashed")

    # -- becoming it ---------------------------------------------------------------------------------------------------

    def _stay(self, live: LiveCapabilities) -> None:
        """Run what is settled, at full speed.

        Raises:
            CheckpointError: if there is nothing, or it cannot run any more.
        """
        if not self._memory.settled:
            self._loaded = ""
            self._remember(running=Running(generation=self._memory.running.generation))
            self._report(Running())
            refusals = list(self._memory.refusals.values())
            why = self._memory.frozen or (refusals[-1] if refusals else f"nothing was promoted to robot:{self._config.robot}")
            raise CheckpointError(f"robot {self._config.robot!r} has nothing to run: {why}")
        self._become(Running(checkpoint_id=self._memory.settled), live)

    def _become(self, wanted: Running, live: LiveCapabilities) -> None:
        """Pull, verify, check, warm up, swap, in this order; whatever fails leaves what runs as it is."""
        directory, manifest = self._cache.pull(wanted.checkpoint_id)
        require_contract(manifest.contract, live)
        running = replace(wanted, generation=self._memory.running.generation)
        if self._loaded and running == self._memory.running:
            return
        loaded = self._load(directory)
        self._warm_up(loaded, manifest.contract)
        running = replace(wanted, generation=running.generation + 1)
        self._swap(loaded, running)
        self._loaded = wanted.checkpoint_id
        settled, previous = self._memory.settled, self._memory.previous
        if not wanted.canary and wanted.checkpoint_id != settled:
            settled, previous = wanted.checkpoint_id, settled
        is_other = wanted.checkpoint_id != self._memory.running.checkpoint_id
        crashes = () if is_other else self._memory.crash_times_s
        self._remember(running=running, settled=settled, previous=previous, crash_times_s=crashes)
        self._cache.keep_only({wanted.checkpoint_id, settled, previous})

    def _warm_up(self, loaded: LoadedT, contract: Contract) -> None:
        """Infer as in an episode, without moving anything.

        Raises:
            NonFiniteError: if an action is not finite.
            CheckpointError: if actions have another shape than the contract's, or the slowest inference is too slow.
        """
        expected = (contract.chunk_length, contract.env_spec.action.dim)
        slowest_s = 0.0
        for index in range(self._config.num_warm_up + 1):
            began_s = self._clock.monotonic_s()
            actions = self._infer(loaded)
            if index > 0:  # the first one compiles, allocates and fills caches
                slowest_s = max(slowest_s, self._clock.monotonic_s() - began_s)
            if actions.shape != expected:
                raise CheckpointError(f"warm-up inference gave actions of shape {actions.shape}; the contract says {expected}")
            if not np.isfinite(actions).all():
                raise NonFiniteError("warm-up inference gave NaN or infinity; retrain it")
        if slowest_s > self._config.max_latency_s:
            raise CheckpointError(
                f"warm-up inference took up to {slowest_s:.3f} s; this robot accepts {self._config.max_latency_s:g} s. "
                "Fewer denoising steps, or a faster machine"
            )

    # -- memory and report ---------------------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return f"agent of {self._config.robot}"

    def _enter(self, is_in_episode: bool) -> None:
        self._is_in_episode = is_in_episode
        self._remember(is_in_episode=is_in_episode)

    def _refuse(self, circumstances: str, why: str) -> None:
        """Not to be tried again under these circumstances."""
        refusals = {**self._memory.refusals, circumstances: why}
        self._remember(refusals=dict(list(refusals.items())[-_NUM_REMEMBERED_REFUSALS:]))

    def _remember(self, **changes: object) -> None:
        memory = replace(self._memory, **changes)  # type: ignore[arg-type]
        if memory != self._memory:
            memory.write(self._file)
            self._memory = memory

    def _report(self, wanted: Running) -> None:
        """Into the store, for people and the console: desired and actual."""
        record = {**self._memory.to_json(), "desired": wanted.checkpoint_id, "unix_time_s": self._unix_time_s()}
        with suppress(OSError):
            write_atomically(status_file(self._promotion, self._config.robot), canonical_json(record) + b"\n")


def _trial(gate_name: str, live: LiveCapabilities) -> str:
    return f"{gate_name} on {live.digest}"


def status_file(promotion: Promotion, robot: str) -> Path:
    """Where an agent reports what runs."""
    return promotion.store.root / "status" / f"{robot}.json"
