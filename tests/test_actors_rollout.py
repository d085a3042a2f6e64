from __future__ import annotations

import numpy as np
import pytest
import torch

from actors.players import ChunkPlayer, CorrectedPlayer, ScriptedPlayer
from actors.rollout_worker import RolloutConfig, RolloutWorker
from core.errors import NonFiniteError, SpecError, WorkerError
from core.experience import ActionChunk, Collection, EpisodeEnd, Source
from envs.fake import ReachEnv, ScriptedReacher
from envs.make import EnvConfig, make_env


class ConstantPolicy:
    """Always the same move; counts how often it is asked."""

    version = 7

    def __init__(self, move: tuple[float, float], horizon: int = 6) -> None:
        self.move, self.horizon, self.asked = move, horizon, 0

    def sample_actions(self, observations, instructions, generators):
        self.asked += 1
        actions = np.tile(np.float32(self.move), (self.horizon, 1))
        return [
            ActionChunk(actions=actions, policy_version=self.version, observation_time_s=observation.time_s)
            for observation in observations
        ]


def make_worker(player, **config) -> RolloutWorker:
    env = ReachEnv(image_height_px=18, image_width_px=18)
    return RolloutWorker(env, player, RolloutConfig(**config))


def test_clean_expert_reaches_the_goal_in_the_closed_form_number_of_steps():
    worker = make_worker(ScriptedPlayer(ScriptedReacher(seed=0)))
    for seed in range(20):
        worker.env.reset(seed=seed)
        optimal = worker.env.optimal_steps()
        episode = worker.run_episode(seed, collection=Collection.DEMONSTRATION)
        assert episode.is_success
        assert episode.num_steps == optimal
        assert (episode.source == Source.SCRIPTED).all()


def test_chunks_are_replanned_after_the_configured_steps():
    policy = ConstantPolicy((0.0, 0.0))
    episode = make_worker(ChunkPlayer(policy, replan_steps=3)).run_episode(0)
    assert episode.num_steps == 10
    assert policy.asked == 4
    np.testing.assert_allclose(episode.action_age_s, [0, 0.2, 0.4] * 3 + [0], atol=1e-6)
    assert (episode.policy_version == 7).all()
    np.testing.assert_array_equal(episode.policy_action, episode.executed_action)


def test_an_unsolved_episode_is_a_failure_because_the_time_limit_is_a_verdict():
    episode = make_worker(ChunkPlayer(ConstantPolicy((0.0, 0.0)), replan_steps=6)).run_episode(0)
    assert episode.end is EpisodeEnd.FAILURE


def test_playing_on_after_success_counts_the_last_step():
    options = {"hand": [0.0, 0.0], "goal": [1.0, 0.0]}
    player = ChunkPlayer(ConstantPolicy((1.0, 0.0)), replan_steps=6)
    stopped = make_worker(player).run_episode(0, options=options)
    assert (stopped.num_steps, stopped.end) == (1, EpisodeEnd.SUCCESS)
    played_on = make_worker(player, is_stopped_on_success=False).run_episode(0, options=options)
    assert (played_on.num_steps, played_on.end) == (10, EpisodeEnd.FAILURE)
    assert played_on.provenance.annotations["succeeded_once"] is True
    assert played_on.provenance.annotations["first_success_step"] == 0


def test_another_instruction_ends_a_chunk():
    policy = ConstantPolicy((0.0, 0.0))
    player = ChunkPlayer(policy, replan_steps=3)
    env = ReachEnv(image_height_px=18, image_width_px=18)
    observation, _ = env.reset(seed=0)
    player.begin(env, 0)
    for instruction in ("open top drawer", "open top drawer", "place apple into top drawer", "place apple into top drawer"):
        player.decide(observation, instruction)
    assert policy.asked == 2


def test_operator_takes_over_when_patience_ends_and_the_steps_say_so():
    player = CorrectedPlayer(ChunkPlayer(ConstantPolicy((0.0, 0.0)), replan_steps=3), ScriptedReacher(seed=0), patience_steps=2)
    episode = make_worker(player).run_episode(3)
    assert episode.source[:2].tolist() == [Source.POLICY] * 2
    assert (episode.source[2:] == Source.HUMAN).all()
    assert (episode.intervention_id[2:] == 0).all()
    assert episode.is_success
    assert episode.provenance.annotations["takeover_step"] == 2


def test_policy_noise_depends_on_the_seed_alone():
    class NoisyPolicy(ConstantPolicy):
        def sample_actions(self, observations, instructions, generators):
            actions = torch.rand((6, 2), generator=generators[0]).numpy() * 0.1
            return [ActionChunk(actions=actions, policy_version=0, observation_time_s=0.0)]

    worker = make_worker(ChunkPlayer(NoisyPolicy((0.0, 0.0)), replan_steps=3))
    first = worker.run_episode(5)
    worker.run_episode(6)
    again = worker.run_episode(5)
    np.testing.assert_array_equal(first.executed_action, again.executed_action)
    np.testing.assert_array_equal(first.images["camera"], again.images["camera"])


def test_policies_change_only_between_episodes(tmp_path):
    worker = make_worker(ChunkPlayer(ConstantPolicy((0.0, 0.0)), replan_steps=3))
    with pytest.raises(WorkerError, match="only between episodes"):
        worker.load_policy(tmp_path)

    class Swapper(ConstantPolicy):
        def sample_actions(self, observations, instructions, generators):
            loading.load_policy(tmp_path)
            return super().sample_actions(observations, instructions, generators)

    loading = RolloutWorker(
        ReachEnv(image_height_px=18, image_width_px=18),
        ChunkPlayer(Swapper((0.0, 0.0)), replan_steps=3),
        RolloutConfig(),
        policy_loader=lambda path: ConstantPolicy((1.0, 0.0)),
    )
    with pytest.raises(WorkerError, match="only between episodes"):
        loading.run_episode(0)
    loading.load_policy(tmp_path)
    assert loading.run_episode(0).policy_action[0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("action", "error", "message"),
    [
        ([0.0], SpecError, r"shape \(1,\); expected \(2,\): dx, dy"),
        ([0.0, np.nan], NonFiniteError, r"action\[1\] \(dy\) is nan"),
        ([1e6, 0.0], SpecError, r"action\[0\] \(dx\) is 1e\+06 cell; limits are \[-1.0, 1.0\]"),
    ],
)
def test_an_action_that_means_nothing_is_refused(action, error, message):
    env = ReachEnv(image_height_px=18, image_width_px=18)
    env.reset(seed=0)
    with pytest.raises(error, match=message):
        env.step(np.float32(action))


def test_unknown_family_names_the_nearest():
    with pytest.raises(ValueError, match=r"'simpler_gogle'.*did you mean 'simpler_google'"):
        make_env(EnvConfig(family="simpler_gogle"))
