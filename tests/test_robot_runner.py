"""The robot's worker: chunks that never play late, takeovers, stops, swaps, and records equal to what the arm executed."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest

from actors.robot_runner import RobotRunner
from actors.robot_value import LiveValue
from core.errors import NonFiniteError, WorkerError
from core.experience import Collection, EpisodeEnd, Source
from core.robot_steps import InterventionPhase
from replay.episode_store import EpisodeStore
from robot_drivers import messages as m
from robot_drivers.states import State
from tests.real_robot_rig import TICK_HZ, InlineExecutor, Rig, StepPolicy, take_over
from tests.replay_episodes import assert_same_episode


def make_worker(rig, policy=None, *, takes_s=0.0, **options):
    policy = policy or StepPolicy()
    worker = RobotRunner(
        rig.env, replan_steps=3, load_policy=lambda path: policy, executor=InlineExecutor(rig, takes_s), run="r", **options
    )
    worker.load_policy("checkpoints/three")
    return worker


def succeed_after(duration_s):
    def person(rig):
        yield from rig.hand_over()
        yield from rig.pause(duration_s)
        rig.mark(m.Label.SUCCESS)

    return person


def test_an_episode_is_what_the_arm_executed():
    rig = Rig(succeed_after(2.1))
    episode = make_worker(rig).run_episode(7)
    assert episode.end is EpisodeEnd.SUCCESS
    assert episode.reward.tolist() == [0.0] * (episode.num_steps - 1) + [1.0]
    recorded = [step for step in rig.robot.steps() if step.episode_id == episode.provenance.annotations["supervisor_episode_id"]]
    recorded = recorded[[step.source for step in recorded].index("policy") :]
    np.testing.assert_array_equal(episode.executed_action, np.array([s.executed_action for s in recorded], np.float32))
    np.testing.assert_array_equal(episode.robot.requested_action, np.array([s.requested_action for s in recorded], np.float32))
    assert episode.executed_action[:, 1].sum() == pytest.approx(rig.robot.arms[0].true_pose().position_m[1], abs=0.01)
    assert (episode.policy_version == 3).all()
    assert episode.provenance.seed == 7
    assert episode.robot.checkpoint == "checkpoints/three"
    assert (episode.action_age_s[episode.source == Source.POLICY] > 0).all()
    starts = np.array([step.start_monotonic_s for step in recorded])
    np.testing.assert_allclose(episode.time_s[:-1], starts, atol=0.011)
    assert (np.diff(episode.images["front"][:, 0, 0, 0].astype(int)) % 256 > 0).all()  # a new picture at every boundary


def test_a_slow_policy_never_stops_the_arm_and_its_late_actions_are_dropped():
    rig = Rig(succeed_after(4.0))
    policy = StepPolicy()
    episode = make_worker(rig, policy, takes_s=0.3).run_episode(0)
    assert len(policy.asked) >= 4
    assert (episode.source == Source.POLICY).all()  # no gap between the chunks
    np.testing.assert_allclose(np.diff(episode.time_s)[:-1], 0.2, atol=1.01 / TICK_HZ)
    assert episode.provenance.annotations["num_late_actions"] >= 2 * (len(policy.asked) - 2)
    assert rig.robot.status().dropped_actions == 0  # dropped here, before they were sent


class GoingOn(StepPolicy):
    """Never the same move twice, but for what is committed."""

    def __init__(self):
        super().__init__(horizon=8, move=0.0)
        self.committed = []

    def sample_actions(self, observations, instructions, generators):
        [chunk] = super().sample_actions(observations, instructions, generators)
        chunk.actions[:, 1] = 0.001 + 0.0001 * (8 * len(self.asked) + np.arange(8))
        return [chunk]

    def continue_actions(self, observations, instructions, generators, committed):
        [chunk] = self.sample_actions(observations, instructions, generators)
        chunk.actions[: len(committed[0])] = committed[0]
        self.committed.append((observations[0].time_s, committed[0].copy()))
        return [chunk]


def test_a_policy_that_can_is_told_what_the_robot_will_do_until_its_answer_comes():
    rig = Rig(succeed_after(4.0))
    policy = GoingOn()
    episode = make_worker(rig, policy, takes_s=0.3).run_episode(0)
    assert len(policy.committed) == len(policy.asked) - 1 >= 3  # the first had nothing to go on from
    for seen_s, committed in policy.committed[1:-1]:
        step = np.searchsorted(episode.time_s, seen_s + 1e-6) - 1
        assert len(committed) >= 2
        np.testing.assert_allclose(episode.executed_action[step : step + len(committed), 1], committed[:, 1], atol=1e-6)
    assert rig.robot.status().dropped_actions == 0


def test_a_takeover_in_the_middle_is_recorded_as_the_operators():
    rig = Rig(take_over)
    worker = make_worker(rig)
    episode = worker.run_episode(0)
    human = episode.source == Source.HUMAN
    assert episode.intervention_id[human].tolist() == sorted(episode.intervention_id[human].tolist())
    assert set(episode.intervention_id[human]) == {0, 1}
    assert (episode.intervention_id[~human] == -1).all()
    phases = [InterventionPhase(p).name for p in dict.fromkeys(episode.robot.phase[human].tolist())]
    assert phases == ["RECOVERY", "CORRECTION"]
    assert episode.robot.operators == ("ada",)
    assert (episode.robot.operator[human] == 0).all()
    assert (episode.robot.lease[human] > 0).all()
    assert (episode.robot.lease[~human] == -1).all()
    assert episode.executed_action[human, 1].sum() == pytest.approx(0.1, abs=0.03)
    kinds = [Source(kind).name for kind in dict.fromkeys(episode.source.tolist())]
    assert kinds == ["POLICY", "HUMAN", "HOLD"]
    assert Source(episode.source[-1]) is Source.POLICY  # it went on after the hand back
    assert episode.provenance.annotations["label"] == {"label": "success", "operator": "ada", "tag": "clean"}


def test_a_robots_episode_survives_the_store(tmp_path):
    rig = Rig(take_over)
    episode = make_worker(rig).run_episode(0)
    store = EpisodeStore(tmp_path, writer_name="robot")
    store.append(episode)
    assert_same_episode(store.read(episode.episode_id), episode)


def test_after_a_stop_the_worker_waits_for_a_person_and_moves_nothing():
    def person(rig):
        yield from rig.hand_over()
        yield from rig.pause(1.0)
        rig.robot.must(m.Stop)
        yield from rig.pause(5.0)
        stood.append(rig.robot.positions()[0].copy())
        yield from rig.pause(2.0)
        stood.append(rig.robot.positions()[0].copy())
        rig.robot.must(m.Reset, reason="looked", confirmed=True)
        yield from rig.hand_over()
        yield from rig.pause(1.0)
        rig.mark(m.Label.FAILURE)

    stood = []
    rig = Rig(person)
    worker = make_worker(rig)
    first, second = worker.run_episode(0), worker.run_episode(1)
    np.testing.assert_array_equal(*stood)
    assert (first.end, second.end) == (EpisodeEnd.OPERATOR_STOP, EpisodeEnd.FAILURE)
    assert second.time_s[0] > first.time_s[-1] + 7


def test_a_killed_worker_leaves_the_arm_held_and_its_successor_needs_a_person():
    def person(rig):
        yield from succeed_after(60)(rig)

    rig = Rig(person)
    worker = make_worker(rig)

    class Killed(BaseException):
        pass

    def dying(*_, **__):
        raise Killed

    look, calls = rig.env.look, []
    rig.env.look = lambda: look() if not calls.append(1) and len(calls) < 3 else dying()
    with pytest.raises(Killed):
        worker.run_episode(0)
    rig.robot.wait(3.0)
    assert rig.robot.state is State.HOLD
    still = rig.robot.positions()[0].copy()
    left_open = rig.robot.status().episode_id

    def next_person(rig):
        yield from rig.pause(3.0)
        held.append(rig.robot.positions()[0].copy())
        held.append(rig.robot.status().episode_id)
        rig.robot.must(m.HandBack)
        yield from rig.pause(1.0)
        rig.mark(m.Label.SUCCESS)

    held = []
    rig.env.look, rig.person = look, next_person(rig)
    episode = make_worker(rig).run_episode(1)
    np.testing.assert_array_equal(held[0], still)
    assert held[1] not in (None, left_open)
    assert episode.end is EpisodeEnd.SUCCESS


def test_checkpoints_change_only_between_episodes():
    rig = Rig(succeed_after(1.0))

    class Swapper(StepPolicy):
        def sample_actions(self, *arguments):
            with pytest.raises(WorkerError, match="only between episodes"):
                worker.load_policy("checkpoints/four")
            return super().sample_actions(*arguments)

    policy = Swapper()
    worker = make_worker(rig, policy)
    worker.run_episode(0)
    assert policy.asked
    worker.load_policy("checkpoints/four")


def test_a_demonstration_needs_no_policy_and_is_all_the_persons():
    def person(rig):
        yield from rig.pause(0.1)
        rig.robot.must(m.Arm)
        while rig.robot.status().episode_id is None:
            yield
        yield from rig.drive(1.0)
        rig.mark(m.Label.SUCCESS)

    rig = Rig(person)
    worker = RobotRunner(rig.env, replan_steps=3, load_policy=lambda path: None, executor=InlineExecutor(rig))
    with pytest.raises(WorkerError, match="record demonstrations"):
        worker.run_episode(0)
    episode = worker.run_episode(0, collection=Collection.DEMONSTRATION)
    assert set(episode.source) == {Source.HUMAN}
    assert (episode.intervention_id == -1).all()
    assert (episode.policy_version == -1).all()
    assert np.isnan(episode.policy_action).all()
    assert episode.robot.checkpoint == ""


def test_the_console_is_told_the_value():
    rig = Rig(succeed_after(1.0))
    worker = make_worker(rig, value_of=lambda observation, instruction: LiveValue(value=-0.25, advantage=None, threshold=0.1))
    told = []
    ask = rig.links[0].ask
    rig.links[0].ask = lambda request: (told.append(request), ask(request))[1]
    worker.run_episode(0)
    values = [request for request in told if isinstance(request, m.ReportValue)]
    assert {(each.value, each.advantage, each.threshold) for each in values} == {(-0.25, None, 0.1)}


def test_a_policy_that_fails_ends_the_episode_and_leaves_the_arm_standing():
    class Broken(StepPolicy):
        def sample_actions(self, *arguments):
            if len(self.asked) == 2:
                raise NonFiniteError("the checkpoint is damaged")
            return super().sample_actions(*arguments)

    rig = Rig(succeed_after(60))
    with pytest.raises(NonFiniteError, match="damaged"):
        make_worker(rig, Broken()).run_episode(0)
    rig.robot.wait(1.0)
    assert rig.robot.status().episode_id is None
    assert rig.robot.state is State.ARMED_IDLE
    still = rig.robot.positions()[0].copy()
    rig.robot.wait(1.0)
    np.testing.assert_array_equal(rig.robot.positions()[0], still)


def test_a_slow_value_model_never_holds_up_the_policy():
    waiting = []

    class Slow(InlineExecutor):
        def submit(self, call, *arguments):
            if call.__name__ != "_tell_value":
                return super().submit(call, *arguments)
            waiting.append(Future())
            return waiting[-1]

    rig = Rig(succeed_after(2.0))
    runner = RobotRunner(
        rig.env,
        replan_steps=3,
        load_policy=lambda path: StepPolicy(),
        executor=Slow(rig),
        value_of=lambda observation, instruction: LiveValue(value=0.0, advantage=None, threshold=None),
    )
    runner.load_policy("checkpoints/three")
    episode = runner.run_episode(0)
    assert len(waiting) == 1  # it has not answered, so it is not asked again
    assert (episode.source == Source.POLICY).all()
