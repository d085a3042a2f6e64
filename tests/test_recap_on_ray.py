"""The whole loop on Ray, as a user starts it: interrupted with Ctrl-C while it collects, continued, nothing lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from configs import build
from configs.load import load_config
from learners.display import Display
from learners.pretrain import pretrain
from learners.recap import main
from learners.run_directory import RunDirectory

_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
_PATIENCE_S = 300
FEW = [
    "pretrain.num_demonstrations=4", "pretrain.policy.num_steps=3", "pretrain.value.num_steps=3", "pretrain.codec_frames=40",
    "pretrain.is_policy_on_successes_only=false", "evaluation.num_episodes=1", "tracking.num_videos=0",
]  # fmt: skip


def _episodes(replay: Path) -> set[str]:
    return set(build.open_store(load_config("smoke"), replay, "reader").episode_ids())


@pytest.mark.ray
def test_ctrl_c_ends_a_ray_run_and_resume_finishes_it(tmp_path: Path) -> None:
    pretrained, run = tmp_path / "pretrained", tmp_path / "run"
    # Here, as the resumption below: another process would import everything again.
    pretrain(load_config("smoke", FEW), pretrained, display=Display(quiet=True))
    arguments = [
        "learners.recap", "--config", "smoke", "--run", str(run), "execution.mode=ray", "execution.num_workers=2",
        "recap.iterations=1", "recap.episodes_per_iteration=40", "recap.policy.num_steps=4", "recap.value.num_steps=4",
        "recap.is_start_evaluated=false", "evaluation.num_episodes=2", "tracking.num_videos=0",
        f"recap.demonstrations={pretrained}/replay",
        *[f"recap.{kind}_checkpoint={pretrained}/checkpoints/{kind}" for kind in ("policy", "value")],
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], env=_ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline_s = time.monotonic() + _PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline_s:
        if (run / "replay").exists() and len(_episodes(run / "replay")) >= 2:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=_PATIENCE_S)
    assert process.returncode == 130, error
    assert "interrupted" in error.splitlines()[-1]
    assert "Traceback" not in error
    before = _episodes(run / "replay")
    assert 2 <= len(before) < 40

    assert main(["--resume", str(run), "execution.num_workers=1"]) == 0  # with fewer workers than it was started with
    collected = RunDirectory(run).result("001/collect")["episodes"]
    assert before < set(collected)
    assert len(set(collected)) == 40
    rows = json.loads((run / "summary.json").read_text())["iterations"]
    assert rows[-1]["num_episodes"] == 2
