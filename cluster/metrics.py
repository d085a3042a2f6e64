"""Prometheus metrics of a run, through the exporter that every Ray node has; fed by the events of ``cluster/events.py``.

Names begin with ``ray_viva_recap_`` (Ray adds ``ray_``); every one is tagged with the run. The dashboard that shows them is
``docs/grafana/viva_recap.json``, and what each means is in docs/observability.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from cluster.events import event_of

_SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0]


class RunMetrics(logging.Handler):
    """Turns events into metrics.

    Consumes: log records that are events. Produces: counters, gauges and histograms. Waits for: nothing.
    """

    def __init__(self, run: str) -> None:
        """This process must be connected to Ray; ``run`` is a tag of every metric."""
        super().__init__()
        self._run = run
        self._num_bytes = 0
        self.episodes = Counter("viva_recap_episodes", "episodes committed, by their end", ("run", "end"))
        self.env_steps = Counter("viva_recap_env_steps", "environment steps committed", ("run",))
        self.failures = Counter("viva_recap_episode_failures", "episodes that will not come", ("run",))
        self.retries = Counter("viva_recap_episode_retries", "attempts beyond the first", ("run",))
        self.episode_s = Histogram("viva_recap_episode_seconds", "from the request to the commit", _SECONDS, ("run",))
        self.policy_age = Gauge("viva_recap_policy_age_versions", "newest published version less that of the episode", ("run",))
        self.store_bytes = Gauge("viva_recap_store_bytes", "added to the replay store by this process", ("run",))
        self.labels = Counter("viva_recap_labels", "episodes labelled, by value version", ("run", "value_version"))
        self.label_s = Histogram("viva_recap_labelling_seconds", "of one request for many episodes", _SECONDS, ("run",))
        self.learner_steps = Counter("viva_recap_learner_steps", "learner steps, by phase", ("run", "phase"))
        self.loss = Gauge("viva_recap_loss", "of the last logged step, by phase", ("run", "phase"))
        self.phase_s = Gauge("viva_recap_phase_seconds", "wall time of the phase that ended last, by phase", ("run", "phase"))
        self._last_step: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Count one event; other records and unknown events pass by."""
        event = event_of(record)
        if event is None:
            return
        name, fields = event
        take = {
            "episode": self._take_episode,
            "episode_failed": self._take_failure,
            "labels": self._take_labels,
            "learner_step": self._take_step,
            "phase": self._take_phase,
        }.get(name)
        if take is not None:
            take(fields)

    def _take_episode(self, fields: Mapping[str, Any]) -> None:
        self.episodes.inc(1, self._tags(end=fields["end"]))
        self.env_steps.inc(fields["num_steps"], self._tags())
        self.policy_age.set(fields["policy_age"], self._tags())
        if fields["num_attempts"] > 1:
            self.retries.inc(fields["num_attempts"] - 1, self._tags())
        if fields["wall_s"] is not None:
            self.episode_s.observe(fields["wall_s"], self._tags())
        self._num_bytes += fields["num_bytes"]
        self.store_bytes.set(self._num_bytes, self._tags())

    def _take_failure(self, fields: Mapping[str, Any]) -> None:
        self.failures.inc(1, self._tags())

    def _take_labels(self, fields: Mapping[str, Any]) -> None:
        if fields["num_labelled"]:
            self.labels.inc(fields["num_labelled"], self._tags(value_version=str(fields["value_version"])))
        self.label_s.observe(fields["wall_s"], self._tags())

    def _take_step(self, fields: Mapping[str, Any]) -> None:
        phase = str(fields["phase"])
        # Only some steps are logged: those in between count as well. Where a resumed fit began is not known.
        num_new = fields["step"] - self._last_step.get(phase, fields["step"] - 1)
        self._last_step[phase] = fields["step"]
        tags = self._tags(phase=phase.split("/")[-1])
        if num_new > 0:
            self.learner_steps.inc(num_new, tags)
        self.loss.set(fields["loss"], tags)

    def _take_phase(self, fields: Mapping[str, Any]) -> None:
        self.phase_s.set(fields["wall_s"], self._tags(phase=str(fields["phase"]).split("/")[-1]))

    def _tags(self, **tags: str) -> dict[str, str]:
        return {"run": self._run, **tags}


@contextmanager
def metrics_of(run: str) -> Iterator[RunMetrics]:
    """Export metrics of a run while the block runs; this process must be connected to Ray."""
    metrics = RunMetrics(run)
    logger = logging.getLogger("viva_recap.events")
    level = logger.level
    logger.addHandler(metrics)
    logger.setLevel(logging.INFO)
    try:
        yield metrics
    finally:
        logger.setLevel(level)
        logger.removeHandler(metrics)
