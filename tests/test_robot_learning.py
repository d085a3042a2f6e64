"""What is learned from a robot's recorded episode: corrections are good, hold and homing say nothing, takeovers are counted."""

from __future__ import annotations

import dataclasses
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from actors.robot_runner import RobotRunner
from core.errors import CorruptDataError, NonFiniteError, SpecError
from core.experience import Source
from core.labels import Indicator
from core.windows import WindowSpec
from learners.batch import StepTable
from learners.extraction import ExtractionConfig, judge
from replay.__main__ import main
from replay.episode_store import EpisodeStore
from replay.interventions import intervention_stats, is_before_takeover, takeovers
from replay.sampler import Category, MixConfig, WindowSampler
from tests.real_robot_rig import InlineExecutor, Rig, StepPolicy, take_over


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A store with one episode of a robot: policy, recovery, correction, hold, policy again."""
    rig = Rig(take_over)
    runner = RobotRunner(
        rig.env, replan_steps=3, load_policy=lambda path: StepPolicy(), executor=InlineExecutor(rig), run="r", worker="w"
    )
    runner.load_policy("checkpoints/three")
    root = tmp_path_factory.mktemp("robot")
    store = EpisodeStore(root, writer_name="robot")
    episode = runner.run_episode(0)
    store.append(episode)
    assert {Source(s) for s in episode.source} == {Source.POLICY, Source.HUMAN, Source.HOLD}
    return root, store, episode


def test_the_sampler_never_returns_a_step_in_which_the_robot_was_held(recorded):
    _, store, episode = recorded
    sample = WindowSampler(store, MixConfig(), seed=0).sample(2000, WindowSpec(action_horizon=4))
    windows = sample.windows
    assert set(windows.t.tolist()) == set(np.flatnonzero(episode.source != Source.HOLD).tolist())  # all others, and none of these
    for t, is_pad, action in zip(windows.t, windows.action_is_pad, windows.action, strict=True):
        source = episode.source[t : t + 4]
        expected = np.append(source == Source.HOLD, np.ones(4 - len(source), bool))
        np.testing.assert_array_equal(is_pad, expected)
        np.testing.assert_array_equal(action[~is_pad], episode.executed_action[t : t + 4][source != Source.HOLD])
        assert not action[is_pad].any()
    assert set(sample.category[episode.source[windows.t] == Source.HUMAN]) == {Category.CORRECTION}


def test_corrections_are_positive_however_low_their_advantage_and_hold_says_nothing(recorded):
    _, store, episode = recorded
    labels = SimpleNamespace(advantage=np.full(episode.num_steps, -0.9, np.float32))
    table = StepTable.build(store, [episode.episode_id], lambda _: labels)
    judgement = judge(table, {episode.provenance.task: 0.0}, ExtractionConfig())
    expected = {Source.POLICY: Indicator.NEGATIVE, Source.HUMAN: Indicator.POSITIVE, Source.HOLD: Indicator.ABSENT}
    assert judgement.indicator.tolist() == [int(expected[Source(source)]) for source in episode.source]
    assert judgement.weight.tolist() == [float(source != Source.HOLD) for source in episode.source]


def test_the_steps_before_a_takeover_are_the_policys_last_ones(recorded):
    _, store, episode = recorded
    first = takeovers(episode.intervention_id)[0].start
    start_s = episode.time_s[:-1]
    before = is_before_takeover(store.steps(episode.episode_id), window_s=0.5)
    assert before.any()
    assert (episode.source[before] == Source.POLICY).all()
    np.testing.assert_array_equal(before[:first], start_s[:first] >= start_s[first] - 0.5)
    assert not before[first:].any()  # the second takeover followed the first, the policy's last steps nothing
    everything = is_before_takeover(store.steps(episode.episode_id), window_s=1e6)
    np.testing.assert_array_equal(everything, (np.arange(episode.num_steps) < first) & (episode.source == Source.POLICY))
    assert not is_before_takeover(store.steps(episode.episode_id), window_s=0.0).any()


def test_interventions_are_counted_by_checkpoint(recorded, capsys):
    root, store, episode = recorded
    (row,) = intervention_stats(store, [episode.episode_id])
    assert row.key == ("robot", "push", "checkpoints/three")
    assert (row.num_episodes, row.num_intervened, row.num_autonomous_successes, row.num_interventions) == (1, 1, 0, 2)
    lasts_s = np.diff(episode.time_s)
    minutes = [lasts_s[episode.source == source].sum() / 60 for source in (Source.POLICY, Source.HUMAN, Source.HOLD)]
    assert (row.policy_minutes, row.human_minutes, row.hold_minutes) == pytest.approx(tuple(minutes))
    assert row.per_minute == pytest.approx(2 / minutes[0])
    assert row.human_fraction == pytest.approx(minutes[1] / (minutes[0] + minutes[1]))
    assert main(["stats", str(root), "--interventions", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert (told["checkpoint"], told["num_interventions"]) == ("checkpoints/three", 2)
    assert main(["stats", str(root), "--interventions"]) == 0
    assert f"{row.per_minute:.2f}" in capsys.readouterr().out


def test_any_zarr_reader_opens_a_robots_arrays(recorded):
    zarr = pytest.importorskip("zarr")
    root, _, episode = recorded
    group = zarr.open_group(root / "episodes", mode="r")[f"robot/{episode.episode_id}/robot"]
    np.testing.assert_array_equal(group["requested_action"][:], episode.robot.requested_action)
    assert group.attrs["operators"] == ["ada"]


@pytest.mark.parametrize(
    ("file", "harm", "message"),
    [
        ("clip_mask/c.0", lambda content: content[:-1], "robot array clip_mask.*bytes; expected"),
        ("phase/c.0", lambda content: bytes([content[0] ^ 1]) + content[1:], "robot array phase.*fails its checksum"),
        ("zarr.json", lambda content: content.replace(b"ada", b"eve"), "robot/zarr.json is not what was committed"),
    ],
)
def test_what_was_altered_of_a_robots_records_is_named(recorded, tmp_path, file, harm, message):
    shutil.copytree(recorded[0], tmp_path / "copy")
    path = tmp_path / "copy/episodes/robot" / recorded[2].episode_id / "robot" / file
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(CorruptDataError, match=message):
        EpisodeStore(tmp_path / "copy").read(recorded[2].episode_id)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"clip_mask": np.zeros(3, np.int32)}, SpecError, r"robot.clip_mask is int32 \(3,\)"),
        ({"operators": ()}, SpecError, "robot.operator holds"),
        ({"phase": 7}, SpecError, "robot.phase holds"),
        ({"frame_age_s": np.nan}, NonFiniteError, "frame_age_s"),
    ],
)
def test_records_that_do_not_fit_their_episode_are_refused(recorded, change, error, message):
    episode = recorded[2]
    ((name, value),) = change.items()
    if np.isscalar(value):
        value = np.full_like(getattr(episode.robot, name), value)
    with pytest.raises(error, match=message):
        dataclasses.replace(episode, robot=dataclasses.replace(episode.robot, **{name: value}))
