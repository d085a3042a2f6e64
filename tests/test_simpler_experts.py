"""The scripted expert: phases and flaws in a world of points, success in SAPIEN, progress labels."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from core.errors import ConfigError
from envs.simpler.expert_base import Pose
from envs.simpler.expert_pick import PickExpert, grasp_pose
from envs.simpler.expert_place_in_drawer import OpenWideExpert, PlaceInDrawerExpert
from envs.simpler.expert_quality import ExpertConfig, expert_config
from envs.simpler.experts import demonstrate, main, make_expert
from envs.task_env import ExpertAction

START_QUATERNION = (0.16011546, -0.60385227, 0.78017271, -0.03249870)
STANDING = (0.7071068, 0.7071068, 0.0, 0.0)


class PointWorld:
    """A tool that goes where it is told, a can that comes along once it is held; fingers take four steps to close."""

    def __init__(self, can_orientation: tuple[float, ...] = STANDING, *, is_graspable: bool = True) -> None:
        self.tool = Pose.of(np.array([0.44, -0.22, 0.96, *START_QUATERNION]))
        self.can = np.array([0.58, 0.0, 0.86, *can_orientation])
        self.closedness = 0.0
        self.is_graspable = is_graspable
        self.limit = 0.6 if is_graspable else 0.83

    def step(self, action: np.ndarray) -> None:
        turned = Rotation.from_rotvec(action[3:6]) * self.tool.rotation
        is_near = float(np.linalg.norm(self.can[:3] - self.tool.position)) < 0.05
        if self.is_graspable and self.closedness >= self.limit and is_near:
            self.can[:3] += action[:3]
        self.tool = Pose(self.tool.position + action[:3], turned)
        self.closedness = float(np.clip(self.closedness + 0.25 * action[6], 0.0, self.limit))

    def tcp_pose(self) -> Any:
        x, y, z, w = self.tool.rotation.as_quat()
        return SimpleNamespace(base=np.array([*self.tool.position, w, x, y, z]))

    def object_pose(self) -> Any:
        return SimpleNamespace(base=self.can)

    def gripper_closedness(self) -> float:
        return self.closedness


class PointDrawer(PointWorld):
    """A can on a cabinet, and a drawer that comes along with a tool behind its front."""

    out_of_cabinet = Rotation.from_euler("z", np.pi)

    def __init__(self) -> None:
        super().__init__((1.0, 0.0, 0.0, 0.0))
        self.can[:3] = (0.722, -0.05, 0.839)
        self.opening = 0.0
        self.instruction = "open top drawer"

    def step(self, action: np.ndarray) -> None:
        x, _, z = self.out_of_cabinet.inv().apply(self.tool.position - self._drawer())
        is_behind_front = 0.26 < x < 0.30 and z < 0.06
        super().step(action)
        if is_behind_front:
            self.opening = max(self.opening, self.opening - float(action[0]))

    def _drawer(self) -> np.ndarray:
        return np.array([0.944 - self.opening, -0.1, 0.606])

    def drawer_pose(self) -> Any:
        return SimpleNamespace(base=np.array([*self._drawer(), 0.0, 0.0, 0.0, 1.0]))

    def drawer_opening_m(self) -> float:
        return self.opening

    def object_bounds(self) -> np.ndarray:
        return np.array([[-0.033, -0.061, -0.033], [0.033, 0.061, 0.033]])

    def advance_to_next_subtask(self) -> None:
        self.instruction = "place coke can into top drawer"


def play(world: PointWorld, config: ExpertConfig, *, num_steps: int = 40, seed: int = 0) -> tuple[PickExpert, list[ExpertAction]]:
    expert = PickExpert(config, np.random.default_rng(seed))
    expert.reset(world)
    actions = []
    for _ in range(num_steps):
        actions.append(expert.act())
        world.step(actions[-1].executed)
    return expert, actions


def phases(actions: list[ExpertAction]) -> list[str]:
    return [phase for phase, _ in itertools.groupby(action.phase for action in actions)]


# -- what it does ------------------------------------------------------------------------------------------------


def test_clean_episode_goes_through_its_phases() -> None:
    world = PointWorld()
    expert, actions = play(world, expert_config("clean"), num_steps=20)
    assert phases(actions) == ["approach", "advance", "close", "lift"]
    assert all(np.array_equal(action.executed, action.intended) for action in actions)
    assert expert.annotations()["intervals"] == []
    grip = [float(action.executed[6]) for action in actions]
    assert grip == sorted(grip)
    assert world.tool.position[2] > 0.95


def test_steps_are_bounded() -> None:
    config = replace(expert_config("clean"), max_step_m=0.05, max_turn_rad=0.2)
    _, actions = play(PointWorld((1.0, 0.0, 0.0, 0.0)), config)
    assert max(np.linalg.norm(action.intended[:3]) for action in actions) == pytest.approx(0.05, abs=1e-6)
    assert max(np.linalg.norm(action.intended[3:6]) for action in actions) <= 0.2 + 1e-6


def test_noise_is_executed_but_not_intended() -> None:
    config = replace(expert_config("clean"), position_noise_m=(0.01, 0.01), rotation_noise_rad=(0.02, 0.02))
    _, actions = play(PointWorld(), config, num_steps=60)
    noise = np.array([action.executed - action.intended for action in actions])
    assert noise[:, :3].std() == pytest.approx(0.01, rel=0.25)
    assert noise[:, 3:6].std() == pytest.approx(0.02, rel=0.25)
    assert not noise[:, 6].any()


def test_the_same_generator_gives_the_same_episode() -> None:
    first, second = (play(PointWorld(), expert_config("mixed"), seed=4)[1] for _ in range(2))
    assert all(np.array_equal(a.executed, b.executed) and a.phase == b.phase for a, b in zip(first, second, strict=True))


def test_hesitation_stands_still_for_its_interval() -> None:
    config = replace(expert_config("clean"), hesitation_probability=1.0, hesitation_steps=(4, 4))
    for seed in range(20):  # it begins at step 2 to 13; a quick episode may be past the point where it can
        expert, actions = play(PointWorld(), config, seed=seed)
        for interval in expert.annotations()["intervals"]:
            assert interval["kind"] == "hesitation"
            assert interval["n"] - interval["m"] == 4
            still = actions[interval["m"] : interval["n"]]
            assert all(action.phase == "hesitation" and not action.intended.any() for action in still)
            assert actions[interval["n"]].phase != "hesitation"
            return
    pytest.fail("no episode hesitated")


def test_retry_goes_back_along_the_path_and_comes_again() -> None:
    config = replace(expert_config("clean"), max_step_m=0.03, retry_probability=1.0, retry_steps=(3, 3))
    world = PointWorld()
    expert = PickExpert(config, np.random.default_rng(1))
    expert.reset(world)
    places, actions = [], []
    for _ in range(40):
        places.append(world.tool.position)
        actions.append(expert.act())
        world.step(actions[-1].executed)
    (interval,) = expert.annotations()["intervals"]
    m, n = interval["m"], interval["n"]
    assert interval["kind"] == "retry"
    assert n - m == 3
    for offset in range(1, 4):
        np.testing.assert_allclose(places[m + offset], places[m - offset], atol=1e-6)
    assert phases(actions) == ["approach", "advance", "retry", "advance", "close", "lift"]


def test_aim_error_stops_short_of_the_can() -> None:
    config = replace(expert_config("clean"), aim_error_probability=1.0, aim_error_m=(0.04, 0.04))
    (clean_world, aimed_world) = PointWorld(), PointWorld()
    play(clean_world, expert_config("clean"), num_steps=16)
    expert, _ = play(aimed_world, config, num_steps=16)
    assert expert.annotations()["aim_errors_m"] == [pytest.approx(0.04)]
    towards_robot = -0.04 * aimed_world.can[:2] / np.linalg.norm(aimed_world.can[:2])
    np.testing.assert_allclose((aimed_world.tool.position - clean_world.tool.position)[:2], towards_robot, atol=0.01)


def test_early_and_late_grip() -> None:
    early, actions = play(PointWorld(), replace(expert_config("clean"), max_step_m=0.03, early_grip_probability=1.0))
    clean_actions = play(PointWorld(), replace(expert_config("clean"), max_step_m=0.03))[1]
    assert early.annotations()["grip"] == "early"
    assert [a.phase for a in actions].index("close") < [a.phase for a in clean_actions].index("close")
    late, actions = play(PointWorld(), replace(expert_config("clean"), late_grip_probability=1.0))
    assert late.annotations()["grip"] == "late"
    told = [action.phase for action in actions]
    assert told[: told.index("lift")].count("close") == 1


def test_a_miss_is_noticed_and_tried_again() -> None:
    expert, actions = play(PointWorld(is_graspable=False), replace(expert_config("clean"), max_attempts=2), num_steps=60)
    first_miss = ["approach", "advance", "close", "lift"]
    assert phases(actions) == [*first_miss, *first_miss, "rest"]
    (interval,) = expert.annotations()["intervals"]
    assert interval["kind"] == "miss"
    assert interval["m"] < interval["n"]
    opening = [a.intended[6] for a in actions[interval["m"] : interval["n"]]]
    assert min(opening) == -1.0
    assert not actions[-1].intended.any(), "after its last attempt it stands still"


def test_it_takes_over_a_held_can() -> None:
    world = PointWorld()
    play(world, expert_config("clean"), num_steps=13)
    world.can[:3] = world.tool.position - np.array([0.0, 0.0, 0.02])
    world.closedness = 0.6
    _, actions = play(world, expert_config("clean"), num_steps=6)
    assert phases(actions) == ["close", "lift"]


def test_it_rises_before_it_crosses_the_table() -> None:
    world = PointWorld()
    world.tool = Pose(np.array([0.70, 0.30, 0.83]), world.tool.rotation)
    _, actions = play(world, expert_config("clean"), num_steps=2)
    assert actions[0].intended[2] > 0.07
    np.testing.assert_allclose(actions[0].intended[:2], 0.0, atol=1e-6)


@pytest.mark.parametrize("yaw", [0.0, np.pi / 2, np.pi, 2.5])
def test_a_lying_can_is_gripped_across(yaw: float) -> None:
    tool = Pose.of(np.array([0.44, -0.22, 0.96, *START_QUATERNION]))
    item = Pose(np.array([0.6, 0.0, 0.82]), Rotation.from_rotvec([0.0, 0.0, yaw]))
    grasp = grasp_pose(item, tool)
    assert abs(float(np.dot(grasp.axis(1), item.axis(1)))) < 0.35
    np.testing.assert_allclose(grasp.axis(2), tool.axis(2), atol=1e-9)
    assert (grasp.rotation * tool.rotation.inv()).magnitude() <= np.pi / 2 + 1e-6
    assert np.linalg.det(grasp.rotation.as_matrix()) == pytest.approx(1.0)


def open_and_place(world: PointDrawer, quality: str = "clean", seed: int = 0) -> tuple[list[ExpertAction], list[Pose], Any]:
    expert = PlaceInDrawerExpert(expert_config(quality), np.random.default_rng(seed))
    expert.reset(world)
    actions: list[ExpertAction] = []
    tools = []
    while len(actions) < 200:
        tools.append(world.tool)
        actions.append(expert.act())
        world.step(actions[-1].executed)
        if actions[-1].phase == "rest" and not world.instruction.startswith("open"):
            break
    return actions, tools, expert


def test_it_opens_says_so_goes_back_and_places() -> None:
    world = PointDrawer()
    actions, tools, expert = open_and_place(world)
    opening, placing = ["approach", "advance", "hook", "move", "rest"], ["approach", "advance", "close", "lift", "carry", "lower"]
    assert phases(actions) == [*opening, "unwind", *placing, "release", "withdraw", "rest"]
    assert world.instruction == "place coke can into top drawer"
    assert world.opening >= OpenWideExpert.opened_m
    assert expert.annotations()["num_steps"] == len(actions)
    told = [action.phase for action in actions]
    hooked, unwound = told.index("advance"), len(told) - told[::-1].index("unwind")
    for pose in tools[:hooked]:  # the way in, which the way back comes near to everywhere
        assert min(np.linalg.norm(pose.position - tool.position) for tool in tools[hooked:unwound]) < 0.1
    inside = world.out_of_cabinet.inv().apply(world.can[:3] - np.array([0.944, -0.1, 0.606]))
    assert inside[0] - 0.033 > 0.315, "clear of the cabinet's top"
    assert inside[0] + 0.033 < 0.275 + world.opening, "behind the drawer's front"


def test_flaws_of_both_subtasks_are_told_in_steps_of_the_episode() -> None:
    kinds = set()
    for seed in range(6):
        actions, _, expert = open_and_place(PointDrawer(), "mixed", seed)
        annotations = expert.annotations()
        assert annotations["num_steps"] == len(actions)
        told = [action.phase for action in actions]
        for interval in annotations["intervals"]:
            kinds.add(interval["kind"])
            if interval["kind"] != "miss":
                assert set(told[interval["m"] : interval["n"]]) == {interval["kind"]}
    assert kinds & {"hesitation", "retry"}


def test_where_the_drawer_is_open_already_it_only_places() -> None:
    world = PointDrawer()
    world.opening = 0.25
    world.advance_to_next_subtask()
    actions, _, _ = open_and_place(world)
    assert phases(actions) == ["approach", "advance", "close", "lift", "carry", "lower", "release", "withdraw", "rest"]


def test_a_drawer_that_does_not_open_is_given_up() -> None:
    class Stuck(PointDrawer):
        def step(self, action: np.ndarray) -> None:
            super().step(action)
            self.opening = 0.0

    world = Stuck()
    actions, _, expert = open_and_place(world)
    assert len(actions) == 200
    assert actions[-1].phase == "rest"
    assert world.instruction == "open top drawer"
    assert [interval["kind"] for interval in expert.annotations()["intervals"]] == ["miss", "miss"]


def test_unknown_quality_is_refused() -> None:
    with pytest.raises(ConfigError, match="'superb'; known are clean, noisy, mixed"):
        expert_config("superb")


def test_experts_are_found_by_task() -> None:
    rng = np.random.default_rng(0)
    expert = make_expert("google_robot_pick_coke_can", "mixed", rng)
    assert isinstance(expert, PickExpert)
    assert expert.config == expert_config("mixed")
    assert make_expert("google_robot_pick_coke_can", replace(expert_config("clean"), lift_m=0.2), rng).config.lift_m == 0.2
    with pytest.raises(ConfigError, match="did you mean 'google_robot_pick_coke_can'"):
        make_expert("google_robot_pick_coke_cam", "mixed", rng)


def test_command_line_fails_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--quality", "superb"]) == 2
    assert capsys.readouterr().err == "error: unknown expert quality 'superb'; known are clean, noisy, mixed\n"


# -- in the simulator --------------------------------------------------------------------------------------------


@pytest.mark.sim
@pytest.mark.parametrize("orientation", ["standing", "horizontal", "vertical"])
def test_clean_expert_picks_the_builtin_can(orientation: str) -> None:
    from envs.simpler.task_env import SimplerTaskEnv

    env = SimplerTaskEnv(f"google_robot_pick_{orientation}_coke_can", assets="builtin", render=False)
    expert = PickExpert(replace(expert_config("clean"), max_attempts=1), np.random.default_rng(0))
    episodes = [demonstrate(env, expert, seed=seed) for seed in range(3)]
    env.close()
    assert [episode.is_success for episode in episodes] == [True, True, True]
    assert max(episode.num_steps for episode in episodes) < 45


@pytest.mark.sim
def test_a_missed_can_is_picked_at_the_second_attempt() -> None:
    from envs.simpler.task_env import SimplerTaskEnv

    env = SimplerTaskEnv("google_robot_pick_standing_coke_can", assets="builtin", render=False)

    class MissesFirst(PickExpert):
        def reset(self, env: Any) -> None:
            super().reset(env)
            self.behaviour = replace(self.behaviour, aim_errors_m=(0.08, 0.0, 0.0))

    episode = demonstrate(env, MissesFirst(expert_config("clean"), np.random.default_rng(0)), seed=0)
    env.close()
    assert episode.is_success
    assert [interval["kind"] for interval in episode.annotations["intervals"]] == ["miss"]
    assert episode.annotations["attempts"] == 2


@pytest.mark.sim
def test_mixed_expert_fails_and_succeeds_as_drawn() -> None:
    from envs.simpler.task_env import SimplerTaskEnv

    env = SimplerTaskEnv("google_robot_pick_standing_coke_can", assets="builtin", render=False, max_episode_steps=45)
    far = replace(expert_config("clean"), max_attempts=1, aim_error_probability=1.0, aim_error_m=(0.10, 0.10))
    missing = demonstrate(env, PickExpert(far, np.random.default_rng(0)), seed=0)
    again = replace(expert_config("clean"), hesitation_probability=1.0, retry_probability=1.0)
    slow = demonstrate(env, PickExpert(again, np.random.default_rng(0)), seed=0)
    env.close()
    assert not missing.is_success
    assert slow.is_success
    kinds = [interval["kind"] for interval in slow.annotations["intervals"]]
    assert sorted(kinds) == ["hesitation", "retry"]
    assert all(0 < interval["m"] < interval["n"] < slow.num_steps for interval in slow.annotations["intervals"])


@pytest.mark.sim
@pytest.mark.slow
def test_clean_expert_opens_the_top_drawer_and_places() -> None:
    from envs.simpler.task_env import SimplerTaskEnv

    task = "google_robot_place_in_closed_top_drawer"
    env = SimplerTaskEnv(task, assets="builtin", render=False)
    expert = make_expert(task, replace(expert_config("clean"), max_attempts=1), np.random.default_rng(0))
    episode = demonstrate(env, expert, seed=0)
    env.close()
    assert episode.is_success
    assert episode.num_steps < 190
