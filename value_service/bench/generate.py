"""Plays the episodes of the bench and stores each with its ground truth; what is there already is not played again.

Hops 1 to 4 of the tour. An episode that does not come out as it was meant (noise made a retry fail) is not stored, and the next
seed takes its place; so the store depends on the plan alone, however often the generation was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.players import ScriptedPlayer
from actors.rollout_worker import RolloutConfig, RolloutWorker
from core.errors import ConfigError
from core.experience import Collection, Episode
from envs.simpler.expert_quality import ExpertConfig
from replay.episode_store import EpisodeStore
from value_service.bench.plan import FLAWS, TaskPlan
from value_service.bench.truth import ANNOTATION, Kind, bench_episodes, judge

_SEEDS_A_KIND = 100_000
_ATTEMPTS_AN_EPISODE = 20
_REST_STEPS = 8
"""An expert that has given up is watched for so long; the rest of the time limit shows nothing new."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where episodes are played."""

    make_env: Callable[[TaskPlan], Any]
    """Builds the task's environment (an ``envs.task_env.TaskEnv``)."""
    make_expert: Callable[[TaskPlan, ExpertConfig, np.random.Generator], Any]
    """Builds its scripted expert (an ``envs.task_env.Expert`` that annotates its ``intervals``)."""


def simpler_stage(*, image_height_px: int = 128, image_width_px: int = 160) -> Stage:
    """SIMPLER with the project's own assets."""
    from envs.make import EnvConfig, make_env
    from envs.simpler.experts import make_expert

    def build(plan: TaskPlan) -> Any:
        return make_env(
            EnvConfig(family=plan.robot, task=plan.task, image_height_px=image_height_px, image_width_px=image_width_px)
        )

    return Stage(make_env=build, make_expert=lambda plan, flaws, rng: make_expert(plan.task, flaws, rng))


def generate(
    store: EpisodeStore,
    plans: Sequence[TaskPlan],
    stage: Stage,
    *,
    on_count: Callable[[int, str], None] = lambda count, note: None,
    software_version: str = "unknown",
) -> int:
    """Play what the store lacks.

    Args:
        store: to write to.
        plans: one a task.
        stage: where to play.
        on_count: told how many episodes there are, and of which task the last was; first at once.
        software_version: recorded in every episode.

    Returns:
        How many were played and did not come out as meant.

    Raises:
        ConfigError: if a kind of episode hardly ever comes out.
    """
    have = _committed(store)
    count, rejected = sum(len(seeds) for key, seeds in have.items()), 0
    on_count(count, "")
    for plan in plans:
        missing = [kind for kind in Kind if len(have.get((plan.task, kind), [])) < plan.count(kind)]
        if not missing:
            continue
        env = stage.make_env(plan)
        try:
            for kind in missing:
                seeds = have.get((plan.task, kind), [])
                index, attempt = len(seeds), max(seeds, default=_first_seed(kind) - 1) + 1 - _first_seed(kind)
                while index < plan.count(kind):
                    if attempt >= _ATTEMPTS_AN_EPISODE * plan.count(kind):
                        raise ConfigError(
                            f"{plan.task}: {attempt} attempts gave {index} {kind.value} episodes of {plan.count(kind)}; "
                            "its expert cannot make them: plan fewer, or other flaws"
                        )
                    episode = _play(env, plan, kind, index, _first_seed(kind) + attempt, stage, software_version)
                    attempt += 1
                    if episode is None:
                        rejected += 1
                        continue
                    store.append(episode)
                    index, count = index + 1, count + 1
                    on_count(count, f"{plan.task} {kind.value}")
        finally:
            env.close()
    return rejected


def _committed(store: EpisodeStore) -> dict[tuple[str, Kind], list[int]]:
    """Seeds of what is there."""
    seeds: dict[tuple[str, Kind], list[int]] = {}
    for episode in bench_episodes(store):
        seeds.setdefault((episode.task, episode.truth.kind), []).append(episode.seed)
    return seeds


def _first_seed(kind: Kind) -> int:
    return list(Kind).index(kind) * _SEEDS_A_KIND


def _play(env: Any, plan: TaskPlan, kind: Kind, index: int, seed: int, stage: Stage, software_version: str) -> Episode | None:
    expert = _ObservedExpert(stage.make_expert(plan, FLAWS[kind], np.random.default_rng([seed, 1])))
    worker = RolloutWorker(
        _EndsAtRest(env, expert),
        ScriptedPlayer(expert),
        RolloutConfig(),
        run="value_bench",
        worker="bench",
        software_version=software_version,
    )
    episode = worker.run_episode(seed, collection=Collection.DEMONSTRATION)
    annotations = episode.provenance.annotations
    truth = judge(kind, plan.split(kind, index), annotations, end=episode.end, num_steps=episode.num_steps)
    if truth is None:
        return None
    return episode.with_provenance(annotations={**annotations, ANNOTATION: truth.to_json()})


class _ObservedExpert:
    """An expert, and a note of its phase at every step."""

    def __init__(self, expert: Any) -> None:
        self._expert = expert
        self.phases: list[str] = []

    def reset(self, env: Any) -> None:
        self.phases = []
        self._expert.reset(env)

    def act(self) -> Any:
        action = self._expert.act()
        self.phases.append(action.phase)
        return action

    def annotations(self) -> Mapping[str, Any]:
        return {**self._expert.annotations(), "phases": list(self.phases)}

    @property
    def has_given_up(self) -> bool:
        return len(self.phases) >= _REST_STEPS and set(self.phases[-_REST_STEPS:]) == {"rest"}


class _EndsAtRest:
    """An environment whose episodes end as judged failures once the expert has given up."""

    def __init__(self, env: Any, expert: _ObservedExpert) -> None:
        self._env = env
        self._expert = expert

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def step(self, action: NDArray[np.float32]) -> Any:
        observation, reward, terminated, truncated, info = self._env.step(action)
        if self._expert.has_given_up and not terminated and not truncated:
            truncated, info = True, {**info, "judged_failure": True}
        return observation, reward, terminated, truncated, info
