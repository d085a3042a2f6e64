"""What every robot should run and does run, and moving it, for programs: what the console calls.

Hop 10 of the tour, seen from outside. Whoever calls this has checked who asks: ``by`` goes into the audit log as it is given.

Example::

    fleet = Fleet.open(Path("runs/checkpoint_store"))
    state = fleet.robot("arm1")                        # desired, actual, why they differ, whether it is pinned
    fleet.choices("arm1")                              # every policy, and what stands against it
    outcome = fleet.promote(checkpoint_id, "arm1", by="ada", reason="canary passed", expected_serial=state.serial)
    outcome.refusals                                   # empty: it is done, and the agent swaps before the next episode
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoints.agent import status_file
from checkpoints.ledger import StaleSerialError, UnnamedError
from checkpoints.promotion import Channel, Promotion
from checkpoints.refusals import Refusal, RefusalKind
from core.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class RobotState:
    """One robot, as the store knows it."""

    robot: str
    capabilities: str
    """Digest of what it reported that it is."""
    desired: str
    """Checkpoint id that its channel points to; empty: nothing was promoted."""
    previous: str
    """What a rollback returns to; empty: nothing."""
    serial: int
    """Of its channel: hand it back as ``expected_serial``, so that nobody decides on what is no longer so."""
    actual: str
    """Checkpoint id that its agent last reported to run; empty: none."""
    generation: int
    """Counts the swaps."""
    canary: str
    """Name of the gate whose canary it runs; empty: none."""
    speed_fraction: float
    """Of full speed; less in a canary."""
    reported_unix_s: float | None
    """When its agent last reported; None: never."""
    frozen: str
    """Why it stays with what it has after a crash loop; empty: it follows its channel."""
    refused_because: str
    """Why it would not run what it was last asked to; empty: it did."""
    is_pinned: bool
    pinned_by: str
    pinned_because: str


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A policy in the store, and what stands against promoting it to a robot."""

    checkpoint_id: str
    family: str
    version: int
    training_run: str
    refusals: tuple[Refusal, ...]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of an attempt to move a robot's channel."""

    refusals: tuple[Refusal, ...] = ()
    """Empty: it was moved."""
    channel: Channel | None = None
    """As it stands afterwards; None: refused."""


class Fleet:
    """All robots of a store. Remembers nothing: any number of processes may use one."""

    def __init__(self, promotion: Promotion) -> None:
        self._promotion = promotion

    @classmethod
    def open(cls, root: Path) -> Fleet:
        """Of the store in a folder.

        Raises:
            ConfigError: if there is none, or its ``policy.yaml`` is wrong.
        """
        return cls(Promotion.open(root))

    def robots(self) -> tuple[RobotState, ...]:
        """All that ever reported, by name."""
        return tuple(self.robot(robot) for robot in self._promotion.robots())

    def robot(self, robot: str) -> RobotState:
        """One of them.

        Raises:
            CheckpointError: if it never reported, or its agent's report is damaged.
        """
        promotion = self._promotion
        capabilities, channel, pin = promotion.capabilities(robot), promotion.channel(f"robot:{robot}"), promotion.pin(robot)
        status = self._status(robot)
        running: dict[str, Any] = status.get("running", {})
        refusals = list(status.get("refusals", {}).values())
        return RobotState(
            robot=robot,
            capabilities=capabilities.digest,
            desired=channel.checkpoint_id if channel else "",
            previous=channel.previous if channel else "",
            serial=channel.pointer.serial if channel else 0,
            actual=running.get("checkpoint_id", ""),
            generation=running.get("generation", 0),
            canary=running.get("canary", ""),
            speed_fraction=running.get("speed_fraction", 1.0),
            reported_unix_s=status.get("unix_time_s"),
            frozen=status.get("frozen", ""),
            refused_because=refusals[-1] if refusals else "",
            is_pinned=pin.is_pinned,
            pinned_by=pin.by if pin.is_pinned else "",
            pinned_because=pin.reason if pin.is_pinned else "",
        )

    def choices(self, robot: str) -> tuple[Choice, ...]:
        """Every policy of the store; bytes are read when it is promoted, not here."""
        found = []
        for checkpoint_id in self._promotion.store.ids():
            manifest = self._promotion.store.manifest(checkpoint_id)
            if manifest.kind == "policy":
                found.append(
                    Choice(
                        checkpoint_id=checkpoint_id,
                        family=manifest.family,
                        version=manifest.version,
                        training_run=manifest.training_run,
                        refusals=self._promotion.refusals_of_promotion(checkpoint_id, f"robot:{robot}"),
                    )
                )
        return tuple(found)

    def rollback_refusals(self, robot: str) -> tuple[Refusal, ...]:
        """What stands against a rollback now."""
        return self._promotion.refusals_of_rollback(f"robot:{robot}")

    def promote(self, checkpoint_id: str, robot: str, *, by: str, reason: str, expected_serial: int) -> Outcome:
        """Point a robot's channel to a checkpoint; see :meth:`checkpoints.promotion.Promotion.promote`.

        Raises:
            UnnamedError: if nobody, or no reason, is named.
            AuditError: if the store was tampered with: nothing is promoted on it.
            OSError: if the store cannot be written.
        """
        return self._attempt(
            lambda: self._promotion.promote(
                checkpoint_id, f"robot:{robot}", by=by, reason=reason, expected_serial=expected_serial
            ),
            lambda: self._promotion.refusals_of_promotion(checkpoint_id, f"robot:{robot}"),
        )

    def rollback(self, robot: str, *, by: str, reason: str, expected_serial: int) -> Outcome:
        """Point a robot's channel to what it pointed to before; see :meth:`checkpoints.promotion.Promotion.rollback`.

        Raises:
            UnnamedError: if nobody, or no reason, is named.
            AuditError: if the store was tampered with.
            OSError: if the store cannot be written.
        """
        return self._attempt(
            lambda: self._promotion.rollback(f"robot:{robot}", by=by, reason=reason, expected_serial=expected_serial),
            lambda: self._promotion.refusals_of_rollback(f"robot:{robot}"),
        )

    def _attempt(self, move: Callable[[], Channel], refusals: Callable[[], tuple[Refusal, ...]]) -> Outcome:
        try:
            return Outcome(channel=move())
        except StaleSerialError as error:
            return Outcome(refusals=(Refusal(kind=RefusalKind.STALE, text=str(error)),))
        except UnnamedError:
            raise
        except CheckpointError as error:
            # Reasons that need no bytes to be read; if there is none, bytes were.
            return Outcome(refusals=refusals() or (Refusal(kind=RefusalKind.DAMAGE, text=str(error)),))

    def _status(self, robot: str) -> dict[str, Any]:
        file = status_file(self._promotion, robot)
        try:
            record: dict[str, Any] = json.loads(file.read_bytes())
            if not (isinstance(record["running"], dict) and isinstance(record["refusals"], dict)):
                raise ValueError("running and refusals are records")
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"the report {file} of robot {robot!r} is damaged ({type(error).__name__}: {error}); its agent writes it anew"
            ) from None
        return record
