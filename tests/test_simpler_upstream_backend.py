"""The original as a backend: another interpreter, with a stand-in package that offers the same calls."""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from core.errors import ConfigError, NonFiniteError, WorkerError
from envs import simpler
from envs.make import EnvConfig, make_env
from envs.simpler import upstream_backend, upstream_child
from envs.simpler.upstream_backend import UpstreamGymEnv, UpstreamTaskEnv
from envs.simpler.upstream_child import ArrayFile

STAND_IN = '''
    """As simpler_env is used: make, and a gymnasium-like environment with the additions."""
    import os, sys, time
    import numpy as np

    __version__ = "stand-in"

    class Pose:
        p, q = np.array([1.0, 2.0, 3.0]), np.array([1.0, 0.0, 0.0, 0.0])

    class Space:
        low, high = -np.ones(7), np.ones(7)

    class Env:
        robot_uid = "google_robot_static"
        action_space = Space()

        def __init__(self, name):
            self.name, self.stage, self.steps = name, 0, 0
            print("the simulator says something on standard output")

        @property
        def unwrapped(self):
            return self

        def obs(self):
            rgb = np.full((512, 640, 3), self.steps, np.uint8)
            rgb[:, :320] = 200
            qpos = np.array([0.0] * 7 + [0.65, 0.65, 0, 0], np.float32)
            return {
                "agent": {"qpos": qpos, "base_pose": np.array([1, 0, 0, 0, 0, 0, 1.0])},
                "extra": {"tcp_pose": np.array([0.5, 0.25, 1, 0, 0, 0, 1.0])},
                "image": {"overhead_camera": {"rgb": rgb, "depth": np.ones((512, 640, 1), np.float32)}},
            }

        def reset(self, seed=None, options=None):
            self.steps, self.stage = 0, 0
            options = options or {}
            if "bad" in options:
                raise KeyError("no such option")
            return self.obs(), {"seed": seed, "options": options, "pose": Pose(), "flag": np.bool_(True), "none": None}

        def step(self, action):
            if action[6] > 0.9:
                os._exit(3)
            if action[6] < -0.9:
                sys.stderr.write("thinking hard"); sys.stderr.flush()
                time.sleep(60)
            self.steps += 1
            self.last = np.asarray(action)
            done = self.steps == 2
            info = {"got": self.last, "episode_stats": {"n": np.int64(self.steps)}}
            return self.obs(), float(done), done, self.steps >= 3, info

        def get_language_instruction(self):
            return "pick coke can" if self.stage == 0 else "place it"

        def is_final_subtask(self):
            return self.stage == 1

        def advance_to_next_subtask(self):
            self.stage = 1

        def close(self):
            pass

    def make(name, **kwargs):
        if "explode" in kwargs:
            raise RuntimeError("no renderer in there")
        return Env(name)
'''


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter of its own: it finds a simpler_env that ours does not have."""
    folder = tmp_path_factory.mktemp("upstream")
    (folder / "site" / "simpler_env").mkdir(parents=True)
    (folder / "site" / "simpler_env" / "__init__.py").write_text(textwrap.dedent(STAND_IN))
    return _interpreter(folder / "python", folder / "site")


def _interpreter(file: Path, site: Path) -> Path:
    file.write_text(f'#!/bin/sh\nPYTHONPATH="{site}" exec "{sys.executable}" "$@"\n')
    file.chmod(0o755)
    return file


@pytest.fixture(scope="module")
def env(python: Path) -> Iterator[UpstreamGymEnv]:
    env = simpler.make("google_robot_pick_coke_can", backend="upstream", python=python, timeout_s=60.0)
    assert isinstance(env, UpstreamGymEnv)
    yield env
    env.close()


ACTION = np.array([0.01, 0.02, 0.03, 0.1, 0.2, 0.3, 0.5], np.float32)


# -- arrays between processes ----------------------------------------------------------------------------------------


def test_arrays_come_out_as_they_went_in(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    writer, reader = ArrayFile(str(tmp_path / "file")), ArrayFile(str(tmp_path / "file"))
    tree = {
        "image": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "deep": {"view": np.arange(10.0)[::3], "empty": np.zeros((0, 3)), "flags": np.array([True, False])},
        "list": [1, 2.5, None, "text", (np.float32(0.5), np.int64(7))],
    }
    found = reader.unpack(writer.pack(tree))
    np.testing.assert_array_equal(found["image"], tree["image"])
    assert found["image"].dtype == np.uint8
    np.testing.assert_array_equal(found["deep"]["view"], [0.0, 3.0, 6.0, 9.0])
    assert found["deep"]["empty"].shape == (0, 3)
    assert found["deep"]["flags"].tolist() == [True, False]
    assert found["list"] == [1, 2.5, None, "text", [0.5, 7]]
    larger = reader.unpack(writer.pack({"image": np.ones((400, 500), np.float64)}))
    assert larger["image"].sum() == 200_000, "the file grows with the message"
    assert found["image"][0, 0, 1] == 1, "what was read stays"


def test_the_far_end_needs_no_newer_python() -> None:
    source = Path(upstream_child.__file__).read_text()
    tree = ast.parse(source, feature_version=(3, 8))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= {"json", "mmap", "os", "sys", "traceback", "numpy", "simpler_env"}
    assert modules <= {"__future__", "collections.abc", "typing"}


# -- the same interface ----------------------------------------------------------------------------------------------


def test_an_episode_runs_in_the_other_interpreter(env: UpstreamGymEnv) -> None:
    options = {"obj_init_options": {"init_xy": np.array([-0.2, 0.1])}}
    obs, info = env.reset(seed=5, options=options)
    assert info["seed"] == 5
    assert info["options"]["obj_init_options"]["init_xy"].tolist() == [-0.2, 0.1]
    assert info["pose"].tolist() == [1, 2, 3, 1, 0, 0, 0]
    assert (info["flag"], info["none"]) == (True, None)
    assert info["backend"] == "upstream"
    assert info["backend_versions"]["simpler_env"] == "stand-in"
    image = simpler.get_image_from_maniskill2_obs_dict(env, obs)
    assert image.shape == (512, 640, 3)
    assert env.get_language_instruction() == "pick coke can"
    assert not env.is_final_subtask()
    env.advance_to_next_subtask()
    assert (env.is_final_subtask(), env.get_language_instruction()) == (True, "place it")
    first, second = env.step(ACTION), env.step(ACTION)
    assert (first[1:4], second[1:4]) == ((0.0, False, False), (1.0, True, False))
    np.testing.assert_array_equal(first[4]["got"], ACTION)
    assert second[4]["episode_stats"] == {"n": 2}
    assert (env.elapsed_steps, second[4]["elapsed_steps"]) == (2, 2)
    assert image[0, -1, 0] == 0, "an earlier image is not overwritten"
    assert env.render()[0, -1, 0] == 2
    assert env.asset_set == "upstream"


def test_bad_actions_are_refused_on_this_side(env: UpstreamGymEnv) -> None:
    env.reset(seed=0)
    with pytest.raises(NonFiniteError, match=r"action\[1\] \(dy\) is nan"):
        env.step(np.array([0, np.nan, 0, 0, 0, 0, 0]))
    assert env.elapsed_steps == 0


def test_actors_can_step_it(python: Path) -> None:
    config = EnvConfig(task="google_robot_pick_coke_can", backend="upstream", upstream_python=str(python))
    env = make_env(config)
    assert isinstance(env, UpstreamTaskEnv)
    observation, info = env.reset(seed=1)
    assert info["backend"] == env.backend == "upstream"
    (camera,) = env.env_spec.cameras
    assert observation.images[camera.name].shape == (128, 160, 3)
    # Base at (1, 0, 0) turned by pi about z; tool at (0.5, 0.25, 1) turned likewise; fingers half way.
    np.testing.assert_allclose(observation.state, [0.5, -0.25, 1.0, 1.0, 0.0, 0.0, 0.0, 0.5], atol=1e-6)
    ends = [env.step(ACTION)[2:] for _ in range(3)]
    assert [end[0] for end in ends] == [False, True, False]
    assert ends[2][2]["judged_failure"]
    env.close()


# -- when it goes wrong ----------------------------------------------------------------------------------------------


def test_a_missing_interpreter_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere' is not an executable file"):
        simpler.make("google_robot_pick_coke_can", backend="upstream", python=tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="needs python=PATH"):
        simpler.make("google_robot_pick_coke_can", backend="upstream")
    with pytest.raises(ConfigError, match="backend='other'; known are"):
        simpler.make("google_robot_pick_coke_can", backend="other")
    with pytest.raises(ConfigError, match="did you mean 'google_robot_pick_coke_can'"):
        simpler.make("google_robot_pick_coke_cam", backend="upstream", python=sys.executable)


def test_an_interpreter_without_simpler_env_is_refused(tmp_path: Path) -> None:
    python = _interpreter(tmp_path / "python", tmp_path)
    with pytest.raises(ConfigError, match=r"cannot run simpler_env.*No module named 'simpler_env'"):
        simpler.make("google_robot_pick_coke_can", backend="upstream", python=python, timeout_s=60.0)


def test_an_interpreter_that_is_none_says_what_it_said(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("#!/bin/sh\necho this is not python >&2\nexit 7\n")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(WorkerError, match=r"died during make, exit status 7\. It last said: this is not python"):
        simpler.make("google_robot_pick_coke_can", backend="upstream", python=tmp_path / "python")


def test_an_error_of_the_original_is_told_and_survived(env: UpstreamGymEnv, python: Path) -> None:
    with pytest.raises(WorkerError, match="upstream's reset raised KeyError: 'no such option'"):
        env.reset(options={"bad": True})
    assert env.reset(seed=2)[1]["seed"] == 2
    with pytest.raises(WorkerError, match="upstream's make raised RuntimeError: no renderer in there"):
        simpler.make("google_robot_pick_coke_can", backend="upstream", python=python, explode=True)


def test_a_dead_child_is_noticed(python: Path) -> None:
    env = simpler.make("google_robot_pick_coke_can", backend="upstream", python=python, timeout_s=60.0)
    env.reset(seed=0)
    with pytest.raises(WorkerError, match=r"died during step, exit status 3\. It last said: the simulator says something"):
        env.step(np.array([0, 0, 0, 0, 0, 0, 1.0]))
    with pytest.raises(WorkerError, match="has ended; reset cannot be asked of it"):
        env.reset(seed=0)


def test_a_silent_child_is_ended(python: Path) -> None:
    process = upstream_backend.UpstreamProcess(python, timeout_s=60.0)
    process.call("make", "google_robot_pick_coke_can", {})
    process.call("reset", {})
    process._timeout_s = 0.5
    with pytest.raises(WorkerError, match=r"(?s)step gave no answer within 0\.5 s; its process was ended.*thinking hard"):
        process.call("step", np.array([0, 0, 0, 0, 0, 0, -1.0]))
    assert not process.is_running


def test_closing_leaves_nothing_behind(python: Path) -> None:
    process = upstream_backend.UpstreamProcess(python, timeout_s=60.0)
    folder = Path(process._folder.name)
    assert folder.is_dir()
    process.close()
    process.close()
    assert not process.is_running
    assert not folder.exists()
