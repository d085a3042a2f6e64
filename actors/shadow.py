"""``python -m actors.shadow``: what a policy would have done on what a robot has seen, as the numbers of its shadow gate.

Before hop 10 of the tour. Somebody else drove (a person, the policy before); here the policy computes on every observation that
was recorded, on the robot's own host, so that its latency is that of the robot. Nothing moves. What it cannot show is what the
policy's own actions would have led to: that is what the canary is for.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from configs.build import load_policy
from core.clock import Clock, SystemClock
from core.command import run_command, whole
from core.errors import ConfigError, NonFiniteError
from core.experience import Episode
from core.specs import require_same_spec
from models.policy import Policy
from replay.episode_store import EpisodeStore


@dataclass(frozen=True, kw_only=True)
class ShadowRun:
    """The numbers; names as in the ``limits`` of a shadow gate's policy."""

    num_steps: int
    """Observations on which the policy computed."""
    num_not_finite: int
    """Times that it came to NaN or infinity, and gave no chunk."""
    outside_limits_fraction: float
    """Share of actions with an entry that the robot does not accept."""
    latency_p50_s: float
    latency_p99_s: float


def shadow(policy: Policy, episodes: Iterable[Episode], *, every_steps: int = 1, clock: Clock | None = None) -> ShadowRun:
    """Have a policy compute on recorded observations.

    Args:
        policy: that would drive.
        episodes: of the robot, whoever drove.
        every_steps: compute on one of so many observations.
        clock: times the inferences; the first one, which compiles and allocates, is not counted.

    Raises:
        ConfigError: if there is no observation, or ``every_steps`` is not positive.
        SpecError: if an episode is of another robot than the policy's.
    """
    if every_steps < 1:
        raise ConfigError(f"every_steps is {every_steps}; expected 1 or more")
    clock, generator = clock or SystemClock(), torch.Generator().manual_seed(0)
    latencies_s: list[float] = []
    num_not_finite = num_actions = num_outside = 0
    is_warm = False
    for episode in episodes:
        spec = episode.env_spec
        require_same_spec(policy.env_spec, spec, what="the policy")
        low, high = np.array(spec.action.low), np.array(spec.action.high)
        for t in range(0, episode.num_steps, every_steps):
            observation = episode.observation(t)
            if not is_warm:
                with suppress(NonFiniteError):
                    policy.sample_actions([observation], [episode.instruction], [generator])
                is_warm = True
            began_s = clock.monotonic_s()
            try:
                [chunk] = policy.sample_actions([observation], [episode.instruction], [generator])
            except NonFiniteError:
                num_not_finite += 1
                continue
            finally:
                latencies_s.append(clock.monotonic_s() - began_s)
            is_inside = (chunk.actions >= low) & (chunk.actions <= high)
            num_actions += len(chunk.actions)
            num_outside += int((~is_inside.all(axis=1)).sum())
    if not latencies_s:
        raise ConfigError("no recorded observation to compute on; record episodes on the robot first, whoever drives")
    return ShadowRun(
        num_steps=len(latencies_s),
        num_not_finite=num_not_finite,
        outside_limits_fraction=num_outside / max(num_actions, 1),
        latency_p50_s=float(np.quantile(latencies_s, 0.5)),
        latency_p99_s=float(np.quantile(latencies_s, 0.99)),
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m actors.shadow",
        description="Have a policy compute on what a robot recorded; prints NAME=NUMBER ... for a shadow gate's --measured.",
        epilog="example:\n  python -m checkpoints export staging runs/tried\n"
        "  python -m checkpoints gate staging shadow --robot arm1 \\\n"
        "    --measured $(python -m actors.shadow runs/tried runs/kitchen/replay)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="the policy's folder")
    parser.add_argument("store", type=Path, metavar="STORE", help="a replay store with episodes of the robot")
    parser.add_argument("--episodes", type=whole(1), default=20, metavar="N", help="the last N (default: 20)")
    parser.add_argument("--every-steps", type=whole(1), default=1, metavar="N", help="one observation of N (default: 1)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)

    def command() -> None:
        if not (options.store / "episodes").is_dir():
            raise ConfigError(f"no replay store at {options.store}; a run's store is RUN/replay")
        store = EpisodeStore(options.store)
        ids = store.episode_ids()[-options.episodes :]
        run = dataclasses.asdict(
            shadow(load_policy(options.checkpoint), (store.read(e) for e in ids), every_steps=options.every_steps)
        )
        print(json.dumps(run) if options.json else " ".join(f"{name}={value:g}" for name, value in run.items()))

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
