from __future__ import annotations

import json

import numpy as np
import pytest
from replay_episodes import episode_id, random_episode

from core.errors import ConfigError, SpecError
from core.experience import Collection, Source
from core.windows import WindowSpec
from replay.episode_store import EpisodeStore, UnknownEpisodeError
from replay.sampler import Category, MixConfig, WindowSampler

SPEC = WindowSpec(image_offsets=(0, 1), action_horizon=2)
DEMONSTRATION = {"collection": Collection.DEMONSTRATION, "sources": (Source.HUMAN, Source.SCRIPTED, Source.HOLD)}
ROLLOUT = {"collection": Collection.ROLLOUT, "sources": (Source.POLICY, Source.HOLD)}
CORRECTED = {"collection": Collection.ROLLOUT, "sources": (Source.POLICY, Source.HUMAN, Source.HOLD)}
EVALUATION = {"collection": Collection.EVALUATION, "sources": (Source.POLICY,)}


def fill(root, *kinds, start=0):
    store = EpisodeStore(root)
    ids = [store.append(random_episode(start + seed, steps=8, **kind)) for seed, kind in enumerate(kinds)]
    return store, ids


def drawn(sampler, n=64, times=1):
    samples = [sampler.sample(n, SPEC) for _ in range(times)]
    return [(e, int(t), int(c)) for s in samples for e, t, c in zip(s.windows.episode_id, s.windows.t, s.category, strict=True)]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("mixed"), DEMONSTRATION, ROLLOUT, CORRECTED, CORRECTED, EVALUATION)


def test_windows_start_on_steps_of_their_category_and_never_on_hold_or_in_an_evaluation(mixed):
    store, ids = mixed
    seen = set()
    for e, t, category in drawn(WindowSampler(store, MixConfig(), seed=0), times=10):
        source, collection = store.steps(e).source[t], store.info(e).provenance.collection
        expected = (
            Category.DEMONSTRATION
            if collection is Collection.DEMONSTRATION
            else Category.CORRECTION
            if source == Source.HUMAN
            else Category.ROLLOUT
        )
        assert category == expected
        assert source != Source.HOLD
        seen.add((e, t))
    learnable = {(e, t) for e in ids[:4] for t in range(8) if store.steps(e).source[t] != Source.HOLD}
    assert seen == learnable, "every other step can be drawn"


def test_the_windows_are_those_of_the_store(mixed):
    store, _ = mixed
    sample = WindowSampler(store, MixConfig(), seed=1).sample(5, SPEC)
    again = store.windows(sample.windows.episode_id, sample.windows.t, SPEC)
    np.testing.assert_array_equal(sample.windows.images["wrist"], again.images["wrist"])
    np.testing.assert_array_equal(sample.windows.action, again.action)
    assert sample.category.dtype == np.int8


def test_categories_come_as_often_as_configured_and_steps_uniformly_within(mixed):
    store, _ = mixed
    sampler = WindowSampler(store, MixConfig(demonstration=1.0, rollout=2.0, correction=1.0), seed=0)
    np.testing.assert_allclose(sampler.probabilities(), [0.25, 0.5, 0.25])
    rows = drawn(sampler, n=1000, times=4)
    share = np.bincount([c for *_, c in rows], minlength=3) / len(rows)
    np.testing.assert_allclose(share, [0.25, 0.5, 0.25], atol=0.04)  # five standard deviations
    for category in Category:
        size = sampler.num_steps()[category]
        counts = list({(e, t): 0 for e, t, c in rows if c == category})
        assert len(counts) == size
        hits = np.unique([f"{e}{t}" for e, t, c in rows if c == category], return_counts=True)[1]
        expected = hits.sum() / size
        assert ((hits - expected) ** 2 / expected).sum() < size + 6 * np.sqrt(2 * size), "chi-square of a uniform draw"


def test_an_empty_category_leaves_its_share_to_the_others(tmp_path):
    store, _ = fill(tmp_path, DEMONSTRATION, ROLLOUT)
    sampler = WindowSampler(store, MixConfig(demonstration=1.0, rollout=3.0, correction=4.0), seed=0)
    np.testing.assert_allclose(sampler.probabilities(), [0.25, 0.75, 0.0])
    assert {c for *_, c in drawn(sampler)} == {Category.DEMONSTRATION, Category.ROLLOUT}
    with pytest.raises(SpecError, match=r"nothing to sample: 2 episodes with steps .*'correction': 0"):
        WindowSampler(store, MixConfig(demonstration=0.0, rollout=0.0, correction=1.0), seed=0).sample(1, SPEC)


def test_weights_by_size_draw_uniformly_from_all_steps(mixed):
    store, _ = mixed
    sampler = WindowSampler(store, MixConfig(by_size=True), seed=0)
    np.testing.assert_allclose(sampler.probabilities(), sampler.num_steps() / sampler.num_steps().sum())


def test_evaluations_are_drawn_only_when_asked_for(mixed):
    store, ids = mixed
    with pytest.raises(SpecError, match="nothing to sample: 0 episodes"):
        WindowSampler(store, MixConfig(), seed=0, ids=ids[4:]).sample(1, SPEC)
    asked = WindowSampler(store, MixConfig(), seed=0, ids=ids[4:], include_evaluation=True)
    assert {e for e, *_ in drawn(asked)} == {ids[4]}


def test_new_episodes_are_drawn_after_refresh_unless_restricted(tmp_path):
    store, ids = fill(tmp_path, ROLLOUT, ROLLOUT)
    everything = WindowSampler(store, MixConfig(), seed=0)
    restricted = WindowSampler(store, MixConfig(), seed=0, ids=[ids[1], ids[1]])
    new = EpisodeStore(tmp_path, writer_name="other").append(random_episode(9, steps=8, **DEMONSTRATION))
    assert set(everything.episode_ids) == set(ids)
    for sampler in (everything, restricted):
        sampler.refresh()
    assert {e for e, *_ in drawn(everything)} == {*ids, new}
    assert restricted.episode_ids == (ids[1],)
    assert {e for e, *_ in drawn(restricted)} == {ids[1]}
    everything.restrict([new])
    everything.refresh()
    assert {e for e, *_ in drawn(everything)} == {new}


def test_a_position_saved_as_json_continues_with_exactly_the_same_draws(tmp_path):
    store, _ = fill(tmp_path, DEMONSTRATION, ROLLOUT, CORRECTED)
    mix = MixConfig(rollout=2.0)
    uninterrupted = WindowSampler(store, mix, seed=3)
    drawn(uninterrupted, times=3)
    position = json.loads(json.dumps(uninterrupted.state_dict()))
    fill(tmp_path / "unused")
    EpisodeStore(tmp_path, writer_name="a").append(random_episode(50, steps=8, **ROLLOUT))
    resumed = WindowSampler(EpisodeStore(tmp_path), mix, seed=99)
    resumed.load_state_dict(position)
    assert drawn(resumed, times=3) == drawn(uninterrupted, times=3)
    for sampler in (resumed, uninterrupted):
        sampler.refresh()
    assert resumed.episode_ids == uninterrupted.episode_ids
    assert len(resumed.episode_ids) == 4
    assert drawn(resumed, times=3) == drawn(uninterrupted, times=3)


def test_a_restricted_sampler_resumes_restricted(tmp_path):
    store, ids = fill(tmp_path, ROLLOUT, ROLLOUT)
    restricted = WindowSampler(store, MixConfig(), seed=0, ids=ids[:1])
    resumed = WindowSampler(store, MixConfig(), seed=5)
    resumed.load_state_dict(restricted.state_dict())
    resumed.refresh()
    assert resumed.episode_ids == (ids[0],)


def test_resuming_elsewhere_or_with_another_mix_is_refused(tmp_path):
    store, _ = fill(tmp_path / "one", ROLLOUT)
    state = WindowSampler(store, MixConfig(), seed=0).state_dict()
    with pytest.raises(ConfigError, match="resume with the same mix"):
        WindowSampler(store, MixConfig(rollout=9.0), seed=0).load_state_dict(state)
    other, _ = fill(tmp_path / "other", ROLLOUT, start=5)
    with pytest.raises(UnknownEpisodeError, match=episode_id(0)):
        WindowSampler(other, MixConfig(), seed=0).load_state_dict(state)


@pytest.mark.parametrize(
    "weights", [{"rollout": -1.0}, {"rollout": float("nan")}, dict.fromkeys(("demonstration", "rollout", "correction"), 0.0)]
)
def test_weights_that_are_no_weights_are_refused(weights):
    with pytest.raises(ConfigError, match="weights of the mix"):
        MixConfig(**weights)


def test_draws_do_not_depend_on_the_order_in_which_episodes_are_named(mixed):
    store, ids = mixed
    forwards, backwards = (WindowSampler(store, MixConfig(), seed=0, ids=order) for order in (ids, ids[::-1]))
    assert drawn(forwards) == drawn(backwards)
