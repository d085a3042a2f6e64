"""A fit as a phase of a run: with a bar, measurements, train states, and a checkpoint at the end.

Hops 8 and 9 of the tour.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from checkpoints.contract import Conventions
from cluster.events import log_event
from configs.schema import TrackingConfig
from learners.display import Display
from learners.fit import fit
from learners.joined_store import JoinedStore
from learners.metrics_log import MetricsLog
from learners.parallel import ParallelConfig
from learners.parallel_learner import open_learner
from learners.parallel_rank import LearnerJob
from learners.run_directory import RunDirectory
from learners.train_state import OptimizerConfig, latest_train_state


class FitPhase:
    """Fits learners in a run directory; calling it again continues a fit that was interrupted."""

    def __init__(
        self,
        run: RunDirectory,
        display: Display,
        log: MetricsLog,
        tracking: TrackingConfig,
        parallel: ParallelConfig,
        conventions: Conventions,
    ) -> None:
        """``conventions`` of the environment go into the contract of what is published."""
        self._parallel = parallel
        self._run = run
        self._display = display
        self._log = log
        self._tracking = tracking
        self._conventions = conventions

    def __call__(
        self,
        phase: str,
        job: LearnerJob,
        store: JoinedStore,
        optimizer: OptimizerConfig,
        checkpoint: Path,
        *,
        version: int,
        before_draw: Callable[[], None] = lambda: None,
        extra: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Train, and publish the averaged weights.

        Args:
            phase: name in the run, for example ``"001/fit_value"``.
            job: what is trained, on what; built here, or in the processes that do it.
            store: the experience as this process has it open.
            optimizer: of the learner.
            checkpoint: where to publish.
            version: of what is published.
            before_draw: called before each batch; may wait.
            extra: JSON-like, into the checkpoint's manifest.

        Returns:
            Means of the metrics over the last tenth of the steps; seconds spent drawing and stepping.
        """
        num_steps, folder = optimizer.num_steps, self._run.train_state(phase)
        found = latest_train_state(folder)
        self._log.forget(phase, after_step=int(found.name.split("_")[1]) if found else 0)
        with (
            self._display.bar(phase.replace("/", ": ").replace("_", " "), num_steps, "steps") as advance,
            open_learner(job, store, optimizer, self._parallel) as (learner, batches),
        ):

            def on_step(step: int, metrics: Mapping[str, float]) -> None:
                advance(step, f"loss {metrics['loss']:.4f}")
                if step % self._tracking.log_every_steps == 0 or step == num_steps:
                    self._log.write(phase, step, metrics)
                    log_event("learner_step", phase=phase, step=step, version=version, loss=metrics["loss"])

            result = fit(
                learner,
                batches,
                folder=folder,
                save_every_steps=self._tracking.save_every_steps,
                on_step=on_step,
                before_draw=before_draw,
            )
            if not checkpoint.exists():  # it exists where a kill came between publishing and the journal
                about = {"run": self._run.name, "phase": phase, **(extra or {})}
                learner.publish(checkpoint, version=version, extra=about, conventions=self._conventions)
        shutil.rmtree(folder, ignore_errors=True)
        return result
