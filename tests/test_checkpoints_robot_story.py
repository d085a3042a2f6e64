"""Canary, promotion and rollback on a supervised arm: supervisor, worker and command line each in a process of its own.

The fake arm moves in real time; a scripted operator arms, homes, hands over and labels. What is written here by hand in
docs/checkpoints.md is typed by a program.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from real_supervisor import experiment, supervisor_process, write_start
from scripted_operator import ScriptedOperator

from configs.build import open_store
from configs.load import load_config
from core.specs import CameraSpec
from envs.real_senses import robot_env_spec
from robot_drivers import messages as m

ROOT = Path(__file__).parent.parent
POLICY = """
staging: []
robot: [canary]
shadow: {limits: {num_steps: [4, null], num_not_finite: [null, 0], latency_p99_s: [null, 60]}}
canary: {num_episodes: 40, min_success: 0.2, max_speed_fraction: 0.5}
"""


class PatientOperator(ScriptedOperator):
    """Never takes over, and is always content."""

    def play(self, episode_id):
        self.num_episodes += 1
        self.homed_s = 0.0
        self.ask(m.HandBack)
        self.wait(self.plays_s)
        self.ask(m.SetLabel, episode_id=episode_id, label=m.Label.SUCCESS)
        while self.status.episode_id == episode_id and not self.over.is_set():
            self.wait(0.02)


@pytest.fixture
def operator(tmp_path):
    with supervisor_process(tmp_path):
        person = PatientOperator(tmp_path / "s.sock", tmp_path / "tokens")
        yield person
        person.close()


class Site:
    """A robot host's shell."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder, self.config = folder, config
        (folder / "store").mkdir()
        (folder / "store/policy.yaml").write_text(POLICY)

    def run(self, module: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", module, *words], cwd=ROOT, capture_output=True, text=True, timeout=400)

    def checkpoints(self, command: str, *words: str) -> str:
        """What a command prints; of one that is refused, its error."""
        done = self.run("checkpoints", command, "--store", str(self.folder / "store"), *words)
        return done.stdout.strip() if done.returncode == 0 else done.stderr.strip()

    def work(self, num_episodes: int) -> subprocess.CompletedProcess[str]:
        """The robot's worker, following what is promoted."""
        words = ["--config", self.config, "--agent", str(self.folder / "store"), "--cache", str(self.folder / "cache")]
        words += ["--max-latency-s", "30", "--store", str(self.folder / "replay"), "--episodes", str(num_episodes)]
        return self.run("actors.robot_worker", *words)

    def canary(self, checkpoint: str) -> None:
        self.checkpoints("gate", checkpoint, "canary", "--robot", "fake", "--open", "--reason", "first time on the arm")

    def robot(self) -> dict:
        (row,) = json.loads(self.checkpoints("robots", "--json"))
        return row

    def episodes(self) -> list:
        store = open_store(load_config(self.config, family="robot"), self.folder / "replay", "reader")
        return [store.read(episode_id) for episode_id in store.episode_ids()]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_canary_promotion_and_rollback_on_a_supervised_arm(operator, tmp_path):
    config = experiment(tmp_path)
    site = Site(tmp_path, config)
    spec = robot_env_spec(operator.client.welcome, (CameraSpec(name="front", height_px=32, width_px=32),))
    write_start(load_config(config, family="robot"), spec, tmp_path)
    conventions = ["--frame", "base", "--rotation", "axis_angle", "--gripper", "positive_opens"]
    first, second = (site.checkpoints("add", str(tmp_path / "policy"), "--run", run, *conventions) for run in ("p1", "p2"))
    shipped = site.checkpoints("add", str(ROOT / "weights/simpler_google/policy"))

    refused = site.work(1)  # it has reported by then what it is
    assert refused.returncode != 0
    assert "nothing was promoted to robot:fake" in refused.stderr
    refusal = site.checkpoints("promote", shipped, "robot:fake", "--reason", "it is there")
    assert "gripper convention is positive_closes for the checkpoint, positive_opens for the robot" in refusal
    assert "canary: nothing was recorded" in site.checkpoints("promote", first, "robot:fake", "--reason", "in a hurry")

    site.canary(first)
    tried = site.work(9)  # until the verdict: then nothing is promoted yet
    assert "nothing was promoted to robot:fake" in tried.stderr, tried.stderr
    episodes = site.episodes()
    assert len(episodes) == 3
    assert {episode.provenance.annotations["checkpoint"] for episode in episodes} == {first}
    assert {episode.provenance.annotations["speed_fraction"] for episode in episodes} == {0.5}
    assert site.checkpoints("promote", first, "robot:fake", "--reason", "canary passed").startswith(f"robot:fake -> {first}")
    assert site.work(1).returncode == 0
    assert (site.robot()["actual"], site.robot()["desired"]) == (first, first)
    full = [e for e in site.episodes() if e.provenance.annotations["speed_fraction"] == 1.0]
    assert len(full) == 1

    site.checkpoints("export", second, str(tmp_path / "tried"))
    measured = site.run("actors.shadow", str(tmp_path / "tried"), str(tmp_path / "replay")).stdout.split()
    assert "PASS" in site.checkpoints("gate", second, "shadow", "--robot", "fake", "--measured", *measured)
    site.canary(second)
    assert site.work(4).returncode == 0  # three of the canary, then back to what is promoted
    played = [episode.provenance.annotations["checkpoint"] for episode in site.episodes()]
    assert (played.count(first), played.count(second)) == (5, 3)
    site.checkpoints("promote", second, "robot:fake", "--reason", "canary passed")
    assert site.work(1).returncode == 0
    assert site.robot()["actual"] == second
    site.checkpoints("rollback", "robot:fake", "--reason", "drops cans")
    assert site.work(1).returncode == 0
    assert (site.robot()["actual"], site.robot()["desired"]) == (first, first)
    assert "entries, unaltered" in site.checkpoints("audit", "--verify")
