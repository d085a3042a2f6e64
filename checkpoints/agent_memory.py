"""What a robot's agent remembers over a restart: what runs, what ran before, what it refused, how often it crashed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoints.canonical import canonical_json
from core.durable import write_atomically
from core.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class Running:
    """What drives the robot."""

    checkpoint_id: str = ""
    """Empty: nothing."""
    generation: int = 0
    """Counts the swaps."""
    speed_fraction: float = 1.0
    """Of full speed; less in a canary."""
    canary: str = ""
    """Name of the gate that is being tried; empty: none."""


@dataclass(frozen=True, kw_only=True)
class AgentMemory:
    """Of one robot's agent."""

    running: Running = Running()
    settled: str = ""
    """What runs when no canary does; empty: nothing yet."""
    previous: str = ""
    """What was settled before; a crash loop returns to it."""
    frozen: str = ""
    """Why it stays with what is settled; empty: it follows its channel."""
    is_pin_pending: bool = False
    """Frozen, and the store does not know yet."""
    refusals: Mapping[str, str] = field(default_factory=dict)
    """Circumstances (channel and serial, or canary; the robot's capabilities) under which it would not run something, and why;
    tried again when those change."""
    crash_times_s: tuple[float, ...] = ()
    """Unix time."""
    is_in_episode: bool = False

    def to_json(self) -> dict[str, Any]:
        """As a JSON-like record."""
        return {**dataclasses.asdict(self), "crash_times_s": list(self.crash_times_s)}

    def write(self, file: Path) -> None:
        """To disk, in one step."""
        write_atomically(file, canonical_json(self.to_json()) + b"\n")

    @classmethod
    def read(cls, file: Path) -> AgentMemory:
        """From disk; a fresh one if there is none.

        Raises:
            CheckpointError: if the file is damaged.
        """
        try:
            record = json.loads(file.read_bytes())
            return cls(**{**record, "running": Running(**record["running"]), "crash_times_s": tuple(record["crash_times_s"])})
        except FileNotFoundError:
            return cls()
        except (ValueError, TypeError, KeyError) as error:
            raise CheckpointError(
                f"the agent's memory {file} is damaged ({error}); remove it: the robot then starts afresh from its channel"
            ) from None
