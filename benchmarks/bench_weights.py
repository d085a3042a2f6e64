"""What do new weights cost the actors: one put a version, and a get in each of N actors, against reading the run's folder?"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import ray
import torch

from benchmarks.report import write_report
from checkpoints.directory import read_checkpoint, write_checkpoint
from cluster.carried_weights import CarriedCheckpoint, WeightsInbox
from cluster.launch import RayConfig, start_ray, stop_ray
from cluster.rollout_host import PolicyCheckpoint

ROOT = Path(__file__).resolve().parents[1]
ACTORS = (1, 2, 4)
REPEATS = 5
RANDOM_MB = 200


class Receiver:
    """An actor that does with weights what a rollout worker does before it builds the network."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._round = 0

    def ready(self) -> None:
        """Answers once it is started."""

    def get(self, carried: CarriedCheckpoint) -> float:
        """Seconds from having the object to having touched all its bytes."""
        started_s = time.perf_counter()
        int(carried.weights.sum(dtype="uint64"))
        return time.perf_counter() - started_s

    def unpack(self, policy: PolicyCheckpoint, carried: CarriedCheckpoint) -> float:
        """Seconds for writing the files here, verifying and loading them."""
        self._round += 1
        inbox = WeightsInbox(Path(self._folder.name) / str(self._round))
        started_s = time.perf_counter()
        read_checkpoint(Path(inbox.unpack(policy, carried).path))
        return time.perf_counter() - started_s

    def read(self, policy: PolicyCheckpoint) -> float:
        """Seconds for verifying and loading the files of the run's folder."""
        started_s = time.perf_counter()
        read_checkpoint(Path(policy.path))
        return time.perf_counter() - started_s


def main() -> None:
    """The shipped policy, and a random state of 200 MB."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "weights" / "simpler_google" / "policy", Path(folder) / "tiny")
        torch.manual_seed(0)
        write_checkpoint(
            Path(folder) / "random", {f"w{i}": torch.randn(RANDOM_MB * 2**18 // 8) for i in range(8)}, {"version": 0}
        )
        start_ray(RayConfig(num_cpus=2, object_store_mb=1500))
        try:
            for name in ("tiny", "random"):
                policy = PolicyCheckpoint.of(0, Path(folder) / name)
                size_mb = (Path(policy.path) / "model.safetensors").stat().st_size / 2**20
                rows += [(f"{name}, {size_mb:.0f} MB", str(count), *_measured(policy, count)) for count in ACTORS]
        finally:
            stop_ray()
    write_report(
        "weights",
        question="New weights to N actors: one put a version, against each reading the run's folder",
        headings=("weights", "actors", "put, ms", "all have it, ms", "all unpacked and loaded, ms", "all read the folder, ms"),
        rows=rows,
        notes=(
            f"Medians of {REPEATS}; wall time until the last actor is done; actors share one node, and 2 cores.",
            "put: read the file, copy it into the object store. All have it: every actor got the reference and read every byte, "
            "from one copy in shared memory.",
            "Unpacked and loaded: written to the actor's own disk, SHA-256 checked, tensors loaded. The folder was in the page "
            "cache, which a network file system is not: that is the case the object store is for.",
        ),
    )


def _measured(policy: PolicyCheckpoint, count: int) -> tuple[str, ...]:
    actors = [ray.remote(num_cpus=0)(Receiver).remote() for _ in range(count)]
    ray.get([actor.ready.remote() for actor in actors])
    rounds: list[tuple[float, ...]] = []
    for _ in range(REPEATS + 1):  # the first warms up
        started_s = time.perf_counter()
        reference = ray.put(CarriedCheckpoint.of(Path(policy.path)))
        put_s = time.perf_counter() - started_s
        times = [put_s]
        for method, arguments in (("get", (reference,)), ("unpack", (policy, reference)), ("read", (policy,))):
            started_s = time.perf_counter()
            ray.get([getattr(actor, method).remote(*arguments) for actor in actors])
            times.append(time.perf_counter() - started_s)
        rounds.append(tuple(times))
    for actor in actors:
        ray.kill(actor)
    return tuple(f"{1000 * statistics.median(column):.0f}" for column in zip(*rounds[1:], strict=True))
