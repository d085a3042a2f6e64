"""Plays trials of many tasks, one environment at a time: built when a trial needs another one, kept while they need the same.

Hop 3 of the tour, for suites; beside :class:`actors.rollout_runner.RolloutRunner`, which plays one task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from actors.rollout_runner import RolloutRunner
from core.experience import Collection, Episode

MakeRunner = Callable[[str, Mapping[str, Any]], RolloutRunner]
"""(task, what sets its scene apart) -> a runner with its own environment."""


class SuiteRunner:
    """Implements ``cluster.rollout_host.EpisodeRunner``.

    Consumes: trials, as an episode's options: ``{"key": ..., "task": ..., "scene": {...}, "reset": {...}}``. Produces: Episodes
    whose annotations name their trial. Waits for: the environment, and its construction, which costs seconds. Invariant: one
    environment exists at a time.
    """

    def __init__(self, make_runner: MakeRunner) -> None:
        """``make_runner`` is called for every change of scene."""
        self._make_runner = make_runner
        self._runner: RolloutRunner | None = None
        self._scene: tuple[str, dict[str, Any]] | None = None
        self._policy: Path | None = None

    def load_policy(self, path: Path) -> None:
        """Use a checkpoint for the trials from now on."""
        self._policy = path
        if self._runner is not None:
            self._runner.load_policy(path)

    def run_episode(self, seed: int, *, collection: Collection, options: dict[str, Any] | None) -> Episode:
        """Play one trial."""
        assert options is not None, "a trial says what it is in its options"
        runner = self._runner_for(options["task"], options["scene"])
        episode = runner.run_episode(seed, collection=collection, options=dict(options["reset"]) or None)
        return episode.with_provenance(annotations={**episode.provenance.annotations, "trial": options["key"]})

    def close(self) -> None:
        """Free the environment."""
        if self._runner is not None:
            self._runner.close()
        self._runner = self._scene = None

    def _runner_for(self, task: str, scene: Mapping[str, Any]) -> RolloutRunner:
        wanted = (task, dict(scene))
        if self._runner is None or wanted != self._scene:
            self.close()
            runner = self._make_runner(task, scene)
            if self._policy is not None:
                runner.load_policy(self._policy)
            self._runner, self._scene = runner, wanted
        return self._runner
