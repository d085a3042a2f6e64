"""The phases of an iteration of RECAP: what each line of the loop in ``learners/recap.py`` does.

Every phase is done once: its result goes to the run's journal, and a resumed run takes it from there. A phase that was
interrupted half way continues by itself: collected episodes are in the store, labels in the label store, the learner in its
last train state. Episodes that were damaged on disk and put aside (``python -m replay repair``) are played again when the run
is resumed, and labelled if a phase that is not done needs it.

Different from the paper's Algorithm 1: the task is one or few, so that there is no separate pre-training of V on all tasks;
what is collected in an iteration is judged by the value refitted on it, as in Algorithm 1.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from actors.collection import Purpose, complete, episode_seeds, outcomes
from actors.outcomes import summarise
from checkpoints.contract import Conventions, with_contract
from checkpoints.directory import read_checkpoint, write_checkpoint
from cluster.events import log_event
from cluster.parts import Parts
from cluster.rollout_host import EpisodeSpec
from configs.build import (
    checkpoint_env_spec,
)
from configs.conventions import conventions_of
from configs.learner_jobs import make_policy_batches, make_policy_learner, make_value_batches, make_value_learner
from configs.schema import ExperimentConfig
from core.errors import CheckpointError, ConfigError
from core.experience import Collection, Source
from core.ids import EpisodeId
from core.specs import require_same_spec
from learners.batch import StepTable
from learners.display import Display
from learners.extraction import judge, task_thresholds
from learners.fit_phase import FitPhase
from learners.metrics_log import MetricsLog
from learners.parallel_rank import LearnerJob
from learners.rollouts import Rollouts
from learners.run_directory import RunDirectory
from learners.value_quality import value_quality
from value_service.labeler import ValueCheckpoint
from value_service.returns import value_targets

Result = dict[str, Any]
_log = logging.getLogger(__name__)
_SHARED_PHASES = ("collect", "fit_value", "label")


class Phases:
    """One run's phases, by iteration ``k`` from 1; 0 is the start."""

    def __init__(
        self,
        config: ExperimentConfig,
        run: RunDirectory,
        parts: Parts,
        rollouts: Rollouts,
        display: Display,
        log: MetricsLog,
        *,
        shared: RunDirectory | None = None,
    ) -> None:
        """``shared``: the run whose rollouts, values and labels are used in place of new ones."""
        self._config = config
        self._run = run
        self._parts = parts
        self._rollouts = rollouts
        self._display = display
        self._fit = FitPhase(run, display, log, config.tracking, config.learner, conventions_of(config.env.family))
        self._shared = shared
        self._episodes: dict[int, list[EpisodeId]] = {}
        """Rollouts by iteration; 0: demonstrations."""

    def start(self) -> Result:
        """Take over the pretrained checkpoints, as version 0, and have the demonstrations ready."""
        result = self._mended(0, "start", self._once(0, "start", self._start), self._start_again)
        self._episodes[0] = result["episodes"]
        return result

    def collect(self, k: int) -> Result:
        """Roll out the published policy."""
        result = self._once(k, "collect", lambda: self._collect(k))
        result = self._mended(k, "collect", result, lambda left: self._rollouts.collect_again(k, left, lambda count: None))
        self._episodes[k] = result["episodes"]
        return result

    def fit_value(self, k: int) -> Result:
        """Fit the value on all data, from the pretrained value model."""
        return self._once(k, "fit_value", lambda: self._fit_value(k))

    def label(self, k: int) -> Result:
        """Label all data with the fitted value."""
        is_resumed = self._where("label") is self._run and self.is_done(k, "label") and not self.is_done(k, "update_policy")
        result = self._once(k, "label", lambda: self._label(k))
        if is_resumed:  # what was played again has none
            self._parts.values.label_many(self._data(k), self.value_checkpoint(k))
        return result

    def choose_threshold(self, k: int) -> Result:
        """The quantile of each task's advantages in this iteration's rollouts."""
        return self._once(k, "choose_threshold", lambda: self._choose_threshold(k))

    def update_policy(self, k: int) -> Result:
        """Train the policy on all data, from the pretrained policy."""
        return self._once(k, "update_policy", lambda: self._update_policy(k))

    def evaluate(self, k: int) -> Result:
        """Measure a policy version on the fixed seeds."""
        result = self._once(k, "evaluate", lambda: self._evaluate(k))
        return self._mended(k, "evaluate", result, lambda left: self._rollouts.evaluate(k, lambda count: None))

    def publish(self, k: int) -> Result:
        """Have actors play this version from their next episode on."""
        return self._once(k, "publish", lambda: self._publish(k))

    def value_checkpoint(self, k: int) -> ValueCheckpoint:
        """The value that labels iteration ``k``."""
        return ValueCheckpoint.of(k, self._where("fit_value").value(k))

    def result(self, k: int, phase: str) -> Result:
        """The result of a phase that is done, wherever it was done."""
        return self._where(phase).result(f"{k:03d}/{phase}")

    def is_done(self, k: int, phase: str) -> bool:
        """Whether a phase is done."""
        return self._where(phase).is_done(f"{k:03d}/{phase}")

    def _where(self, phase: str) -> RunDirectory:
        return self._shared if self._shared and phase in _SHARED_PHASES else self._run

    def _once(self, k: int, phase: str, work: Callable[[], Result]) -> Result:
        where, name = self._where(phase), f"{k:03d}/{phase}"
        if where is not self._run or where.is_done(name):
            return where.result(name)
        result = where.once(name, work)
        log_event("phase", phase=name, wall_s=result["wall_s"], version=k)
        return result

    def _mended(self, k: int, phase: str, result: Result, again: Callable[[list[EpisodeId]], list[EpisodeId]]) -> Result:
        """The result with episodes that are all there: ``again`` is told those that are left, and has the others played."""
        there = set(self._parts.store.episode_ids())
        left = [e for e in result["episodes"] if e in there]
        if len(left) == len(result["episodes"]) or self._where(phase) is not self._run:
            return result
        _log.warning("%03d/%s: %d episodes were put aside since", k, phase, len(result["episodes"]) - len(left))
        mended = {"episodes": again(left)}
        self._run.forget_train_states(k)  # before the journal knows: their samplers name the episodes that are gone
        return self._run.amend(f"{k:03d}/{phase}", mended)

    def _start_again(self, left: list[EpisodeId]) -> list[EpisodeId]:
        made = self._make_demonstrations(self._config.recap.num_demonstrations)
        return [*(e for e in left if e not in set(made)), *made]

    def _start(self) -> Result:
        recap = self._config.recap
        for key, path in (("policy_checkpoint", recap.policy_checkpoint), ("value_checkpoint", recap.value_checkpoint)):
            if not path:
                raise ConfigError(f"recap.{key} is not set; give a checkpoint, or make one with python -m learners.pretrain")
        policy, value = Path(recap.policy_checkpoint), Path(recap.value_checkpoint)
        require_same_spec(checkpoint_env_spec(value), checkpoint_env_spec(policy), what=f"value checkpoint {value}")
        conventions = conventions_of(self._config.env.family)
        _adopt(policy, self._run.policy(0), self._acting(), conventions)
        _adopt(value, self._run.value(0), {}, conventions)
        self._run.publish(0)
        store = self._parts.store
        given = [e for e in store.episode_ids() if store.info(e).provenance.collection is Collection.DEMONSTRATION]
        made = self._make_demonstrations(recap.num_demonstrations)
        return {"episodes": list(dict.fromkeys([*sorted(set(given) - set(made)), *made]))}

    def _acting(self) -> dict[str, Any]:
        """What the run changes about how its policies act."""
        recap = self._config.recap
        asked = {"guidance_scale": recap.guidance_scale, "denoise_steps": recap.denoise_steps}
        changes = {key: value for key, value in asked.items() if value is not None}
        return {"use_indicator": self._config.extraction.method.is_conditioned, **changes}

    def _make_demonstrations(self, count: int) -> list[EpisodeId]:
        purpose = Purpose(run=self._run.name, collection=Collection.DEMONSTRATION)

        def play(seeds: list[int]) -> Any:
            return self._parts.pool.collect([EpisodeSpec(seed=s, collection=purpose.collection) for s in seeds], policy=None)

        if count == 0:
            return []
        with self._display.bar("demonstrations", count, "episodes") as advance:
            return complete(self._parts.store, purpose, episode_seeds(self._config.seed, 0, count), play, on_count=advance)

    def _collect(self, k: int) -> Result:
        count = self._config.recap.episodes_per_iteration
        with self._display.bar(f"{k}: collect", count, "episodes") as advance:
            ids = self._rollouts.collect(k, advance)
        return {"episodes": ids, **self._played(ids), **self._staleness(ids, k - 1)}

    def _fit_value(self, k: int) -> Result:
        config, store = self._config, self._parts.store
        returns = config.labeler.returns
        targets = {}
        for episode_id in self._data(k):
            info = store.info(episode_id)
            if not info.end.bootstraps():  # a truncated episode has no return to learn
                held = store.steps(episode_id).source == Source.HOLD
                targets[episode_id] = value_targets(info.num_steps, info.end, returns, task=info.provenance.task, held=held)
        if not targets:
            raise ConfigError("no episode ended by itself, so there is no return to fit a value to; raise the time limit")
        job = LearnerJob(
            make_learner=functools.partial(make_value_learner, self._run.value(0), config.recap.value, self._seed(k, 1)),
            make_batches=functools.partial(make_value_batches, config, targets, self._seed(k, 2)),
            open_store=self._parts.open_store,
        )
        return self._fit(f"{k:03d}/fit_value", job, store, config.recap.value, self._run.value(k), version=k)

    def _label(self, k: int) -> Result:
        ids, checkpoint = self._data(k), self.value_checkpoint(k)
        with self._display.bar(f"{k}: label", len(ids), "episodes") as advance:
            report = self._parts.values.label_many(ids, checkpoint, lambda done, total: advance(done))
        labels = [self._parts.labels.get(e, k) for e in self._episodes[k]]
        infos = [self._parts.store.info(e) for e in self._episodes[k]]
        lookahead_s = self._config.labeler.advantage.lookahead_s
        return {"num_labelled": report.num_labelled, **value_quality(labels, infos, lookahead_s=lookahead_s)}

    def _choose_threshold(self, k: int) -> Result:
        table = self._table(k)
        fraction = self._config.extraction.indicator.positive_fraction
        thresholds = task_thresholds(table, self._episodes[k], fraction)
        judgement = judge(table, thresholds, self._config.extraction)
        return {"thresholds": {task: _json_number(value) for task, value in thresholds.items()}, **judgement.metrics}

    def _update_policy(self, k: int) -> Result:
        config, table = self._config, self._table(k)
        thresholds = {task: float(value) for task, value in self.choose_threshold(k)["thresholds"].items()}
        judgement = judge(table, thresholds, config.extraction)
        job = LearnerJob(
            make_learner=functools.partial(make_policy_learner, self._run.policy(0), config.recap.policy, self._seed(k, 3)),
            make_batches=functools.partial(
                make_policy_batches, config, self._data(k), table.index, judgement, self._seed(k, 4), k - 1
            ),
            open_store=self._parts.open_store,
        )
        result = self._fit(
            f"{k:03d}/update_policy",
            job,
            self._parts.store,
            config.recap.policy,
            self._run.policy(k),
            version=k,
            before_draw=lambda: self._rollouts.before_samples(config.recap.policy.batch_size),
        )
        if not config.extraction.method.is_conditioned:
            return result
        published = make_policy_learner(self._run.policy(k), config.recap.policy, self._seed(k, 3))
        return {**result, **published.listening(job.make_batches(self._parts.store, published))}

    def _evaluate(self, k: int) -> Result:
        with self._display.bar(f"{k}: evaluate", self._config.evaluation.num_episodes, "episodes") as advance:
            ids = self._rollouts.evaluate(k, advance)
        return {"episodes": ids, **self._played(ids)}

    def _publish(self, k: int) -> Result:
        self._run.publish(k)
        return {"version": k}

    def _data(self, k: int) -> list[EpisodeId]:
        """All experience up to iteration ``k``: demonstrations stay in the mix."""
        return [e for iteration in range(k + 1) for e in self._episodes[iteration]]

    def _table(self, k: int) -> StepTable:
        return StepTable.build(self._parts.store, self._data(k), lambda e: self._parts.labels.get(e, k))

    def _played(self, ids: Sequence[EpisodeId]) -> Result:
        """Success, and where the workers' time went."""
        store = self._parts.store
        timings = [store.info(e).provenance.annotations.get("timing", {}) for e in ids]
        return {
            **summarise(outcomes(store, ids)).to_json(),
            "num_steps": sum(store.info(e).num_steps for e in ids),
            "env_s": round(sum(timing.get("env_s", 0.0) for timing in timings), 2),
            "policy_s": round(sum(timing.get("policy_s", 0.0) for timing in timings), 2),
        }

    def _staleness(self, ids: Sequence[EpisodeId], newest: int) -> Result:
        """How many versions behind the newest the rollouts' policies were; what a person did alone (-1) is of none."""
        versions = [self._parts.store.info(e).policy_version_max for e in ids]
        ages = [newest - version for version in versions if version >= 0] or [0]
        return {"policy_age_mean": float(np.mean(ages)), "policy_age_max": int(max(ages))}

    def _seed(self, k: int, role: int) -> int:
        return int(np.random.SeedSequence([self._config.seed, k, role]).generate_state(1)[0])


def _adopt(source: Path, target: Path, changes: dict[str, Any], conventions: Conventions) -> None:
    """Copy a checkpoint into the run as version 0, with some changes to the model's configuration, which its contract follows."""
    if target.exists():
        return
    tensors, manifest = read_checkpoint(source)
    manifest = {key: value for key, value in manifest.items() if key not in ("weights", "format_version")}
    unknown = sorted(set(changes) - set(manifest.get("config", {})))
    if unknown:
        raise CheckpointError(f"checkpoint {source} has no config.{unknown[0]}; it is not a policy of this version")
    extra = {**manifest.get("extra", {}), "adopted_from": {"path": str(source), "version": manifest.get("version")}}
    manifest["config"] = {**manifest.get("config", {}), **changes}
    write_checkpoint(target, tensors, {**with_contract(manifest, conventions), "version": 0, "extra": extra})


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
