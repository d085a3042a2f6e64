"""RECAP: a policy gets better by practice. The loop on one screen, and the command that starts it.

pi*0.6, Algorithm 1 (arXiv:2511.14759): roll out, refit the value from its pretrained checkpoint on all data, label, choose the
per-task threshold, train the policy from *its* pretrained checkpoint on all data with the advantage indicator, evaluate,
publish, repeat. Every hop of the tour is behind one of these lines; what each does is in ``learners/phases.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.events import EVENTS_FILE, events_to
from cluster.parts import open_parts
from configs.command_line import make_parser
from configs.load import load_config, read_config, write_config
from configs.schema import ExperimentConfig, Schedule
from core.command import run_command
from core.errors import ConfigError
from learners.display import Display
from learners.metrics_log import MetricsLog
from learners.phases import Phases
from learners.report import RunReport
from learners.report_page import REPORT_FILE
from learners.rollouts import AsyncRollouts, SyncRollouts
from learners.run_directory import RunDirectory
from learners.value_side import ValuesAhead, ValuesInTurn

_ROLLOUTS: dict[Schedule, type[SyncRollouts] | type[AsyncRollouts]] = {
    Schedule.SYNC: SyncRollouts,
    Schedule.ASYNC: AsyncRollouts,
}
_VALUES: dict[Schedule, type[ValuesInTurn] | type[ValuesAhead]] = {
    Schedule.SYNC: ValuesInTurn,
    Schedule.ASYNC: ValuesAhead,
}


def run_loop(
    phases: Phases, report: RunReport, *, iterations: int, schedule: Schedule = Schedule.SYNC, is_start_evaluated: bool = True
) -> list[dict[str, Any]]:
    """The loop; ``values`` collect, fit the value and label, each a call of ``phases``.

    With ``schedule=async`` the same calls are made: rollouts go on behind them, and values are one iteration ahead.

    Returns:
        One row an iteration, from 0 (the start): what the table shows.
    """
    phases.start()
    if is_start_evaluated:
        phases.evaluate(0)
        report.iteration(0)
    with closing(_VALUES[schedule](phases, first=1, last=iterations)) as values:
        for k in range(1, iterations + 1):
            values.await_labels(k)
            phases.choose_threshold(k)
            phases.update_policy(k)
            phases.evaluate(k)
            phases.publish(k)
            report.iteration(k)
    return report.rows()


def run_recap(config: ExperimentConfig, run_path: Path, *, display: Display | None = None) -> list[dict[str, Any]]:
    """Run, or continue, RECAP in a run directory.

    Args:
        config: of the experiment; a run that exists must have been started with the same.
        run_path: of the run directory.
        display: where progress goes.

    Returns:
        One row an iteration, as :func:`run_loop`.

    Raises:
        ConfigError: if the run exists with another configuration, or is in use.
        RecapError: whatever the parts raise; the run can be resumed.
    """
    run = RunDirectory(run_path)
    with run.locked():
        _remember(config, run)
        with _built(config, run, display or Display()) as (phases, report):
            recap = config.recap
            return run_loop(
                phases,
                report,
                iterations=recap.iterations,
                schedule=recap.schedule,
                is_start_evaluated=recap.is_start_evaluated,
            )


def collect_shared(config: ExperimentConfig, run_path: Path, *, display: Display | None = None) -> None:
    """The part of one iteration that methods share: the start measured, rollouts, value, labels; see ``rollouts_from``."""
    run = RunDirectory(run_path)
    with run.locked():
        _remember(config, run)
        with _built(config, run, display or Display()) as (phases, report):
            phases.start()
            phases.evaluate(0)
            phases.collect(1)
            phases.fit_value(1)
            phases.label(1)
            report.iteration(0)


@contextmanager
def _built(config: ExperimentConfig, run: RunDirectory, display: Display) -> Iterator[tuple[Phases, RunReport]]:
    """Everything the loop needs, built in the order that data flows."""
    shared, other_stores = _shared_data(config)
    labels = shared.labels if shared else run.labels
    with (
        events_to(run.path / EVENTS_FILE, run=run.name),
        open_parts(config, run=run.name, stores=(run.replay, *other_stores), labels=labels) as parts,
    ):
        log = MetricsLog(run.metrics_file, run.tensorboard)
        rollouts = _ROLLOUTS[config.recap.schedule](config, run, parts.store, parts.pool)
        phases = Phases(config, run, parts, rollouts, display, log, shared=shared)
        try:
            yield phases, RunReport(config, run, parts, phases, display)
        finally:
            rollouts.close()
            log.close()


def _shared_data(config: ExperimentConfig) -> tuple[RunDirectory | None, list[Path]]:
    """The run whose data is used in place of new data, and all stores besides the run's own."""
    stores = [Path(config.recap.demonstrations)] if config.recap.demonstrations else []
    if not config.recap.rollouts_from:
        return None, _existing(stores)
    shared = RunDirectory(Path(config.recap.rollouts_from))
    if not shared.is_done("001/label"):
        raise ConfigError(f"recap.rollouts_from={shared.path}: no finished phase 001/label there; give a run that has labels")
    its_own = read_config(shared.config_file).recap.demonstrations
    stores += [shared.replay, *([Path(its_own)] if its_own else [])]
    return shared, _existing(list(dict.fromkeys(stores)))


def _existing(stores: list[Path]) -> list[Path]:
    for store in stores:
        if not (store / "episodes").is_dir():
            raise ConfigError(f"{store} is no replay store; expected a folder 'replay' that a run has written")
    return stores


def _remember(config: ExperimentConfig, run: RunDirectory) -> None:
    """Save the configuration; an existing run keeps its own, but may be given more iterations or other workers."""
    if run.config_file.exists():
        before = read_config(run.config_file)
        same = replace(
            config,
            execution=before.execution,
            learner=before.learner,
            recap=replace(config.recap, iterations=before.recap.iterations),
        )
        if same != before:
            raise ConfigError(
                f"{run.path} was started with another configuration (see its config.yaml); resume it with --resume {run.path} "
                "alone, or choose another --run"
            )
    write_config(config, run.config_file)


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = make_parser(
        "learners.recap",
        """
        Make a policy better by practice: roll out, fit the value, label, threshold, train, evaluate, publish; repeat.

        examples:
          python -m learners.recap --env simpler_google recap.iterations=2 recap.episodes_per_iteration=60
          python -m learners.recap --env simpler_google extraction=awr schedule=async execution=ray
          python -m learners.recap --resume runs/NAME
        """,
        [
            "seed",
            "env",
            "recap",
            "extraction",
            "evaluation",
            "execution",
            "learner",
            "labeler",
            "players",
            "rollout",
            "mix",
            "tracking",
            "store",
        ],
    )
    parser.add_argument("--run", metavar="DIR", help="the run directory (default: runs/recap_FAMILY_EXTRACTION_SEED)")
    parser.add_argument("--resume", metavar="RUN", help="continue a run; overrides may change iterations, execution, learner")
    options = parser.parse_args(arguments)

    def command() -> None:
        if options.resume:
            if options.env or options.config or options.run:
                raise ConfigError("--resume RUN takes the run's own configuration; leave out --env, --config and --run")
            path = Path(options.resume)
            config = read_config(path / "config.yaml", options.overrides)
        else:
            config = load_config(options.config, options.overrides, family=options.env)
            name = f"recap_{config.env.family}_{config.extraction.method.value}_{config.seed}"
            path = Path(options.run or Path("runs") / name)
        run_recap(config, path)
        run = RunDirectory(path)
        print(f"look:   {path / REPORT_FILE} (curves, tables, videos)\npolicy: {run.policy(run.published())}")

    return run_command(command, interrupted="interrupted; what was committed is safe, and --resume RUN continues from here")


if __name__ == "__main__":
    sys.exit(main())
