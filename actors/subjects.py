"""Who is measured: a policy checkpoint, or a player that needs none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actors.rollout_runner import PlayerKind
from checkpoints.directory import read_manifest
from cluster.rollout_host import PolicyCheckpoint
from core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Who is measured.

    Example:
        ``Subject.of("expert:noisy")``: name "expert_noisy", player EXPERT, expert_quality "noisy".
    """

    name: str
    player: PlayerKind
    policy: PolicyCheckpoint | None = None
    expert_quality: str | None = None
    """None: as configured."""

    @classmethod
    def of(cls, checkpoint: str) -> Subject:
        """A policy checkpoint, or a player by name; ``expert:QUALITY`` is an expert of that quality.

        Raises:
            ConfigError: if nothing is named.
            CheckpointError: if it is neither a known player nor a checkpoint.
        """
        players = {kind.value: kind for kind in PlayerKind if kind is not PlayerKind.POLICY}
        if checkpoint in players:
            return cls(name=checkpoint, player=players[checkpoint])
        player, _, quality = checkpoint.partition(":")
        if player == PlayerKind.EXPERT.value:
            return cls(name=f"{player}_{quality}", player=PlayerKind.EXPERT, expert_quality=quality)
        if not checkpoint:
            raise ConfigError(f"nothing to evaluate: set checkpoint=PATH, or one of {', '.join(players)}")
        version = int(read_manifest(Path(checkpoint))["version"])
        name = "_".join(Path(checkpoint).absolute().parts[-3:])
        return cls(name=name, player=PlayerKind.POLICY, policy=PolicyCheckpoint.of(version, checkpoint))
