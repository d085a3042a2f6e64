from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from core.errors import NonFiniteError, SpecError
from core.experience import ActionChunk, Collection, Episode, EpisodeEnd, Provenance, Source, imitation_target
from core.labels import LabelKey, Labels
from core.specs import ActionSpec, CameraSpec, EnvSpec, StateSpec, require_same_spec
from core.windows import WindowSpec, episode_windows

STEPS = 4
SPEC = EnvSpec(
    cameras=(CameraSpec(name="front", height_px=2, width_px=3),),
    state=StateSpec(names=("q",), units=("rad",)),
    action=ActionSpec(names=("dx", "grip"), units=("m", "1"), low=(-1.0, -1.0), high=(1.0, 1.0), control_hz=3.0),
)


def make_episode(**changes: object) -> Episode:
    nothing = np.full((STEPS, 2), np.nan, np.float32)
    fields: dict = {
        "images": {"front": np.arange((STEPS + 1) * 18, dtype=np.uint8).reshape(STEPS + 1, 2, 3, 3)},
        "state": np.arange(STEPS + 1, dtype=np.float32)[:, None],
        "time_s": np.arange(STEPS + 1) / 3.0,
        "executed_action": np.arange(STEPS * 2, dtype=np.float32).reshape(STEPS, 2) / 10,
        "policy_action": nothing,
        "supervisor_action": nothing,
        "source": np.full(STEPS, Source.POLICY, np.int8),
        "intervention_id": np.full(STEPS, -1, np.int32),
        "reward": np.zeros(STEPS, np.float32),
        "policy_version": np.zeros(STEPS, np.int32),
        "action_age_s": np.zeros(STEPS, np.float32),
        "instruction": "pick",
        "end": EpisodeEnd.SUCCESS,
        "env_spec": SPEC,
        "provenance": Provenance(env="fake", task="t", seed=1, collection=Collection.ROLLOUT),
    }
    return Episode(**{**fields, **changes})


def test_arrays_of_an_episode_are_read_only():
    episode = make_episode()
    with pytest.raises(ValueError, match="read-only"):
        episode.reward[0] = 5
    with pytest.raises(ValueError, match="read-only"):
        episode.images["front"][0] = 5
    with pytest.raises(TypeError):
        episode.images["other"] = 5


def test_an_episode_of_one_source_has_nobody_else_in_it():
    whole = make_episode()
    given = {name: getattr(whole, name) for name in ("images", "state", "executed_action", "instruction", "end", "provenance")}
    short = Episode.of_one_source(Source.HUMAN, env_spec=SPEC, **given)
    assert short.source.tolist() == [Source.HUMAN] * STEPS
    assert short.policy_version.tolist() == short.intervention_id.tolist() == [-1] * STEPS
    assert np.isnan(short.policy_action).all()
    assert np.isnan(short.supervisor_action).all()
    assert short.time_s[1] == pytest.approx(1 / SPEC.action.control_hz)
    rewarded = Episode.of_one_source(Source.POLICY, env_spec=SPEC, reward=np.ones(STEPS, np.float32), policy_version=3, **given)
    assert rewarded.reward.sum() == STEPS
    assert rewarded.policy_version.tolist() == [3] * STEPS


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"state": np.zeros((STEPS, 1), np.float32)}, SpecError, r"state is float32 \(4, 1\); expected float32 \(5, 1\)"),
        ({"executed_action": np.full((STEPS, 2), np.nan, np.float32)}, NonFiniteError, r"executed_action\[0, 0\]"),
        ({"time_s": np.array([0.0, 1.0, 1.0, 2.0, 3.0])}, SpecError, "time_s must increase"),
        ({"images": {}}, SpecError, "front"),
        ({"source": np.full(STEPS, 9, np.int8)}, SpecError, "9"),
        ({"reward": np.zeros(STEPS)}, SpecError, "float64"),
        ({"policy_action": np.array([[np.nan, 1.0]] * STEPS, np.float32)}, NonFiniteError, "partly NaN"),
        ({"episode_id": "../etc"}, ValueError, "32 lower-case hex"),
    ],
)
def test_a_wrong_episode_is_refused_with_the_value_named(change, error, message):
    with pytest.raises(error, match=message):
        make_episode(**change)


def test_only_truncation_bootstraps():
    assert {end for end in EpisodeEnd if end.bootstraps()} == {
        EpisodeEnd.TIME_LIMIT,
        EpisodeEnd.OPERATOR_STOP,
        EpisodeEnd.FAULT,
    }


def test_env_spec_round_trips_through_json_text():
    again = EnvSpec.from_json(json.loads(json.dumps(SPEC.to_json())))
    assert again == SPEC
    assert again.digest == SPEC.digest


def test_spec_mismatch_names_the_part_and_both_values():
    other = replace(SPEC, cameras=(CameraSpec(name="front", height_px=4, width_px=3),))
    with pytest.raises(SpecError, match=r"checkpoint x was made for another cameras.*height_px=4.*height_px=2"):
        require_same_spec(other, SPEC, what="checkpoint x")
    require_same_spec(SPEC, SPEC, what="checkpoint x")


def test_action_chunk_with_nan_names_the_entry():
    with pytest.raises(NonFiniteError, match=r"actions\[1, 0\] is nan"):
        ActionChunk(actions=np.array([[0.0], [np.nan]], np.float32), policy_version=3, observation_time_s=0.0)


def test_supervisor_action_replaces_the_executed_one_where_there_is_one():
    executed = np.ones((2, 2), np.float32)
    supervisor = np.array([[np.nan, np.nan], [5.0, 6.0]], np.float32)
    assert imitation_target(executed, supervisor).tolist() == [[1.0, 1.0], [5.0, 6.0]]


def test_windows_are_clipped_padded_and_hold_steps_are_masked():
    source = np.array([Source.POLICY, Source.HOLD, Source.POLICY, Source.POLICY], np.int8)
    episode = make_episode(source=source)
    spec = WindowSpec(image_offsets=(0, 3), state_offsets=(-1, 0), action_horizon=3)
    windows = episode_windows(episode, np.array([0, 3]), spec)
    np.testing.assert_array_equal(windows.images["front"][1], episode.images["front"][[3, 4]])
    assert windows.state[:, :, 0].tolist() == [[0.0, 0.0], [2.0, 3.0]]
    assert windows.action_is_pad.tolist() == [[False, True, False], [False, True, True]]
    np.testing.assert_array_equal(windows.action[1, 0], episode.executed_action[3])
    assert not windows.action[windows.action_is_pad].any()


def test_labels_check_lengths_and_finiteness():
    key = LabelKey(make_episode().episode_id, 1)
    good = {"value": np.zeros(3), "return_": np.full(2, np.nan), "advantage": np.zeros(2), "target": "recap"}
    assert Labels(key=key, **good).num_steps == 2
    with pytest.raises(SpecError, match=r"value \(2,\)"):
        Labels(key=key, **{**good, "value": np.zeros(2)})
    with pytest.raises(NonFiniteError, match=r"advantage\[1\]"):
        Labels(key=key, **{**good, "advantage": np.array([0.0, np.nan])})
