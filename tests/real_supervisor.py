"""A real supervisor process with a fake arm, and experiments of small models on it; for tests in real time."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from checkpoints.directory import write_checkpoint
from models import presets
from models.normalization import Normalization

ROOT = Path(__file__).parent.parent
TWIN_STATE = ["arm.x = 0.02 * x + 0.35", "arm.y = 0.02 * y", "arm.z = 0.3", "arm.gripper = 1"]
TWIN_STATE += ["arm.qw = 0", "arm.qx = 1", "arm.qy = 0", "arm.qz = 0"]


@contextlib.contextmanager
def supervisor_process(folder):
    """Its socket is ``s.sock``, its tokens ``tokens``."""
    patient = OmegaConf.load(ROOT / "configs/robots/fake.yaml")  # a busy test machine is late, which is not what is tested here
    patient.watchdog.update({"late_tick_s": 60, "stale_state_s": 60, "tracking_error_s": 60, "stale_action_s": 3})
    patient.watchdog.update({"stale_observation_s": 3, "first_action_s": 30})
    patient.lease_ttl_s = 1.0
    OmegaConf.save(patient, folder / "supervised.yaml")
    options = {"--config": "supervised.yaml", "--socket": "s.sock", "--tokens": "tokens"}
    command = [part for option, file in options.items() for part in (option, str(folder / file))]
    process = subprocess.Popen(
        [sys.executable, "-m", "robot_drivers.supervisor", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert "listening on" in process.stdout.readline()
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def experiment(folder):
    """The models of the fake family, in a YAML file for the robot."""
    small = OmegaConf.load(ROOT / "configs/families/fake.yaml")
    small.env = {
        "family": "robot",
        "task": "push",
        "image_height_px": 32,
        "image_width_px": 32,
        "robot": {
            "name": "fake",
            "socket": str(folder / "s.sock"),
            "tokens": str(folder / "tokens"),
            "cameras": ["front=simulated@64x48"],
            "label_undo_s": 0.3,
            "twin": {
                "family": "fake",
                "action": ["dx = 50 * arm.dx", "dy = 50 * arm.dy"],
                "state": TWIN_STATE,
                "rollout_fraction": 0.5,
            },
        },
    }
    small.policy.update({"camera": "front", "action_horizon": 6})
    small.rollout.replan_steps = 3
    few = {"num_steps": 4, "batch_size": 8, "warmup_steps": 1}
    small.recap = {"iterations": 1, "episodes_per_iteration": 6, "is_start_evaluated": False, "policy": few, "value": few}
    small.evaluation = {"num_episodes": 1}
    small.tracking = {"num_videos": 0}
    small.execution = {"num_workers": 1}
    OmegaConf.save(small, folder / "experiment.yaml")
    return str(folder / "experiment.yaml")


def write_start(config, spec, folder):
    """A policy and a value model of the robot with fresh weights."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    actions = rng.normal(0.0, 0.004, (64, spec.action.dim)).astype(np.float32)
    normalization = Normalization.fit(actions, rng.normal(0.0, 0.1, (64, spec.state.dim)).astype(np.float32), spec.action)
    frames = rng.integers(0, 255, (50, 32, 32, 3)).astype(np.uint8)
    policy = presets.build_policy(config.policy, spec, normalization, presets.fit_codec(config.policy, frames))
    wanted = config.value.selected()
    value = presets.build_value_model(wanted, spec, normalization, presets.fit_codec(wanted, frames))
    for name, model in (("policy", policy), ("value", value)):
        write_checkpoint(folder / name, *model.to_checkpoint())
    return [f"recap.{name}_checkpoint={folder / name}" for name in ("policy", "value")]
