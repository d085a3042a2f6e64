"""Demonstrations -> supervised policy and value checkpoints: where practice starts.

Hops 1 to 4 and 7 to 9 of the tour, once: a scripted expert demonstrates, statistics and codecs are fitted, the value learns the
returns of all demonstrations, the policy imitates and is measured. The policy is told the indicator 70 % of the time: always
positive (RECAP's supervised stage), or as the value has it (RECAP's pre-training). The recipe goes into the manifests.
"""

from __future__ import annotations

import functools
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from actors.collection import Purpose, complete, episode_seeds, evaluation_seeds, outcomes
from actors.outcomes import summarise
from checkpoints.directory import read_checkpoint, write_checkpoint
from cluster.parts import Parts, open_parts
from cluster.rollout_host import EpisodeSpec, PolicyCheckpoint
from configs.build import (
    software_version,
)
from configs.command_line import make_parser
from configs.conventions import conventions_of
from configs.learner_jobs import make_policy_batches, make_policy_learner, make_value_batches, make_value_learner
from configs.load import load_config, read_config, to_plain, write_config
from configs.schema import ExperimentConfig, PretrainIndicator
from core.command import run_command
from core.errors import ConfigError
from core.experience import Collection, Source, imitation_target
from core.ids import EpisodeId
from core.labels import Labels
from core.windows import WindowSpec
from learners.batch import StepTable
from learners.display import Display
from learners.extraction import Extraction, Judgement, judge, task_thresholds
from learners.fit_phase import FitPhase
from learners.metrics_log import MetricsLog
from learners.parallel_rank import LearnerJob
from learners.run_directory import RunDirectory, write_json
from learners.value_quality import value_quality
from models import presets
from models.normalization import Normalization
from models.policy import Policy
from models.value import ValueModel
from models.vlm_value import VlmValueConfig
from value_service.advantages import DemonstrationRule
from value_service.labeler import ValueCheckpoint
from value_service.returns import value_targets

Result = dict[str, Any]


def pretrain(
    config: ExperimentConfig, run_path: Path, *, is_collect_only: bool = False, display: Display | None = None, command: str = ""
) -> Result:
    """Make, or continue making, pretrained checkpoints in a run directory: ``checkpoints/policy`` and ``checkpoints/value``.

    Args:
        config: of the experiment.
        run_path: of the run directory.
        is_collect_only: stop when the demonstrations are there.
        display: where progress goes.
        command: recorded in the checkpoints.

    Returns:
        The recipe and what was measured, as in the checkpoints' manifests.
    """
    run, display = RunDirectory(run_path), display or Display()
    store = Path(config.pretrain.store) if config.pretrain.store else run.replay
    with run.locked():
        write_config(config, run.config_file)
        with open_parts(config, run=run.name, stores=(store,), labels=run.labels) as parts:
            log = MetricsLog(run.metrics_file, run.tensorboard)
            try:
                pretraining = Pretraining(config, run, parts, display, log)
                demonstrations = pretraining.collect()
                if is_collect_only:
                    return demonstrations
                value = run.once("fit_value", lambda: pretraining.fit_value(demonstrations["episodes"]))
                policy = run.once("fit_policy", lambda: pretraining.fit_policy(demonstrations["episodes"]))
                measured = run.once("evaluate", pretraining.evaluate)
                recipe = {
                    "command": command,
                    "software_version": software_version(),
                    "demonstrations": {key: value for key, value in demonstrations.items() if key != "episodes"},
                    "policy": policy,
                    "value": value,
                    "measured": {key: value for key, value in measured.items() if key != "episodes"},
                    "config": to_plain(config),
                }
                pretraining.publish(recipe)
                return recipe
            finally:
                log.close()


class Pretraining:
    """The phases of a pretraining run."""

    def __init__(self, config: ExperimentConfig, run: RunDirectory, parts: Parts, display: Display, log: MetricsLog) -> None:
        self._config = config
        self._run = run
        self._parts = parts
        self._store: Any = parts.store
        self._display = display
        self._fit = FitPhase(run, display, log, config.tracking, config.learner, conventions_of(config.env.family))

    def collect(self) -> Result:
        """Have the demonstrations made that the store lacks."""
        count = self._config.pretrain.num_demonstrations
        purpose = Purpose(run=None, collection=Collection.DEMONSTRATION)

        def play(seeds: list[int]) -> Any:
            return self._parts.pool.collect([EpisodeSpec(seed=s, collection=purpose.collection) for s in seeds], policy=None)

        with self._display.bar("demonstrations", count, "episodes") as advance:
            ids = complete(self._store, purpose, episode_seeds(self._config.seed, 0, count), play, on_count=advance)
        summary = summarise(outcomes(self._store, ids))
        self._display.say(f"expert: {summary.text}, {summary.mean_steps:.1f} steps an episode")
        return {
            "episodes": ids,
            **summary.to_json(),
            "num_steps": sum(self._store.info(e).num_steps for e in ids),
            "expert_quality": self._config.players.expert_quality,
            "asset_set": self._config.env.assets,
        }

    def fit_policy(self, ids: list[EpisodeId]) -> Result:
        """Imitate, with the indicator positive or as the value has it."""
        config = self._config
        if config.pretrain.is_policy_on_successes_only:
            ids = [e for e in ids if self._store.info(e).end.value == "success"]
        if not ids:
            raise ConfigError("no demonstration succeeded, so there is nothing to imitate; set players.expert_quality=clean")
        torch.manual_seed(self._seed(6))  # fresh weights come from torch's own generator
        model = presets.build_policy(
            config.policy,
            self._store.info(ids[0]).env_spec,
            self._normalization(ids),
            presets.fit_codec(config.policy, self._frames(ids, config.policy.camera, config.policy.image_shape)),
        )
        table, judgement = self._judged(ids)
        fresh = self._fresh("policy", model)
        job = LearnerJob(
            make_learner=functools.partial(make_policy_learner, fresh, config.pretrain.policy, self._seed(1)),
            make_batches=functools.partial(make_policy_batches, config, ids, table.index, judgement, self._seed(2), 0),
            open_store=self._parts.open_store,
        )
        target = self._run.policy(0)
        result = self._fit("pretrain/fit_policy", job, self._store, config.pretrain.policy, target, version=0)
        shutil.rmtree(fresh)
        published = make_policy_learner(target, config.pretrain.policy, self._seed(1))
        heard = published.listening(job.make_batches(self._store, published))
        return {**result, "num_episodes": len(ids), **judgement.metrics, **heard}

    def _fresh(self, kind: str, model: Policy | ValueModel) -> Path:
        """Write a model with fresh weights where every process of its learner can read it."""
        path = self._run.checkpoints / f"fresh_{kind}"
        if not path.exists():
            write_checkpoint(path, *model.to_checkpoint())
        return path

    def _judged(self, ids: list[EpisodeId]) -> tuple[StepTable, Judgement]:
        """What each demonstrated step tells the policy; with computed indicators A_t = R_t - V(o_t) (pi*0.6, App. F)."""
        pretraining = self._config.pretrain
        if pretraining.indicator is PretrainIndicator.POSITIVE:
            table, rule = StepTable.build(self._store, ids, None), DemonstrationRule.POSITIVE
            thresholds = dict.fromkeys(table.task, 0.0)
        else:
            self._parts.values.label_many(ids, ValueCheckpoint.of(0, self._run.value(0)))
            table, rule = StepTable.build(self._store, ids, self._labels_to_the_end), DemonstrationRule.COMPUTED
            thresholds = task_thresholds(table, ids, pretraining.positive_fraction)
        indicator = replace(self._config.extraction.indicator, demonstrations=rule)
        recap = replace(self._config.extraction, method=Extraction.RECAP, indicator=indicator)
        return table, judge(table, thresholds, recap)

    def _labels_to_the_end(self, episode_id: EpisodeId) -> Labels:
        labels = self._parts.labels.get(episode_id, 0)
        to_the_end = labels.return_ - labels.value[:-1]
        return replace(labels, advantage=np.where(np.isfinite(to_the_end), to_the_end, labels.advantage))

    def fit_value(self, ids: list[EpisodeId]) -> Result:
        """Learn the returns of all demonstrations that ended by themselves."""
        config = self._config
        infos = {e: self._store.info(e) for e in ids}
        targets = {
            e: value_targets(
                info.num_steps,
                info.end,
                config.labeler.returns,
                task=info.provenance.task,
                held=self._store.steps(e).source == Source.HOLD,
            )
            for e, info in infos.items()
            if not info.end.bootstraps()
        }
        if not targets:
            raise ConfigError("no demonstration ended by itself, so there is no return to fit a value to")
        torch.manual_seed(self._seed(7))
        wanted, codec = config.value.selected(), None
        if not isinstance(wanted, VlmValueConfig):
            codec = presets.fit_codec(wanted, self._frames(ids, config.policy.camera, wanted.image_shape))
        model = presets.build_value_model(wanted, infos[ids[0]].env_spec, self._normalization(ids), codec)
        fresh = self._fresh("value", model)
        job = LearnerJob(
            make_learner=functools.partial(make_value_learner, fresh, config.pretrain.value, self._seed(3)),
            make_batches=functools.partial(make_value_batches, config, targets, self._seed(4)),
            open_store=self._parts.open_store,
        )
        target = self._run.value(0)
        result = self._fit("pretrain/fit_value", job, self._store, config.pretrain.value, target, version=0)
        shutil.rmtree(fresh)
        return {**result, "num_episodes": len(targets)}

    def evaluate(self) -> Result:
        """Measure the policy on the fixed seeds, and the value on those episodes, which it has never seen."""
        evaluation = self._config.evaluation
        purpose = Purpose(run=self._run.name, collection=Collection.EVALUATION, policy_version=0)
        seeds = evaluation_seeds(evaluation.first_seed, evaluation.num_episodes)
        policy = PolicyCheckpoint.of(0, self._run.policy(0))

        def play(missing: list[int]) -> Any:
            return self._parts.pool.collect([EpisodeSpec(seed=s, collection=purpose.collection) for s in missing], policy=policy)

        with self._display.bar("evaluate", len(seeds), "episodes") as advance:
            ids = complete(self._store, purpose, seeds, play, on_count=advance)
        self._parts.values.label_many(ids, ValueCheckpoint.of(0, self._run.value(0)))
        infos = [self._store.info(e) for e in ids]
        labels = [self._parts.labels.get(e, 0) for e in ids]
        quality = value_quality(labels, infos, lookahead_s=self._config.labeler.advantage.lookahead_s)
        summary = summarise(outcomes(self._store, ids))
        self._display.say(f"policy: {summary.text}, {summary.mean_steps:.1f} steps an episode")
        self._display.say("value, on these episodes: " + ", ".join(f"{name} {number:.2f}" for name, number in quality.items()))
        return {"episodes": ids, **summary.to_json(), **quality}

    def publish(self, recipe: Result) -> None:
        """Write the final checkpoints, with the recipe and what it gave."""
        for kind, source in (("policy", self._run.policy(0)), ("value", self._run.value(0))):
            target = self._run.checkpoints / kind
            if not target.exists():
                tensors, manifest = read_checkpoint(source)
                own = {key: value for key, value in manifest.items() if key not in ("weights", "format_version")}
                write_checkpoint(target, tensors, {**own, "extra": {"recipe": recipe}})
            self._display.say(f"{kind}: {target}")
        write_json(self._run.path / "summary.json", recipe)

    def _normalization(self, ids: Sequence[EpisodeId]) -> Normalization:
        steps = [self._store.steps(e) for e in ids]
        actions = np.concatenate([imitation_target(s.executed_action, s.supervisor_action) for s in steps])
        action_spec = self._store.info(ids[0]).env_spec.action
        return Normalization.fit(actions, np.concatenate([s.state for s in steps]), action_spec)

    def _frames(self, ids: Sequence[EpisodeId], camera: str, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Frames [N, H, W, 3] from anywhere in the demonstrations, in the model's size."""
        rng = np.random.default_rng(self._seed(5))
        chosen = rng.integers(len(ids), size=self._config.pretrain.codec_frames)
        lengths = np.array([self._store.info(e).num_steps + 1 for e in ids])
        t = rng.integers(lengths[chosen])
        frames = self._store.windows([ids[i] for i in chosen], t, WindowSpec()).images[camera][:, 0]
        if frames.shape[1:3] == shape:
            return cast(NDArray[np.uint8], frames)
        return np.stack([cv2.resize(frame, shape[::-1], interpolation=cv2.INTER_AREA) for frame in frames]).astype(np.uint8)

    def _seed(self, role: int) -> int:
        return int(np.random.SeedSequence([self._config.seed, role, 0xB0]).generate_state(1)[0])


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = make_parser(
        "learners.pretrain",
        """
        Demonstrations of a scripted expert -> pretrained policy and value checkpoints (RUN/checkpoints/policy and value).

        examples:
          python -m learners.pretrain --env simpler_google demonstrations=250 workers=2
          python -m learners.pretrain --env simpler_google --collect-only pretrain.store=runs/demonstrations/replay
          python -m learners.pretrain --resume runs/pretrain_simpler_google_0
        """,
        [
            "seed",
            "preset",
            "env",
            "pretrain",
            "policy",
            "value",
            "players",
            "labeler",
            "evaluation",
            "execution",
            "learner",
            "tracking",
        ],
    )
    parser.add_argument("--run", metavar="DIR", help="the run directory (default: runs/pretrain_FAMILY_SEED)")
    parser.add_argument("--resume", metavar="RUN", help="continue a run with its own configuration")
    parser.add_argument("--collect-only", action="store_true", help="stop when the demonstrations are in the store")
    options = parser.parse_args(arguments)

    def command() -> None:
        if options.resume:
            if options.env or options.config or options.run:
                raise ConfigError("--resume RUN takes the run's own configuration; leave out --env, --config and --run")
            path = Path(options.resume)
            config = read_config(path / "config.yaml", options.overrides)
        else:
            config = load_config(options.config, options.overrides, family=options.env)
            path = Path(options.run or Path("runs") / f"pretrain_{config.env.family}_{config.seed}")
        text = " ".join(["python -m learners.pretrain", *(sys.argv[1:] if arguments is None else arguments)])
        pretrain(replace(config), path, is_collect_only=options.collect_only, command=text)

    return run_command(command, interrupted="interrupted; what was committed is safe, and --resume RUN continues from here")


if __name__ == "__main__":
    sys.exit(main())
