"""Every family of batched tasks against the scenes with one environment: starts, arms, and the verdicts of scripted episodes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from core.errors import ConfigError
from envs import simpler
from envs.simpler.batched.make import BATCHED_FAMILIES
from envs.simpler.experts import make_expert
from envs.simpler.task_env import SimplerTaskEnv
from envs.simpler.tasks import TASKS

FAMILIES = {
    "pick": "google_robot_pick_coke_can",
    "move_near": "google_robot_move_near_v0",
    "drawer": "google_robot_close_drawer",
    "put_on": "widowx_carrot_on_plate",
}
REST = {"spoon_on_towel", "stack_cube", "eggplant_in_basket"}
TABLETOP = (*FAMILIES.values(), *(name for name, task in TASKS.items() if task.kwargs.get("setup") in REST))


def test_every_family_is_compared():
    assert FAMILIES.keys() == BATCHED_FAMILIES.keys()
    assert {TASKS[name].family for name in FAMILIES.values()} == set(FAMILIES)
    assert len(TABLETOP) == len(FAMILIES) + len(REST)


class Pair:
    """The same task twice: one environment of the usual kind, and a batch of one."""

    def __init__(self, name):
        self.name = name
        self.scalar = SimplerTaskEnv(name, image_height_px=64, image_width_px=80)
        self.batch = simpler.make_vec(name, sim_backend="physx_cpu", obs_size=(64, 80), auto_reset=False)
        self.look(False)

    def look(self, is_looking):
        """Render from now on, or no more: most tests do not look."""
        self.scalar.gym_env.scene.is_rendering = self.batch.unwrapped.is_rendering = is_looking

    def reset(self, seed, options=None):
        return self.scalar.gym_env.reset(seed=seed, options=options), self.batch.reset(seed=seed, options=options)

    def step(self, action):
        return self.scalar.gym_env.step(action), self.batch.step(torch.from_numpy(action[None]))

    def close(self):
        self.scalar.close()
        self.batch.close()


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.sim) for name in FAMILIES.values()])
def pair(request):
    pair = Pair(request.param)
    yield pair
    pair.close()


def objects_of(pair):
    """Poses of the objects that take part: the scalar scene's, and the batch's of the same names; [n, 7] each."""
    theirs, ours = pair.scalar.gym_env.scene.scene, pair.batch.unwrapped.scene
    names = [name for name in theirs.actors if name not in ("arena", "ground")]
    return tuple(
        np.array([scene.actors[name].pose.raw_pose[0].numpy() for name in names]).reshape(-1, 7) for scene in (theirs, ours)
    )


def assert_same_start(pair, starts):
    (theirs, _), (ours, _) = starts
    for group, key in (("agent", "qpos"), ("agent", "base_pose"), ("extra", "tcp_pose")):
        np.testing.assert_allclose(ours[group][key][0], theirs[group][key], atol=1e-5)
    np.testing.assert_allclose(*objects_of(pair), atol=1e-5)
    assert pair.batch.unwrapped.language_instructions() == [pair.scalar.gym_env.get_language_instruction()]


def test_equal_seeds_give_equal_episodes(pair):
    instructions = set()
    for seed in (0, 7, 3):
        assert_same_start(pair, pair.reset(seed))
        instructions.update(pair.batch.unwrapped.language_instructions())
    if pair.name in (FAMILIES["move_near"], FAMILIES["drawer"]):
        assert len(instructions) > 1
        positions = pair.scalar.gym_env.scene
        if pair.name == FAMILIES["drawer"]:
            ours = pair.batch.unwrapped.drawer_positions()[0]
            np.testing.assert_allclose(ours, positions.drawer_positions, atol=1e-7)
            assert ours.max() == pytest.approx(0.2)


def test_options_choose_the_episode(pair):
    options = {
        FAMILIES["pick"]: {"obj_init_options": {"orientation": "laid_vertically", "init_xy": [-0.2, 0.1]}},
        FAMILIES["move_near"]: {"obj_init_options": {"episode_id": 41}},
        FAMILIES["drawer"]: {"overlay_id": "b2"},
        FAMILIES["put_on"]: {"obj_init_options": {"episode_id": 17}},
    }[pair.name]
    assert_same_start(pair, pair.reset(5, options))


def test_equal_episodes_look_the_same(pair):
    pair.look(True)
    (theirs, _), (ours, _) = pair.reset(4)
    pair.look(False)
    camera = pair.scalar.gym_env.scene.camera.name
    np.testing.assert_array_equal(ours["image"][camera]["rgb"][0], theirs["image"][camera]["rgb"])


def test_models_that_take_no_part_are_out_of_sight_and_touch_nothing(pair):
    if pair.name != FAMILIES["move_near"]:
        pytest.skip("every model takes part")
    pair.batch.reset(seed=0)
    pair.batch.step(torch.zeros(1, 7))
    scene = pair.batch.unwrapped
    is_present = scene.starts.is_present[scene.episode_ids[0]].tolist()
    waiting = [actor for actor, is_in in zip(scene.objects, is_present, strict=True) if not is_in]
    assert len(waiting) == 5
    assert all(actor.pose.p[0, 2] < -1.3 for actor in waiting)  # free fall, a third of a second
    assert not any(actor.get_net_contact_impulses().any() for actor in waiting)
    sensor = scene._sensors[scene.one.camera.name]
    scene.scene.update_render(update_sensors=True, update_human_render_cameras=False)
    sensor.capture()
    seen = set(sensor.get_obs(rgb=False, depth=False, position=False, segmentation=True)["segmentation"].unique().tolist())
    shown = [int(actor.per_scene_id[0]) in seen for actor in scene.objects]
    assert shown == is_present


def test_the_arm_moves_as_in_the_scalar_environment(pair):
    """Ten actions, one of them out of reach. Fingers that press on each other are chaotic, so they are not compared then."""
    arm = 7 if pair.name.startswith("google") else 6
    random = np.random.default_rng(3)
    pair.reset(1)
    failed = []
    for step in range(10):
        action = np.append(random.normal(0, [0.03] * 3 + [0.08] * 3), [1.0, 0.0, -1.0][step % 3]).astype(np.float32)
        if step == 6:
            action[:3] = (1.0, 0.0, 1.0)
        (theirs, *_), (ours, *_) = pair.step(action)
        np.testing.assert_allclose(ours["agent"]["qpos"][0, :arm], theirs["agent"]["qpos"][:arm], atol=2e-3)
        np.testing.assert_allclose(ours["extra"]["tcp_pose"][0], theirs["extra"]["tcp_pose"], atol=2e-3)
        failed.append(
            [bool(env.agent.controller.controllers["arm"].ik_failed) for env in (pair.scalar.gym_env.scene, pair.batch.unwrapped)]
        )
    assert failed[6] == [True, True]
    assert failed[:6] == [[False, False]] * 6
    assert all(theirs is ours for theirs, ours in map(tuple, failed))


def test_a_scripted_episode_is_judged_the_same_and_succeeds(pair):
    """What the expert does in the scalar environment, replayed: the same verdicts at every step, success at the end."""
    pair.reset(5)
    expert = make_expert(pair.name, "clean", np.random.default_rng(0))
    expert.reset(pair.scalar)
    is_done = False
    for _ in range(pair.scalar.time_limit_steps):
        (_, _, is_done, _, theirs), (_, reward, terminated, _, ours) = pair.step(expert.act().executed)
        flags = [key for key in ours if key in theirs and ours[key].dtype == torch.bool]
        assert {key: bool(ours[key]) for key in flags} == {key: bool(theirs[key]) for key in flags}
        assert "success" in flags
        assert float(reward) == float(bool(terminated))
        if is_done:
            break
    assert is_done


@pytest.mark.slow
@pytest.mark.sim
@pytest.mark.parametrize("name", TABLETOP[len(FAMILIES) :])
def test_the_other_widowx_tasks_begin_and_move_alike(name):
    pair = Pair(name)
    test_equal_seeds_give_equal_episodes(pair)
    test_the_arm_moves_as_in_the_scalar_environment(pair)
    pair.close()


@pytest.mark.sim
def test_episodes_and_objects_that_do_not_exist_are_refused():
    from envs.simpler.assets import load_asset_set
    from envs.simpler.batched.pick import BatchedPickScene

    with pytest.raises(ConfigError, match="in batches all environments pick the same object, so name one"):
        BatchedPickScene.prepare(load_asset_set("builtin"), model_ids=("opened_coke_can", "apple"))
    with pytest.raises(ConfigError, match="textures='v9'"):
        simpler.make_vec(FAMILIES["move_near"], sim_backend="physx_cpu", textures="v9")
