"""Small checkpoints, robots and stores for the tests of promotion; nothing here is trained."""

from __future__ import annotations

from pathlib import Path

import torch

from checkpoints.contract import Conventions, LiveCapabilities, with_contract
from checkpoints.directory import write_checkpoint
from checkpoints.gate_record import Binding, GateEpisode, GateRecord
from checkpoints.gates import Gate
from checkpoints.ledger import Ledger
from checkpoints.policy import CanaryGate, EvaluationGate, GateKind, LimitsGate, PromotionPolicy
from checkpoints.promotion import Promotion
from checkpoints.store import CheckpointStore
from core.specs import ActionSpec, CameraSpec, EnvSpec, StateSpec

WHO = {"by": "tester", "reason": "a test"}
CONVENTIONS = Conventions(frame="base", rotation="axis_angle", gripper="positive_opens")
SPEC = EnvSpec(
    cameras=(CameraSpec(name="wrist", height_px=12, width_px=16),),
    state=StateSpec(names=("x", "gripper"), units=("m", "1")),
    action=ActionSpec(names=("dx", "gripper"), units=("m", "1"), low=(-0.1, -1.0), high=(0.1, 1.0), control_hz=5.0),
)
ARM = LiveCapabilities(robot="arm1", env_spec=SPEC, conventions=CONVENTIONS, max_chunk_length=8, safety_digest="aa11")
CHUNK = 4

POLICY = PromotionPolicy(
    evaluation=EvaluationGate(num_episodes=20, min_success=0.5),
    shadow=LimitsGate(limits={"latency_p99_s": [None, 0.3]}),
    canary=CanaryGate(num_episodes=30, min_success=0.5, max_speed_fraction=0.5),
)


def write_policy(path: Path, weight: float = 0.0, *, conventions: Conventions | None = CONVENTIONS, **changes) -> Path:
    """A checkpoint directory that differs from others by its weights."""
    manifest = {
        "kind": "policy",
        "model": "toy",
        "version": 1,
        "env_spec": SPEC.to_json(),
        "config": {"image_height_px": 12, "image_width_px": 16, "action_horizon": CHUNK, "use_indicator": True},
        "normalization": {"action": {"low": [-1, -1], "high": [1, 1]}, "state": {"low": [0, 0], "high": [1, 1]}},
        "text": {"kind": "hashed"},
        **changes,
    }
    if conventions is not None:
        manifest = with_contract(manifest, conventions)
    write_checkpoint(path, {"weight": torch.full((3,), weight)}, manifest)
    return path


def make_promotion(root: Path, policy: PromotionPolicy = POLICY) -> Promotion:
    return Promotion(CheckpointStore(root), Ledger(root), policy)


def add_policy(promotion: Promotion, folder: Path, weight: float, **changes) -> str:
    return promotion.store.add(write_policy(folder / f"policy_{weight}", weight, **changes))


def episodes(outcomes: str, first: int = 0, **changes) -> list[GateEpisode]:
    """One episode a letter: s solved, f failed."""
    return [GateEpisode(key=str(first + i), is_success=letter == "s", **changes) for i, letter in enumerate(outcomes)]


def record_episodes(promotion: Promotion, gate: Gate, rows: list[GateEpisode]) -> Gate:
    return promotion.gates.add(gate, lambda record: record.with_episodes(rows), **WHO)


def pass_evaluation(promotion: Promotion, checkpoint_id: str, digest: str = "suite1") -> Gate:
    binding = Binding(name="suite", digest=digest)
    gate = promotion.gates.open(checkpoint_id, GateKind.EVALUATION, binding, **WHO)
    return record_episodes(promotion, gate, episodes("s" * 20))


def pass_shadow(promotion: Promotion, checkpoint_id: str, live: LiveCapabilities = ARM) -> Gate:
    gate = promotion.gates.open(checkpoint_id, GateKind.SHADOW, Binding(name=live.robot, digest=live.digest), **WHO)
    return promotion.gates.add(gate, lambda record: GateRecord.with_measurements(record, {"latency_p99_s": 0.1}), **WHO)


def open_canary(promotion: Promotion, checkpoint_id: str, live: LiveCapabilities = ARM) -> Gate:
    return promotion.gates.open(checkpoint_id, GateKind.CANARY, Binding(name=live.robot, digest=live.digest), **WHO)


def pass_all(promotion: Promotion, checkpoint_id: str) -> None:
    """Everything that a robot's channel asks for."""
    promotion.register(ARM, by="tester")
    pass_evaluation(promotion, checkpoint_id)
    pass_shadow(promotion, checkpoint_id)
    record_episodes(promotion, open_canary(promotion, checkpoint_id), episodes("s" * 30, speed_fraction=0.5))
