"""Weights through Ray's object store: put once a version, read by every worker of a node from the same memory.

Hop 10 of the tour where workers do not see the run's folder. The file's bytes travel, not tensors: a worker writes them to its
own disk, and the checkpoint is verified there as any other.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
from numpy.typing import NDArray

from checkpoints.directory import MANIFEST_FILE, WEIGHTS_FILE, read_manifest
from cluster.rollout_host import PolicyCheckpoint


@dataclass(frozen=True, kw_only=True)
class CarriedCheckpoint:
    """A checkpoint directory as bytes."""

    manifest: str
    """The file's text."""
    weights: NDArray[np.uint8]
    """The file's bytes; in a worker they are a view of the node's object store, not a copy."""

    @classmethod
    def of(cls, path: Path) -> CarriedCheckpoint:
        """Read a checkpoint directory.

        Raises:
            CheckpointError: if there is none.
        """
        read_manifest(path)
        return cls(manifest=(path / MANIFEST_FILE).read_text(), weights=np.fromfile(path / WEIGHTS_FILE, np.uint8))


class WeightsCarrier:
    """The sending side: one ``ray.put`` a version, whatever the number of workers and episodes.

    Consumes: policy checkpoints. Produces: object references. Invariant: at most the newest two versions are held; Ray frees a
    version when the last episode that began with it has taken it.
    """

    def __init__(self) -> None:
        self._references: dict[PolicyCheckpoint, ray.ObjectRef[CarriedCheckpoint]] = {}
        self.num_puts = 0

    def reference(self, policy: PolicyCheckpoint | None) -> ray.ObjectRef[CarriedCheckpoint] | None:
        """What to send along with an episode's request; None for a worker that has its own policy."""
        if policy is None:
            return None
        if policy not in self._references:
            self._references[policy] = ray.put(CarriedCheckpoint.of(Path(policy.path)))
            self.num_puts += 1
            for older in list(self._references)[:-2]:
                del self._references[older]
        return self._references[policy]


class WeightsInbox:
    """The receiving side: checkpoints as directories on the worker's own disk."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is this worker's alone."""
        self._folder = folder
        self._newest: Path | None = None

    def unpack(self, policy: PolicyCheckpoint, carried: CarriedCheckpoint) -> PolicyCheckpoint:
        """The same policy, where this worker can read it; an older one's files are deleted."""
        digest = json.loads(carried.manifest)["weights"]["sha256"]
        path = self._folder / digest[:16] / Path(policy.path).name
        if path != self._newest:
            path.mkdir(parents=True)
            carried.weights.tofile(path / WEIGHTS_FILE)
            (path / MANIFEST_FILE).write_text(carried.manifest)
            if self._newest is not None:
                shutil.rmtree(self._newest.parent)
            self._newest = path
        return dataclasses.replace(policy, path=str(path))
