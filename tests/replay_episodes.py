"""Episodes made of random numbers, the same for the same seed; for the tests of replay."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from core.experience import Collection, Episode, EpisodeEnd, Provenance, Source
from core.ids import EpisodeId
from core.specs import ActionSpec, CameraSpec, EnvSpec, StateSpec

SPEC = EnvSpec(
    cameras=(CameraSpec(name="overhead_camera", height_px=4, width_px=6), CameraSpec(name="wrist", height_px=3, width_px=5)),
    state=StateSpec(names=("q", "g"), units=("rad", "1")),
    action=ActionSpec(
        names=("dx", "dy", "grip"), units=("m", "m", "1"), low=(-1.0, -1.0, -1.0), high=(1.0, 1.0, 1.0), control_hz=3.0
    ),
)


def episode_id(seed: int) -> EpisodeId:
    return EpisodeId(hashlib.md5(str(seed).encode()).hexdigest())


def random_episode(
    seed: int,
    *,
    steps: int | None = None,
    collection: Collection = Collection.ROLLOUT,
    sources: tuple[Source, ...] = tuple(Source),
    spec: EnvSpec = SPEC,
    annotations: dict | None = None,
) -> Episode:
    rng = np.random.default_rng(seed)
    steps = int(rng.integers(1, 12)) if steps is None else steps

    def actions(missing: float) -> np.ndarray:
        drawn = rng.normal(size=(steps, spec.action.dim)).astype(np.float32)
        drawn[rng.random(steps) < missing] = np.nan
        return drawn

    source = rng.choice([int(s) for s in sources], size=steps).astype(np.int8)
    return Episode(
        images={c.name: rng.integers(0, 256, (steps + 1, c.height_px, c.width_px, 3), dtype=np.uint8) for c in spec.cameras},
        state=rng.normal(size=(steps + 1, spec.state.dim)).astype(np.float32),
        time_s=np.cumsum(rng.random(steps + 1) + 0.1),
        executed_action=actions(0.0),
        policy_action=actions(0.3),
        supervisor_action=actions(0.5),
        source=source,
        intervention_id=np.where(source == Source.HUMAN, 0, -1).astype(np.int32),
        reward=rng.random(steps).astype(np.float32),
        policy_version=np.where(source == Source.POLICY, seed, -1).astype(np.int32),
        action_age_s=rng.random(steps).astype(np.float32),
        instruction=f"pick object {seed}",
        end=list(EpisodeEnd)[seed % len(EpisodeEnd)],
        env_spec=spec,
        provenance=Provenance(
            env="fake", task=f"task_{seed % 2}", seed=seed, collection=collection, annotations=annotations or {}
        ),
        episode_id=episode_id(seed),
    )


ARRAYS = (
    "state",
    "time_s",
    "executed_action",
    "policy_action",
    "supervisor_action",
    "source",
    "intervention_id",
    "reward",
    "policy_version",
    "action_age_s",
)


def assert_same_episode(found: Episode, expected: Episode) -> None:
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
        assert getattr(found, name).dtype == getattr(expected, name).dtype, name
    assert set(found.images) == set(expected.images)
    for camera, frames in expected.images.items():
        np.testing.assert_array_equal(found.images[camera], frames)
    for name in ("instruction", "end", "env_spec", "provenance", "episode_id"):
        assert getattr(found, name) == getattr(expected, name), name
    assert (found.robot is None) == (expected.robot is None)
    for field in dataclasses.fields(expected.robot) if expected.robot is not None else ():
        left, right = getattr(found.robot, field.name), getattr(expected.robot, field.name)
        np.testing.assert_array_equal(left, right, err_msg=f"robot.{field.name}")
        assert getattr(left, "dtype", None) == getattr(right, "dtype", None), f"robot.{field.name}"
