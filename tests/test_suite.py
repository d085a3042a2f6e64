"""Playing suites: resumed, repeated, sharded, merged, compared, crash by crash."""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from learner_toys import ReachPolicy, toy_from_checkpoint

from actors import suite
from actors.evaluate import main, merge_runs
from actors.rollout_runner import RolloutRunner
from actors.subjects import Subject
from actors.suite import Selection, environment_digest, left_out, plan, play_suite
from actors.suite_record import SuiteRecord
from actors.suite_report import compare, tabulate, to_markdown
from checkpoints.directory import write_checkpoint
from configs import build
from configs.load import load_config
from core.errors import AssetError, ConfigError, NonFiniteError
from envs.fake import ReachEnv, ScriptedReacher
from envs.simpler import protocols
from envs.simpler.embodiment import GOOGLE_ROBOT
from envs.simpler.protocols import Protocol, Trial, find_protocol, unavailable
from envs.simpler.task_env import simpler_env_spec
from learners.display import Display

QUIET = Display(quiet=True)
PICK, NEAR = "google_robot_pick_standing_coke_can", "google_robot_move_near_v0"
SPOON = "widowx_spoon_on_towel"

# -- which of them ---------------------------------------------------------------------------------------------------


def _planned(**selection: Any) -> list[suite.PlannedTrial]:
    return plan(find_protocol("simpler_google_vm"), lambda trial: True, Selection(**selection))


def test_a_part_of_a_suite_is_a_fixed_draw_and_more_than_a_suite_repeats_it() -> None:
    few, more = ({item.key for item in _planned(tasks=(PICK,), episodes_per_task=n)} for n in (5, 9))
    assert len(few) == 5
    assert few < more
    repeated = _planned(tasks=(PICK,), episodes_per_task=230)
    assert Counter(item.repetition for item in repeated) == {0: 100, 1: 100, 2: 30}
    assert len({item.seed for item in repeated}) == 230
    variants = [item.trial.variant for item in repeated]
    assert sum(a != b for a, b in itertools.pairwise(variants)) == 3  # an environment is built once a colour


def test_shards_are_a_partition() -> None:
    whole = [item.key for item in _planned()]
    parts = [[item.key for item in _planned(shard=(i, 3))] for i in (1, 2, 3)]
    assert sorted(itertools.chain.from_iterable(parts)) == sorted(whole)
    assert {len(part) for part in parts} == {864 // 3}


def test_equal_seeds_for_everyone_and_others_for_others() -> None:
    assert [item.seed for item in _planned()] == [item.seed for item in _planned()]
    shifted = plan(find_protocol("simpler_google_vm"), lambda trial: True, Selection(), first_seed=7)
    assert shifted[0].seed == _planned()[0].seed + 7


# -- playing, with the reaching task in the place of each scene --------------------------------------------------------

TOY = Protocol(
    name="toy",
    title="Two tasks in two scenes",
    trials=tuple(
        Trial(
            task=task,
            variant=f"scene {i // 3}",
            index=i,
            scene={"scene": i // 3},
            options={"goal": [1.0, 0.0], "hand": [-i, 0.0]},
        )
        for task in (PICK, NEAR)
        for i in range(6)
    ),
    averages={"mean of 2": (PICK, NEAR)},
)
ASSETS = SimpleNamespace(name="toy", digest=lambda: "0" * 16, proxies=lambda: {"stage.glb": "a box"})


class Scenes:
    """Makes the environments, counts them, and has their trials crash on request."""

    def __init__(self) -> None:
        self.built: list[tuple[str, int]] = []
        self.played: list[float] = []
        self.crashing: dict[float, int] = {}
        """Place of the hand at the start -> how often a trial from there crashes."""
        self.errors: dict[float, Exception] = {}

    def make(self, task: str, assets: str, image_size_px: Any, scene: Any) -> Any:
        self.built.append((task, scene["scene"]))
        env = ReachEnv(image_height_px=32, image_width_px=32)
        env.task, env.asset_set = task, assets
        reset = env.reset

        def counted(*, seed: int, options: Any = None) -> Any:
            hand = options["hand"][0]
            if self.crashing.get(hand, 0):
                self.crashing[hand] -= 1
                raise RuntimeError("the simulator is gone")
            if hand in self.errors:
                raise self.errors[hand]
            self.played.append(hand)
            return reset(seed=seed, options=options)

        env.reset = counted  # type: ignore[method-assign]
        return env


@pytest.fixture
def scenes(monkeypatch: pytest.MonkeyPatch) -> Scenes:
    scenes = Scenes()
    monkeypatch.setattr(suite, "make_scene_env", scenes.make)
    monkeypatch.setattr(suite, "make_expert", lambda task, quality, rng: ScriptedReacher(seed=0, quality=quality))
    monkeypatch.setattr(suite, "load_asset_set", lambda name: ASSETS)
    return scenes


def _config(checkpoint: str, *changes: str) -> Any:
    return load_config(None, [f"checkpoint={checkpoint}", "workers=0", *changes])


def _play(path: Path, checkpoint: str = "expert:clean", **selection: Any) -> SuiteRecord:
    return play_suite(_config(checkpoint), TOY, path, selection=Selection(**selection), display=QUIET)


def test_a_suite_is_played_with_one_environment_a_scene(tmp_path: Path, scenes: Scenes) -> None:
    record = _play(tmp_path)
    assert scenes.built == [(PICK, 0), (PICK, 1), (NEAR, 0), (NEAR, 1)]
    assert len(record.outcomes) == 12
    # It plays on to the time limit and stays on the goal; the first success came after as many steps as cells were between.
    assert {row.num_steps for row in record.outcomes.values()} == {10}
    assert [row.first_success_step for row in record.outcomes.values()] == [0, 1, 2, 3, 4, 5] * 2
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert result["tasks"][PICK]["summary"]["success"] == 1.0
    assert result["averages"]["mean of 2"] == {"success": 1.0, "success_once": 1.0, "missing": [], "incomplete": []}
    text = (tmp_path / "evaluation.md").read_text()
    assert "| google_robot_move_near_v0 | 6 (6) | 100 % (61-100), 6/6 | 100 % | 10.0 | 3.5 |" in text
    assert "Stand-in in these assets: stage.glb is a box." in text
    assert "- expert quality: clean" in text


def test_an_interrupted_suite_goes_on_where_it_was(tmp_path: Path, scenes: Scenes, monkeypatch: pytest.MonkeyPatch) -> None:
    run_episode = RolloutRunner.run_episode
    calls = iter(range(100))

    def interrupted(self: Any, seed: int, **how: Any) -> Any:
        if next(calls) == 7:
            raise KeyboardInterrupt
        return run_episode(self, seed, **how)

    monkeypatch.setattr(RolloutRunner, "run_episode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _play(tmp_path)
    assert "Interrupted: 5 planned trials are still to be played." in (tmp_path / "evaluation.md").read_text()
    assert len(_play(tmp_path).outcomes) == 12
    assert len(scenes.played) == 12
    _play(tmp_path)
    assert len(scenes.played) == 12
    assert len(scenes.built) == 5  # 3 before, the third and the fourth after, none when nothing is missing
    with pytest.raises(ConfigError, match="another subject"):
        _play(tmp_path, "hold")


def test_a_torn_line_is_a_trial_that_was_not_played(tmp_path: Path, scenes: Scenes) -> None:
    _play(tmp_path)
    (log,) = (tmp_path / "trials").glob("*.jsonl")
    log.write_text(log.read_text()[:-20])
    assert len(_play(tmp_path).outcomes) == 12
    assert len(scenes.played) == 13


def test_a_crash_is_played_again_and_a_second_one_is_an_error_not_a_failure(tmp_path: Path, scenes: Scenes) -> None:
    scenes.crashing = {-2: 1, -3: 2}  # the pick task meets both first
    record = _play(tmp_path)
    assert len(record.outcomes) == 11
    assert [crash.key for crash in record.errors] == [f"{PICK}|scene 1|3|0"]
    assert record.retried == (f"{PICK}|scene 0|2|0",)
    summary = tabulate(record)["tasks"][PICK]["summary"]
    assert (summary["num_episodes"], summary["success"]) == (5, 1.0)
    text = to_markdown([record])
    assert "Errors: 1 trials crashed twice; the rates above are over the rest" in text
    assert "the simulator is gone" in text
    again = _play(tmp_path)
    assert (len(again.outcomes), again.errors) == (12, ())


def test_a_missing_file_is_listed_and_a_policys_nan_ends_the_evaluation(tmp_path: Path, scenes: Scenes) -> None:
    scenes.errors = {-1: AssetError("can.obj is missing")}
    assert [crash.text for crash in _play(tmp_path / "a").errors] == ["can.obj is missing"] * 2
    scenes.errors = {-1: NonFiniteError("action[3] is nan")}
    with pytest.raises(NonFiniteError, match=r"action\[3\]"):
        _play(tmp_path / "b")


def test_parts_are_merged_into_the_whole_and_subjects_into_one_table(tmp_path: Path, scenes: Scenes) -> None:
    whole = _play(tmp_path / "whole")
    parts = [_play(tmp_path / f"part_{i}", shard=(i, 2)) for i in (1, 2)]
    assert sum(len(part.outcomes) for part in parts) == 12
    (merged,) = merge_runs([str(tmp_path / "part_1"), str(tmp_path / "part_2")], str(tmp_path / "merged"))
    assert {key: row.is_success for key, row in merged.outcomes.items()} == {
        key: row.is_success for key, row in whole.outcomes.items()
    }
    assert SuiteRecord.read(tmp_path / "merged").outcomes.keys() == whole.outcomes.keys()
    with pytest.raises(ConfigError, match="holds an evaluation already"):
        merge_runs([str(tmp_path / "part_1")], str(tmp_path / "merged"))
    _play(tmp_path / "hold", "hold")
    text = to_markdown(merge_runs([str(tmp_path / "whole"), str(tmp_path / "hold")], None))
    assert "| task | expert_clean | hold |" in text
    (tmp_path / "elsewhere").mkdir()
    other = play_suite(
        _config("expert:clean", "evaluation.first_seed=5"), TOY, tmp_path / "elsewhere", selection=Selection(), display=QUIET
    )
    assert other.subject == merged.subject
    with pytest.raises(ConfigError, match="cannot be merged: first_seed is 0 in the one and 5 in the other"):
        merge_runs([str(tmp_path / "whole"), str(tmp_path / "elsewhere")], None)
    with pytest.raises(ConfigError, match="holds no evaluation of a suite"):
        merge_runs([str(tmp_path)], None)


def test_two_subjects_are_compared_on_common_starts_else_on_all(
    tmp_path: Path, scenes: Scenes, monkeypatch: pytest.MonkeyPatch
) -> None:
    expert, hold = _play(tmp_path / "expert"), _play(tmp_path / "hold", "hold")
    found = compare(expert, hold)
    assert found["tasks"][PICK]["test"] == "McNemar exact"
    assert (found["all"]["only_a"], found["all"]["only_b"]) == (12, 0)
    assert found["all"]["p_value"] == pytest.approx(2 / 2**12)
    assert found["tasks"][PICK]["p_holm"] == pytest.approx(2 * found["tasks"][PICK]["p_value"])
    assert main(["--compare", str(tmp_path / "expert"), str(tmp_path / "hold"), "--json"]) == 0
    shifted = play_suite(_config("hold", "evaluation.first_seed=50"), TOY, tmp_path / "shifted", display=QUIET)
    assert compare(expert, shifted)["all"]["test"] == "Barnard"
    monkeypatch.setattr(suite, "BACKEND", "another engine")
    elsewhere = _play(tmp_path / "elsewhere", "hold")
    assert compare(expert, elsewhere)["all"]["test"] == "Barnard"  # same seeds, another environment: not the same starts


def test_rates_of_trials_outside_the_averages_are_apart(tmp_path: Path, scenes: Scenes) -> None:
    from dataclasses import replace

    trials = tuple(replace(trial, is_averaged=trial.variant == "scene 0") for trial in TOY.trials)
    record = play_suite(_config("hold"), replace(TOY, trials=trials), tmp_path, display=QUIET)
    row = tabulate(record)["tasks"][PICK]
    assert (row["summary"]["num_episodes"], row["num_played"], row["num_trials"]) == (3, 6, 3)
    assert f"- {PICK}, scene 1 (outside the means): 0/3" in to_markdown([record])


# -- who ---------------------------------------------------------------------------------------------------------------


def _checkpoint(tmp_path: Path, task: str) -> str:
    policy = ReachPolicy(simpler_env_spec(task, (48, 64)))
    write_checkpoint(tmp_path / "policy", *policy.to_checkpoint())
    return str(tmp_path / "policy")


def test_a_policy_of_the_other_robot_is_not_applicable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.presets, "from_checkpoint", toy_from_checkpoint)
    subject = Subject.of(_checkpoint(tmp_path, PICK))
    omitted = left_out(find_protocol("simpler_25"), subject, _config(""), SimpleNamespace(), ())
    widowx = [item for item in omitted if item.task.startswith("widowx")]
    assert len(widowx) == 4
    assert all(not item.is_applicable and item.num_trials == 50 and "specification" in item.reason for item in widowx)
    assert suite._image_size_px(subject) == (48, 64)
    assert not [item for item in omitted if item.task == PICK]


def test_an_expert_names_its_quality(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Subject.of("expert:noisy").name == "expert_noisy"

    def no_expert(task: str, quality: str, rng: Any) -> Any:
        raise ConfigError(f"no scripted expert for {task!r}")

    monkeypatch.setattr(suite, "make_expert", no_expert)
    omitted = left_out(TOY, Subject.of("expert"), _config("expert"), ASSETS, (PICK,))
    assert [(item.task, item.reason) for item in omitted] == [
        (PICK, f"no scripted expert for {PICK!r}"),
        (NEAR, "not asked for"),
    ]


def test_the_digest_of_an_environment_changes_with_what_it_is_made_of(monkeypatch: pytest.MonkeyPatch) -> None:
    vm, va = find_protocol("simpler_google_vm"), find_protocol("simpler_google_va")
    other_assets = SimpleNamespace(name="toy", digest=lambda: "1" * 16)
    digests = [
        environment_digest(vm, PICK, ASSETS),
        environment_digest(vm, NEAR, ASSETS),
        environment_digest(va, PICK, ASSETS),
        environment_digest(vm, PICK, other_assets),
    ]
    monkeypatch.setattr(suite, "software_version", lambda: "next")
    assert len({*digests, environment_digest(vm, PICK, ASSETS)}) == 5


def test_specifications_without_building() -> None:
    spec = simpler_env_spec(SPOON, (32, 40))
    assert (spec.cameras[0].name, spec.action.control_hz) == ("3rd_view_camera", 5.0)
    assert simpler_env_spec(PICK, None).cameras == ()
    assert simpler_env_spec(PICK, None).action == GOOGLE_ROBOT.action


# -- the command line --------------------------------------------------------------------------------------------------


def test_the_command_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    refusals = {
        ("--suite", "simpler_google_wm", "checkpoint=hold"): "did you mean 'simpler_google_vm'",
        (
            "--suite",
            "simpler_widowx",
            "--tasks",
            "widowx_spoon_on_towl",
            "checkpoint=hold",
        ): "did you mean 'widowx_spoon_on_towel'",
        ("--suite", "simpler_widowx", "--tasks", PICK, "checkpoint=hold"): f"{PICK} is not in simpler_widowx",
        ("--suite", "simpler_widowx", "--shard", "3/2", "checkpoint=hold"): "expected I/N",
        ("--suite", "simpler_widowx", "checkpoint="): "nothing to evaluate",
        ("--compare", "here", "there"): "here holds no evaluation of a suite",
    }
    for arguments, message in refusals.items():
        assert main(list(arguments)) == 2
        assert message in capsys.readouterr().err
    assert main(["--list"]) == 0
    assert "simpler_google_vm: Google robot, visual matching; 864 trials" in capsys.readouterr().out


def test_the_command_measures_several_subjects_and_writes_one_table(
    tmp_path: Path, scenes: Scenes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("actors.evaluate.find_protocol", lambda name: TOY)
    arguments = ["--suite", "toy", "checkpoint=hold,expert:clean", "workers=0", "--episodes-per-task", "2"]
    assert main([*arguments, "--run", str(tmp_path / "run"), "--report", str(tmp_path / "table.md"), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [result["identity"]["subject"] for result in results] == ["hold", "expert_clean"]
    assert [result["averages"]["mean of 2"]["incomplete"] for result in results] == [[PICK, NEAR]] * 2
    table = (tmp_path / "table.md").read_text()
    assert "| **mean of 2** | 0.0 %* | 100.0 %* |" in table
    assert "by `python -m actors.evaluate --suite toy checkpoint=hold,expert:clean workers=0 " in table
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["expert_clean", "hold"]


# -- the simulator -------------------------------------------------------------------------------------------------------


@pytest.mark.sim
def test_the_protocols_numbers_are_the_scenes() -> None:
    """What the protocols repeat, because the scenes' modules load the simulator."""
    from envs.simpler.drawer import STANDPOINTS
    from envs.simpler.google_robot import INIT_QPOS, URDF_VARIANTS
    from envs.simpler.move_near import NUM_EPISODES

    assert protocols.ROBOT_COLOURS == URDF_VARIANTS
    assert set(protocols._STANDPOINTS) == set(STANDPOINTS)
    assert INIT_QPOS[:-1] == protocols._QPOS_BUT_TILT
    assert len(find_protocol("simpler_google_vm").of_task(NEAR)) == 4 * NUM_EPISODES


@pytest.mark.sim
@pytest.mark.parametrize(("name", "task"), [("simpler_google_vm", PICK), ("simpler_google_va", NEAR)])
def test_a_trial_starts_where_its_protocol_says(name: str, task: str, tmp_path: Path) -> None:
    config = _config("hold")
    protocol = find_protocol(name)
    chosen = next(trial for trial in reversed(protocol.of_task(task)) if not unavailable(trial, suite.load_asset_set("builtin")))
    (item,) = plan(protocol, lambda trial: trial == chosen, Selection())
    env = suite.make_scene_env(task, "builtin", None, chosen.scene)
    try:
        env.reset(seed=item.seed, options=dict(chosen.options))
        if task == PICK:
            x, y = chosen.options["obj_init_options"]["init_xy"]
            assert env.object_pose().world[:2] == pytest.approx([x, y], abs=0.02)
            assert env.gym_env.scene.urdf_version == "recolor_cabinet_visual_matching_1"
        else:
            base = env.gym_env.scene.agent.base_pose()
            assert base.p[:2] == pytest.approx(chosen.options["robot_init_options"]["init_xy"], abs=1e-6)
    finally:
        env.close()
    assert functools.partial(suite.make_suite_runner, config, None, "run")  # picklable: a module's function
