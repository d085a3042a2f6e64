"""The catalogue of tasks, and upstream's interface as code written for it uses it."""

from __future__ import annotations

import numpy as np
import pytest

from core.errors import ConfigError
from envs import simpler
from envs.simpler import tasks
from envs.simpler.camera import OVERHEAD_CAMERA
from envs.simpler.tasks import TASKS, display_name, find_task


def test_all_public_names_are_known():
    assert len(simpler.ENVIRONMENTS) == 25
    assert {task.robot for task in TASKS.values()} == {"google_robot", "widowx"}
    assert TASKS["google_robot_move_near"].env_id == TASKS["google_robot_move_near_v1"].env_id
    assert TASKS["google_robot_place_apple_in_closed_top_drawer"].max_episode_steps == 200


@pytest.mark.parametrize(
    ("typo", "nearest"),
    [
        ("google_robot_pick_coke_cam", "google_robot_pick_coke_can"),
        ("pick_standing_coke_can", "google_robot_pick_standing_coke_can"),
        ("widow_carrot_on_plate", "widowx_carrot_on_plate"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(typo, nearest):
    with pytest.raises(ConfigError, match=f"unknown SIMPLER task '{typo}'; did you mean '{nearest}'"):
        simpler.make(typo)


def test_a_name_like_no_other_says_where_the_names_are():
    with pytest.raises(ConfigError, match=r"known names are in envs\.simpler\.ENVIRONMENTS"):
        simpler.make("xyz")


def test_a_task_that_is_not_offered_says_so(monkeypatch):
    monkeypatch.setattr(tasks, "OFFERED_FAMILIES", frozenset({"pick"}))
    with pytest.raises(ConfigError, match="'widowx_stack_cube' is known but not offered yet; offered are google_robot"):
        find_task("widowx_stack_cube")


def test_an_unknown_asset_set_is_refused():
    from envs.simpler.assets import load_asset_set

    with pytest.raises(ConfigError, match="upstream2"):
        load_asset_set("upstream2")


def test_a_size_that_is_no_image_is_refused():
    with pytest.raises(ConfigError, match=r"obs_size=\(0, 160\)"):
        simpler.make("google_robot_pick_coke_can", obs_size=(0, 160))


@pytest.mark.parametrize(
    ("model_id", "name"),
    [
        ("opened_coke_can", "coke can"),
        ("baked_opened_redbull_can_v2", "redbull can"),
        ("bridge_spoon_generated_modified", "spoon"),
        ("blue_plastic_bottle", "blue plastic bottle"),
        ("yellow_cube_3cm", "yellow cube"),
    ],
)
def test_objects_are_named_as_in_the_instructions(model_id, name):
    assert display_name(model_id) == name


def test_intrinsics_keep_the_field_of_view():
    full, small = OVERHEAD_CAMERA.intrinsics(512, 640), OVERHEAD_CAMERA.intrinsics(128, 160)
    assert full.tolist() == [[425, 0, 320], [0, 425, 256], [0, 0, 1]]
    np.testing.assert_allclose(small[0] / 160, full[0] / 640)
    np.testing.assert_allclose(small[1] / 128, full[1] / 512)
