"""The published lists of trials: how many, which factors, which grids, and what is left out and why."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest

from actors.evaluate import list_suites
from actors.suite_report import nested_mean
from core.errors import AssetError, ConfigError
from envs.simpler import protocols
from envs.simpler.protocols import SUITES, find_protocol, unavailable
from envs.simpler.tasks import ENVIRONMENTS

PICK, NEAR = "google_robot_pick_standing_coke_can", "google_robot_move_near_v0"
SPOON = "widowx_spoon_on_towel"


def _counts(name: str, *words: str) -> int:
    trials = find_protocol(name).trials
    return sum(any(word in trial.task for word in words) for trial in trials)


def test_visual_matching_has_the_papers_counts() -> None:
    name = "simpler_google_vm"
    assert [_counts(name, word) for word in ("pick", "move_near", "place")] == [300, 240, 108]
    assert _counts(name, "open_", "close_") == 216
    assert set(Counter(trial.variant for trial in find_protocol(name).trials).values()) == {864 // 4}
    assert Counter(trial.task for trial in find_protocol("simpler_widowx").trials) == dict.fromkeys(protocols._WIDOWX, 24)


def test_variant_aggregation_has_every_factor() -> None:
    protocol = find_protocol("simpler_google_va")
    # 75 and 60 starts in 9 and 8 averaged scenes and 2 cameras; 27 + 27 and 27 starts in 7 scenes.
    assert [_counts(protocol.name, word) for word in ("pick", "move_near", "open_", "close_", "place")] == [
        825,
        600,
        189,
        189,
        189,
    ]
    averaged = Counter(trial.task for trial in protocol.trials if trial.is_averaged)
    assert (averaged[PICK], averaged[NEAR]) == (25 * 9, 60 * 8)
    assert all(trial.scene["rgb_overlay_mode"] == "none" and trial.scene["robot_variant"] == "" for trial in protocol.trials)
    cameras = {
        trial.variant: trial.options["robot_init_options"]["qpos"][-1] for trial in protocol.trials if not trial.is_averaged
    }
    assert cameras == {"camera 1": 0.9351361, "camera 2": 0.6651361}


def test_grids_are_the_published_ones() -> None:
    trials = find_protocol("simpler_google_vm").of_task(PICK)
    places = np.array([trial.options["obj_init_options"]["init_xy"] for trial in trials]).reshape(4, 5, 5, 2)
    np.testing.assert_allclose(places[0, :, 0, 0], np.linspace(-0.35, -0.12, 5))
    np.testing.assert_allclose(places[2, 3, :, 1], np.linspace(-0.02, 0.42, 5))
    apple = find_protocol("simpler_google_vm").of_task("google_robot_place_apple_in_closed_top_drawer")
    assert Counter(trial.options["overlay_id"] for trial in apple) == {"a0": 36, "b0": 36, "c0": 36}
    drawer = find_protocol("simpler_google_va").of_task("google_robot_open_top_drawer")
    xy = {tuple(trial.options["robot_init_options"]["init_xy"]) for trial in drawer}
    assert xy == {(x, y) for x in (0.65, 0.75, 0.85) for y in (-0.2, 0.0, 0.2)}
    near = find_protocol("simpler_google_va").of_task(NEAR)[0]
    w, _, _, z = near.options["robot_init_options"]["init_rot_quat"]
    assert 2 * np.arctan2(z, w) == pytest.approx(np.pi - 0.09)  # faces -x, and a little to its right


def test_every_name_is_played() -> None:
    protocol = find_protocol("simpler_25")
    assert protocol.tasks == ENVIRONMENTS
    assert {len(protocol.of_task(task)) for task in ENVIRONMENTS} == {50}
    assert Counter(trial.variant for trial in protocol.of_task(PICK)) == {
        f"colour {colour or 'base'}": count for colour, count in zip(protocols.ROBOT_COLOURS, (13, 13, 12, 12), strict=True)
    }


@pytest.mark.parametrize("name", SUITES)
def test_lists_are_whole(name: str) -> None:
    protocol = find_protocol(name)
    assert len({trial.key for trial in protocol.trials}) == len(protocol.trials)
    for task in protocol.tasks:
        assert sorted(trial.index for trial in protocol.of_task(task)) == list(range(len(protocol.of_task(task))))
    for tree in protocol.averages.values():
        assert nested_mean(json.loads(json.dumps(tree)), dict.fromkeys(protocol.tasks, 0.5)) == 0.5
    json.dumps([[dict(trial.scene), dict(trial.options)] for trial in protocol.trials])  # travels to workers, into digests
    assert f"{name}: " in list_suites()


def test_averages_give_the_published_means() -> None:
    """Three conventions, three printed means (percent) of policies that were printed with their columns."""
    averages = find_protocol("simpler_google_vm").averages
    mean = {}
    for convention, (near, pick, drawer, apple) in {
        "A": (85.0, 91.3, 71.8, 50.9),  # CogACT
        "B:": (77.9, 86.0, 57.4, 0.0),  # SpatialVLA
        "B'": (65.3, 72.7, 38.3, 0.0),  # pi0
    }.items():
        (tree,) = (tree for name, tree in averages.items() if name.startswith(convention))
        scores = {
            task: near if "near" in task else pick if "pick" in task else apple if "place" in task else drawer
            for task in find_protocol("simpler_google_vm").tasks
        }
        mean[convention] = nested_mean(tree, scores)
    assert mean == {"A": pytest.approx(74.75), "B:": pytest.approx(75.1, abs=0.05), "B'": pytest.approx(58.77, abs=0.01)}


def test_what_is_missing_says_why() -> None:
    class Bare:
        def stage(self, name: str) -> None:
            raise AssetError(f"no stage {name!r}")

        def cabinet_urdf(self, name: str) -> None:
            """Is there."""

    office = next(trial for trial in find_protocol("simpler_google_va").trials if "office" in str(trial.scene))
    assert unavailable(office, Bare()) == "no stage 'modern_office_no_roof'"
    skill = find_protocol("videovla_new_skills").trials[0]
    assert "with the WidowX only" in unavailable(skill, Bare())
    assert unavailable(find_protocol("simpler_google_vm").trials[0], Bare()) == ""
    with pytest.raises(ConfigError, match="did you mean 'simpler_widowx'"):
        find_protocol("simpler_widow")


def test_a_family_that_is_not_offered_is_said_to_be_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "OFFERED_FAMILIES", frozenset({"pick"}))
    (reason,) = {unavailable(trial, None) for trial in find_protocol("simpler_widowx").trials}
    assert reason == "task family 'put_on' is not offered yet"
