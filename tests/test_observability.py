"""Events say what happened with ids and versions; metrics count them; the dashboard asks for metrics that there are."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from replay_episodes import episode_id, random_episode

from cluster.events import events_to, log_event
from cluster.observed import ObservedLabelling, ObservedPool
from cluster.rollout_host import EpisodeReport, EpisodeSpec, PolicyCheckpoint
from core.errors import WorkerError
from core.experience import EpisodeEnd
from replay.episode_store import EpisodeStore
from value_service.client import LabellingReport
from value_service.labeler import ValueCheckpoint

ROOT = Path(__file__).resolve().parent.parent


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def report(seed, store=None, **more):
    if store is not None:
        store.append(random_episode(seed, steps=5))
    facts = {"end": EpisodeEnd.SUCCESS, "num_steps": 5, "policy_version": 3, "worker": "w1", "wall_s": 1.5}
    return EpisodeReport(episode_id=episode_id(seed), seed=seed, **{**facts, **more})


class FakePool:
    """Gives what it is told to; remembers whether it was stopped."""

    def __init__(self, outcomes):
        self.outcomes, self.is_stopped, self.is_closed = outcomes, False, False

    def collect(self, episodes, *, policy, on_episode=None, on_failure=None):
        try:
            for spec, outcome in zip(episodes, self.outcomes, strict=True):
                if isinstance(outcome, Exception):
                    on_failure(spec, outcome)
                else:
                    yield outcome
        finally:
            self.is_stopped = True

    def close(self):
        self.is_closed = True


class FakeLabelling:
    def label_many(self, episode_ids, checkpoint, on_progress=None):
        return LabellingReport(num_labelled=len(episode_ids), num_already_there=0)


def test_every_line_has_time_run_and_event(tmp_path):
    file = tmp_path / "new/events.jsonl"
    with events_to(file, run="demo"):
        log_event("phase", phase="001/label", wall_s=2.5, version=1)
        logging.getLogger("cluster.ray_pool").warning("worker %s died", "w1")
        logging.getLogger("cluster.ray_pool").info("nobody asked for this")
        try:
            raise ValueError("reason")
        except ValueError:
            logging.getLogger("replay").exception("a line\nand another")
    log_event("phase", phase="after the run")
    first, second, third = lines(file)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first.pop("time"))
    assert first == {"level": "info", "run": "demo", "event": "phase", "phase": "001/label", "wall_s": 2.5, "version": 1}
    assert (second["event"], second["level"], second["message"]) == ("log", "warning", "worker w1 died")
    assert "ValueError: reason" in third["exception"]


def test_a_pool_tells_episodes_with_their_ids_versions_and_age(tmp_path):
    store = EpisodeStore(tmp_path / "store")
    failure = WorkerError("it died twice")
    pool = ObservedPool(FakePool([report(1, store), failure, report(2, store, policy_version=-1, wall_s=float("nan"))]), store)
    failed = []
    with events_to(tmp_path / "events.jsonl", run="demo"):
        found = list(
            pool.collect(
                [EpisodeSpec(seed=s) for s in (1, 9, 2)],
                policy=PolicyCheckpoint(path="p", version=4),
                on_failure=lambda spec, error: failed.append((spec.seed, error)),
            )
        )
    assert [r.seed for r in found] == [1, 2]
    assert failed == [(9, failure)]
    first, second, third = lines(tmp_path / "events.jsonl")
    assert (first["event"], first["episode_id"], first["policy_version"], first["policy_age"]) == ("episode", episode_id(1), 3, 1)
    assert first["num_bytes"] == store.info(episode_id(1)).num_bytes
    assert (second["event"], second["seed"], second["error"]) == ("episode_failed", 9, "it died twice")
    assert (third["policy_age"], third["wall_s"]) == (0, None)


def test_whoever_stops_early_stops_the_pool(tmp_path):
    store = EpisodeStore(tmp_path)
    inner = FakePool([report(1, store), report(2, store)])
    pool = ObservedPool(inner, store)
    reports = pool.collect([EpisodeSpec(seed=1), EpisodeSpec(seed=2)], policy=None)
    next(reports)
    assert not inner.is_stopped
    reports.close()
    assert inner.is_stopped
    pool.close()
    assert inner.is_closed


def test_labelling_tells_the_value_version(tmp_path):
    with events_to(tmp_path / "events.jsonl", run="demo"):
        done = ObservedLabelling(FakeLabelling()).label_many([episode_id(1)], ValueCheckpoint(version=7, path="v"))
    assert done.num_labelled == 1
    (line,) = lines(tmp_path / "events.jsonl")
    assert (line["event"], line["value_version"], line["num_labelled"]) == ("labels", 7, 1)


@pytest.fixture
def metrics(monkeypatch):
    """Metrics that write down what they are told; Ray's own do nothing without a cluster."""
    import cluster.metrics as module

    told = []

    class Fake:
        def __init__(self, name, description, *more):
            self.name, self.tag_keys = name, more[-1]

        def _tell(self, value, tags):
            assert set(tags) == set(self.tag_keys)
            told.append((self.name.removeprefix("viva_recap_"), value, {k: v for k, v in tags.items() if k != "run"}))

        inc = set = observe = _tell

    for name in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(module, name, Fake)
    with module.metrics_of("demo"):
        yield told


def test_events_become_metrics(metrics):
    episode = {"end": "success", "num_steps": 5, "policy_age": 2, "num_attempts": 2, "wall_s": 1.5, "num_bytes": 100}
    log_event("episode", **episode)
    log_event("episode", **episode | {"wall_s": None, "num_attempts": 1})
    assert metrics.count(("env_steps", 5, {})) == 2
    assert metrics.count(("episodes", 1, {"end": "success"})) == 2
    assert [value for name, value, _ in metrics if name == "store_bytes"] == [100, 200]
    assert [value for name, value, _ in metrics if name in ("episode_retries", "episode_seconds")] == [1, 1.5]
    metrics.clear()
    for step in (10, 20):
        log_event("learner_step", phase="001/fit_value", step=step, loss=0.5, version=1)
    assert [value for name, value, tags in metrics if name == "learner_steps" and tags == {"phase": "fit_value"}] == [1, 10]
    metrics.clear()
    log_event("labels", value_version=3, num_labelled=4, wall_s=2.0)
    log_event("episode_failed", seed=1, collection="rollout", error="x")
    log_event("phase", phase="001/label", wall_s=9.0, version=1)
    log_event("something new", x=1)
    logging.getLogger("viva_recap.events").warning("not an event")
    assert metrics == [
        ("labels", 4, {"value_version": "3"}),
        ("labelling_seconds", 2.0, {}),
        ("episode_failures", 1, {}),
        ("phase_seconds", 9.0, {"phase": "label"}),
    ]


def test_the_dashboard_asks_for_metrics_that_there_are():
    source = (ROOT / "cluster/metrics.py").read_text()
    made = dict((name, kind) for kind, name in re.findall(r'(Counter|Gauge|Histogram)\("(viva_recap_\w+)"', source))
    dashboard = json.loads((ROOT / "docs/grafana/viva_recap.json").read_text())
    asked = set(re.findall(r"ray_(viva_recap_\w+)", json.dumps(dashboard["panels"])))
    suffix = {"Counter": "_total", "Histogram": "_bucket", "Gauge": ""}
    assert asked == {name + suffix[kind] for name, kind in made.items()}
    documented = set(re.findall(r"`(\w+)(?:\{\w+\})?`", (ROOT / "docs/observability.md").read_text()))
    assert {
        name.removeprefix("viva_recap_") + ("_total" if kind == "Counter" else "") for name, kind in made.items()
    } <= documented


PROGRAM = """
import sys, time
from cluster.launch import RayConfig, start_ray, stop_ray
start_ray(RayConfig(num_cpus=1, object_store_mb=100, metrics_port=int(sys.argv[1])))
import ray
from cluster.events import log_event
from cluster.metrics import metrics_of
@ray.remote
def speak():
    print("a worker speaks", flush=True)
ray.get(speak.remote())
with metrics_of("demo"):
    log_event("labels", value_version=3, num_labelled=4, wall_s=2.0)
    print("ready", flush=True)
    sys.stdin.readline()
stop_ray()
"""


@pytest.mark.ray
@pytest.mark.slow
def test_ray_exports_the_metrics_and_shows_what_workers_print(tmp_path):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    terminal = tmp_path / "terminal"
    with terminal.open("wb") as output:
        program = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(port)], stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT
        )
    found: list[str] = []
    try:
        # Both come when they come: Ray exports every few seconds, and hands on what workers print from their log files.
        for _ in range(300):
            assert program.poll() is None, terminal.read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    exported = answer.read().decode().splitlines()
                found = [line for line in exported if line.startswith("ray_viva_recap_labels_total{")]
            except OSError:
                found = []
            if found and "a worker speaks" in terminal.read_text():
                break
            time.sleep(1)
        assert "a worker speaks" in terminal.read_text()
        assert found, f"no metric on port {port} after 300 looks; the program printed: {terminal.read_text()}"
        assert 'run="demo"' in found[0]
        assert 'value_version="3"' in found[0]
        assert found[0].endswith(" 4.0")
    finally:
        program.stdin.close()  # it then stops Ray and ends
        try:
            program.wait(timeout=120)
        finally:
            program.kill()
            program.wait()
