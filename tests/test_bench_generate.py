"""The bench's episodes: their kinds and ground truth, resumption, and one real episode of each kind."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bench_toys import LINE_PLAN, LineExpert, line_stage

from core.errors import ConfigError, SpecError
from core.experience import EpisodeEnd
from replay.episode_store import EpisodeStore
from value_service.bench.generate import Stage, generate, simpler_stage
from value_service.bench.plan import PLAN, TaskPlan
from value_service.bench.truth import Kind, Split, Truth, bench_episodes, judge
from value_service.metrics import KeyFrame
from value_service.progress_label import Interval, progress_label

PHASES = ["approach"] * 12 + ["lift"] * 3


def annotations(*intervals: tuple[str, int, int]) -> dict:
    return {"intervals": [{"kind": kind, "m": m, "n": n} for kind, m, n in intervals], "phases": PHASES}


def judged(kind: Kind, *intervals: tuple[str, int, int], end: EpisodeEnd = EpisodeEnd.SUCCESS) -> Truth | None:
    return judge(kind, Split.TEST, annotations(*intervals), end=end, num_steps=15)


def test_labels_are_the_published_construction():
    expert, hesitation, retry = (
        judged(Kind.EXPERT),
        judged(Kind.HESITATION, ("hesitation", 3, 8)),
        judged(Kind.RETRY, ("retry", 5, 8)),
    )
    np.testing.assert_allclose(expert.label, np.linspace(0, 1, 16))
    np.testing.assert_allclose(hesitation.label, progress_label(16, hesitations=[Interval(3, 8)]))
    np.testing.assert_allclose(retry.label, progress_label(16, retries=[Interval(5, 8)]))
    assert hesitation.interval == (3, 8)


def test_key_frames_are_achievements_retreats_and_empty_lifts():
    failure = judged(Kind.FAILURE, end=EpisodeEnd.FAILURE)
    assert judged(Kind.EXPERT).key_frames == (KeyFrame(t=13),)
    assert judged(Kind.RETRY, ("retry", 5, 8)).key_frames == (KeyFrame(t=6, is_error=True), KeyFrame(t=13))
    assert failure.key_frames == (KeyFrame(t=13, is_error=True),)
    assert failure.label is None


@pytest.mark.parametrize(
    ("kind", "intervals", "end"),
    [
        (Kind.EXPERT, (), EpisodeEnd.FAILURE),
        (Kind.EXPERT, (("miss", 3, 5),), EpisodeEnd.SUCCESS),
        (Kind.HESITATION, (), EpisodeEnd.SUCCESS),
        (Kind.HESITATION, (("hesitation", 3, 5), ("miss", 7, 9)), EpisodeEnd.SUCCESS),
        (Kind.RETRY, (("hesitation", 3, 5),), EpisodeEnd.SUCCESS),
        (Kind.RETRY, (("retry", 6, 13),), EpisodeEnd.SUCCESS),  # T - 2x = 2 < m: the peak would be above 1
        (Kind.FAILURE, (), EpisodeEnd.SUCCESS),
    ],
)
def test_an_episode_that_came_out_otherwise_has_no_truth(kind, intervals, end):
    assert judged(kind, *intervals, end=end) is None


def test_truth_survives_its_record_and_a_broken_record_is_named():
    truth = judged(Kind.RETRY, ("retry", 5, 8))
    again = Truth.from_json(truth.to_json())
    np.testing.assert_allclose(again.label, truth.label, atol=1e-6)
    assert (again.kind, again.split, again.interval, again.key_frames) == (
        truth.kind,
        truth.split,
        truth.interval,
        truth.key_frames,
    )
    with pytest.raises(SpecError, match="generate the store again"):
        Truth.from_json({**truth.to_json(), "kind": "dance"})


def test_the_bench_has_hundreds_of_suboptimal_episodes_of_both_robots():
    assert sum(plan.count(kind) for plan in PLAN for kind in (Kind.HESITATION, Kind.RETRY)) >= 300
    assert {plan.robot for plan in PLAN if plan.is_held_out} == {"simpler_google", "simpler_widowx"}
    assert len([plan for plan in PLAN if not plan.is_held_out]) >= 4


def test_splits_do_not_overlap_and_negative_counts_are_refused():
    plan = TaskPlan(robot="line", task="cross", expert=8, hesitation=4, retry=4, failure=3)
    splits = [plan.split(Kind.EXPERT, index) for index in range(8)]
    assert splits == [Split.TRAIN] * 6 + [Split.TEST] * 2
    assert replace(plan, is_held_out=True).split(Kind.EXPERT, 0) is Split.HELD_OUT
    assert plan.scaled(0.01).count(Kind.HESITATION) == 1
    with pytest.raises(ConfigError, match="-1 retry"):
        replace(plan, retry=-1)


@pytest.mark.whole
def test_generation_plays_what_is_planned_and_continues_where_it_was_interrupted(tmp_path):
    class InterruptedStore(EpisodeStore):
        def append(self, episode):
            if len(self) == 7:
                raise KeyboardInterrupt
            return super().append(episode)

    def seen(store):
        return [(e.task, e.truth.kind, e.truth.split, e.seed, e.num_steps) for e in bench_episodes(store)]

    whole, counts = EpisodeStore(tmp_path / "whole"), []
    generate(whole, LINE_PLAN, line_stage(), on_count=lambda count, note: counts.append(count))
    assert counts == list(range(15))
    assert [e.truth.kind for e in bench_episodes(whole)].count(Kind.FAILURE) == 3
    for episode in bench_episodes(whole):
        assert (episode.truth.label is None) == (episode.truth.kind is Kind.FAILURE)
        assert episode.truth.kind is not Kind.FAILURE or episode.num_steps < 40  # not watched until the time limit

    interrupted = InterruptedStore(tmp_path / "interrupted")
    with pytest.raises(KeyboardInterrupt):
        generate(interrupted, LINE_PLAN, line_stage())
    interrupted.close()
    resumed = EpisodeStore(tmp_path / "interrupted")
    generate(resumed, LINE_PLAN, line_stage())
    assert seen(resumed) == seen(whole)


def test_an_expert_that_cannot_make_a_kind_is_an_error(tmp_path):
    def clumsy(plan, flaws, rng):
        return LineExpert(replace(flaws, aim_error_probability=1.0, aim_error_m=(0.1, 0.1)), rng)

    stage = Stage(make_env=line_stage().make_env, make_expert=clumsy)
    with pytest.raises(ConfigError, match="20 attempts gave 0 expert episodes of 1"):
        generate(EpisodeStore(tmp_path), [LINE_PLAN[1]], stage)


@pytest.mark.sim
@pytest.mark.slow
def test_simpler_makes_one_episode_of_each_kind(tmp_path):
    plan = TaskPlan(robot="simpler_widowx", task="widowx_carrot_on_plate", expert=1, hesitation=1, retry=1, failure=1)
    store = EpisodeStore(tmp_path)
    generate(store, [plan], simpler_stage(image_height_px=32, image_width_px=40))
    episodes = {e.truth.kind: e for e in bench_episodes(store)}
    assert set(episodes) == set(Kind)
    for kind in (Kind.HESITATION, Kind.RETRY):
        start, stop = episodes[kind].truth.interval
        moved_m = np.linalg.norm(np.diff(store.steps(episodes[kind].episode_id).state[start : stop + 1, :3], axis=0), axis=1)
        # The arm follows a command with some delay, so the first step of a pause still moves.
        assert (moved_m[1:].mean() > 0.01) == (kind is Kind.RETRY)
