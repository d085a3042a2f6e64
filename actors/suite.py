"""Plays a suite: which of its trials this subject can play, which are still to be played, and the rest played.

Hops 1 to 4 of the tour without learning, over many tasks. A trial's start depends on its place in the protocol and the
evaluation's first seed alone: an interrupted evaluation continues, and two subjects meet the same starts.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.collection import evaluation_seeds
from actors.rollout_runner import PlayerKind, RolloutRunner
from actors.subjects import Subject
from actors.suite_record import TRIALS_FOLDER, Crash, LeftOut, SuiteRecord, SuiteRequest, note_crash
from actors.suite_report import tabulate, to_markdown
from actors.suite_runner import SuiteRunner
from actors.trial_log import TrialLog
from checkpoints.directory import read_manifest
from cluster.parts import open_pool
from cluster.rollout_host import EpisodeSpec
from configs.build import checkpoint_env_spec, load_policy, software_version
from configs.schema import ExperimentConfig
from core.errors import AssetError, ConfigError, RecapError, SpecError, WorkerError
from core.experience import Collection
from core.ids import digest
from core.specs import require_same_spec
from envs.simpler.assets import load_asset_set
from envs.simpler.experts import make_expert
from envs.simpler.protocols import Protocol, Trial, unavailable
from envs.simpler.task_env import SimplerTaskEnv, simpler_env_spec
from envs.simpler.tasks import TASKS
from learners.display import Display
from learners.run_directory import RunDirectory, write_json

_SIMULATOR_PACKAGES = ("mani-skill", "sapien")
BACKEND = "ManiSkill 3, PhysX on the CPU"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which part of a suite is asked for."""

    tasks: tuple[str, ...] = ()
    """Empty: all."""
    episodes_per_task: int | None = None
    """None: the protocol, once. Fewer: a fixed draw of its trials, of which a smaller number is a part. More: repeated, with
    other seeds."""
    shard: tuple[int, int] = (1, 1)
    """(i, n): the i-th of n parts of about equal size, for several machines; ``--merge`` joins them."""


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    """A trial that is wanted."""

    trial: Trial
    repetition: int
    seed: int

    @property
    def key(self) -> str:
        """Unique in an evaluation."""
        return f"{self.trial.key}|{self.repetition}"

    def episode(self) -> EpisodeSpec:
        """What a :class:`actors.suite_runner.SuiteRunner` is told."""
        trial = self.trial
        options = {"key": self.key, "task": trial.task, "scene": dict(trial.scene), "reset": dict(trial.options)}
        return EpisodeSpec(seed=self.seed, collection=Collection.EVALUATION, options=options)


def plan(
    protocol: Protocol, playable: Callable[[Trial], bool], selection: Selection, *, first_seed: int = 0
) -> list[PlannedTrial]:
    """The trials that are wanted, those of one environment behind each other.

    Args:
        protocol: what there is.
        playable: whether a trial can be played.
        selection: what is asked for.
        first_seed: see ``EvaluationConfig``.
    """
    planned: list[PlannedTrial] = []
    for task in protocol.tasks:
        trials = protocol.of_task(task)
        can = [trial for trial in trials if playable(trial)] if not selection.tasks or task in selection.tasks else []
        for trial, repetition in _drawn(can, selection.episodes_per_task):
            (seed,) = evaluation_seeds(first_seed + trial.index + repetition * len(trials), 1)
            planned.append(PlannedTrial(trial=trial, repetition=repetition, seed=seed))
    part, of = selection.shard
    return planned[part - 1 :: of]


def _drawn(trials: Sequence[Trial], count: int | None) -> list[tuple[Trial, int]]:
    """(trial, repetition): all, or the first ``count`` of a fixed order; sorted so that those with one scene are neighbours."""
    pairs = [(trial, 0) for trial in trials]
    if count is not None and trials:
        order = np.random.default_rng(0x517E).permutation(len(trials)).tolist()
        pairs = [(trials[order[i % len(trials)]], i // len(trials)) for i in range(count)]
    variants = list(dict.fromkeys(trial.variant for trial in trials))
    return sorted(pairs, key=lambda pair: (variants.index(pair[0].variant), pair[0].index, pair[1]))


# -- who can play what -----------------------------------------------------------------------------------------------


def left_out(protocol: Protocol, subject: Subject, config: ExperimentConfig, assets: Any, tasks: Sequence[str]) -> list[LeftOut]:
    """What of a suite a subject is not measured on, and why.

    Args:
        protocol: the suite.
        subject: who.
        config: of the evaluation.
        assets: an ``envs.simpler.assets.AssetSet``.
        tasks: those asked for; empty: all.
    """
    found: list[LeftOut] = []
    for task in protocol.tasks:
        trials = protocol.of_task(task)
        if tasks and task not in tasks:
            found.append(LeftOut(task=task, variant="", num_trials=len(trials), reason="not asked for"))
            continue
        reason = _misfit(task, subject, config)
        if reason:
            found.append(LeftOut(task=task, variant="", num_trials=len(trials), reason=reason, is_applicable=False))
            continue
        for variant in dict.fromkeys(trial.variant for trial in trials):
            group = [trial for trial in trials if trial.variant == variant]
            reason = unavailable(group[0], assets)
            if reason:
                found.append(LeftOut(task=task, variant=variant, num_trials=len(group), reason=reason))
    return found


def _misfit(task: str, subject: Subject, config: ExperimentConfig) -> str:
    """Why a subject does not fit a task; empty where it does."""
    try:
        if subject.policy is not None:
            found = checkpoint_env_spec(Path(subject.policy.path))
            require_same_spec(found, simpler_env_spec(task, _image_size_px(subject)), what=f"checkpoint {subject.name}")
        if subject.player is PlayerKind.EXPERT:
            make_expert(task, config.players.expert_quality, np.random.default_rng(0))
    except (SpecError, ConfigError) as error:
        return str(error)
    return ""


def _image_size_px(subject: Subject) -> tuple[int, int] | None:
    """What its policy was trained on (the field of view does not depend on it); None for players that do not look."""
    if subject.policy is None:
        return None
    camera = checkpoint_env_spec(Path(subject.policy.path)).cameras[0]
    return camera.height_px, camera.width_px


# -- playing ---------------------------------------------------------------------------------------------------------


def play_suite(
    config: ExperimentConfig,
    protocol: Protocol,
    run_path: Path,
    *,
    selection: Selection = Selection(),
    display: Display | None = None,
) -> SuiteRecord:
    """Measure ``config.evaluation.checkpoint`` on a suite; writes ``evaluation.json`` and ``.md`` into the run directory.

    Run it again to continue: what has been played stays, a trial that was given up is tried again.

    Raises:
        ConfigError: if the run directory was used for something else.
        RecapError: what a policy or the disk raises; trials that crash their environment are listed, not raised.
    """
    run, display = RunDirectory(run_path), display or Display()
    subject = Subject.of(config.evaluation.checkpoint)
    quality = subject.expert_quality or config.players.expert_quality
    players = replace(config.players, player=subject.player, expert_quality=quality, is_evaluation_stopped_on_success=False)
    config = replace(config, players=players)
    assets = load_asset_set(config.env.assets)
    omitted = left_out(protocol, subject, config, assets, selection.tasks)
    is_omitted = {(item.task, item.variant) for item in omitted}
    planned = plan(
        protocol,
        lambda trial: not {(trial.task, ""), (trial.task, trial.variant)} & is_omitted,
        selection,
        first_seed=config.evaluation.first_seed,
    )
    request = SuiteRequest(
        identity=_identity(config, subject, assets),
        protocol=_described(protocol, assets),
        planned={item.key: item.trial.is_averaged for item in planned},
        left_out=tuple(omitted),
    )
    with run.locked():
        _remember(request, run.path)
        try:
            _play_missing(config, subject, planned, run, display)
        finally:  # also of an interrupted evaluation there is a table
            record = _write_results(run.path)
    display.say(f"{subject.name} on {protocol.name}: results in {run.path}")
    return record


def _play_missing(
    config: ExperimentConfig, subject: Subject, planned: Sequence[PlannedTrial], run: RunDirectory, display: Display
) -> None:
    folder = (run.path / TRIALS_FOLDER).absolute()
    log = TrialLog(folder)
    missing = [item for item in planned if item.key not in log.outcomes]
    num_done = len(planned) - len(missing)

    def give_up(spec: EpisodeSpec, error: RecapError) -> None:
        nonlocal num_done
        if not isinstance(error, WorkerError | AssetError):
            raise error
        note_crash(run.path, Crash(key=spec.options["key"], is_final=True, text=str(error)))
        num_done += 1
        advance(num_done)

    with display.bar(f"{subject.name}", len(planned), "trials") as advance:
        advance(num_done)
        if not missing:
            return
        make_runner = functools.partial(make_suite_runner, config, _image_size_px(subject), run.name)
        with open_pool(config, make_runner, functools.partial(TrialLog, folder), log) as pool:
            specs = [item.episode() for item in missing]
            for report in pool.collect(specs, policy=subject.policy, on_failure=give_up):
                num_done += 1
                advance(num_done)
                if report.num_attempts > 1:
                    log.refresh()
                    key = log.key_of(report.episode_id)
                    note_crash(run.path, Crash(key=key, is_final=False, text=f"{report.num_attempts} attempts"))


def make_suite_runner(config: ExperimentConfig, image_size_px: tuple[int, int] | None, run: str, name: str) -> SuiteRunner:
    """A worker of a suite; picklable with :func:`functools.partial`."""
    return SuiteRunner(functools.partial(_make_scene_runner, config, image_size_px, run, name))


def _make_scene_runner(
    config: ExperimentConfig,
    image_size_px: tuple[int, int] | None,
    run: str,
    name: str,
    task: str,
    scene: Mapping[str, Any],
) -> RolloutRunner:
    return RolloutRunner(
        make_scene_env(task, config.env.assets, image_size_px, scene),
        config.rollout,
        config.players,
        load_policy=_load_policy_once,
        make_expert=lambda seed, quality: make_expert(task, quality, np.random.default_rng(seed)),
        run=run,
        worker=name,
        software_version=software_version(),
    )


def make_scene_env(task: str, assets: str, image_size_px: tuple[int, int] | None, scene: Mapping[str, Any]) -> Any:
    """The environment of a trial; without an image (None) only physics is simulated, which is much faster."""
    if image_size_px is None:
        return SimplerTaskEnv(task, assets=assets, render=False, **scene)
    height_px, width_px = image_size_px
    return SimplerTaskEnv(task, assets=assets, image_height_px=height_px, image_width_px=width_px, **scene)


@functools.lru_cache(maxsize=1)
def _load_policy_once(path: Path) -> Any:
    """Weights outlive a change of scene; that they fit the task was checked before the suite began."""
    return load_policy(path)


# -- what is written -------------------------------------------------------------------------------------------------


def _identity(config: ExperimentConfig, subject: Subject, assets: Any) -> dict[str, Any]:
    """Who is measured on what: two evaluations with equal identities may be merged, and nothing else."""
    size_px = _image_size_px(subject)
    who: dict[str, Any] = {"subject": subject.name}
    if subject.policy is not None:
        who |= {
            "checkpoint_version": subject.policy.version,
            "checkpoint_digest": digest(read_manifest(Path(subject.policy.path))),
            "replan_steps": config.rollout.replan_steps,
        }
    if subject.player is PlayerKind.EXPERT:
        who["expert_quality"] = config.players.expert_quality
    return {
        **who,
        "asset_set": config.env.assets,
        "asset_digest": assets.digest(),
        "image": "none: it does not look" if size_px is None else f"{size_px[0]} x {size_px[1]} px",
        "first_seed": config.evaluation.first_seed,
        "backend": BACKEND,
        **software_versions(),
    }


def software_versions() -> dict[str, str]:
    """Of this project and of the simulator."""
    return {
        "software_version": software_version(),
        "simulator": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _SIMULATOR_PACKAGES),
    }


def _described(protocol: Protocol, assets: Any) -> dict[str, Any]:
    """The protocol as its results need it; through JSON, so that it equals what is read back."""
    stand_ins = [f"Stand-in in these assets: {path} is {what}." for path, what in assets.proxies().items()]
    record = {
        "name": protocol.name,
        "title": protocol.title,
        "digest": protocol.digest,
        "notes": [*protocol.notes, *stand_ins],
        "averages": dict(protocol.averages),
        "tasks": {
            task: {
                "num_trials": sum(trial.is_averaged for trial in protocol.of_task(task)),
                "environment": environment_digest(protocol, task, assets),
            }
            for task in protocol.tasks
        },
    }
    described: dict[str, Any] = json.loads(json.dumps(record))
    return described


def environment_digest(protocol: Protocol, task: str, assets: Any) -> str:
    """16 hex digits over a task's parameters, its trials, the assets, and the versions of this software and the simulator."""
    spec = TASKS[task]
    return digest(
        {
            "task": {**asdict(replace(spec, kwargs={})), "kwargs": dict(spec.kwargs)},
            "trials": [[trial.key, dict(trial.scene), dict(trial.options)] for trial in protocol.of_task(task)],
            "assets": [assets.name, assets.digest()],
            "backend": BACKEND,
            **software_versions(),
        }
    )


def _remember(request: SuiteRequest, folder: Path) -> None:
    """A run directory serves one identity; which trials are asked for may change."""
    try:
        before = SuiteRequest.read(folder)
    except ConfigError:
        before = request
    for name in ("identity", "protocol"):
        mine, theirs = getattr(request, name), getattr(before, name)
        changed = [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
        if changed:
            was, now = theirs.get(changed[0]), mine.get(changed[0])
            raise ConfigError(
                f"{folder} holds an evaluation with another {changed[0]} ({was!r}, now {now!r}); choose another --run"
            )
    request.write(folder)


def _write_results(folder: Path) -> SuiteRecord:
    record = SuiteRecord.read(folder)
    write_json(folder / "evaluation.json", tabulate(record))
    (folder / "evaluation.md").write_text(to_markdown([record]))
    return record
