"""Any ManiSkill 3 task under this project's records: ``--env maniskill env.task=PickCube-v1``.

Hop 1 of the tour, like :mod:`envs.simpler.task_env`. Physics and rendering run on the CPU, one environment an instance.
Differs from ``gymnasium.make(task)`` in three ways: the action is the end-effector's where the robot offers that, a
time limit says nothing about success (ManiSkill has no verdict), and a missing asset is an error, never a question on the
terminal.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import AssetError, ConfigError
from core.experience import Observation
from core.specs import ActionSpec, CameraSpec, EnvSpec, StateSpec
from envs.task_env import checked_action
from envs.vulkan import ensure_renderer

END_EFFECTOR_MODE = "pd_ee_delta_pose"
DEFAULT_TIME_LIMIT_STEPS = 200
"""For the few tasks that ManiSkill registers without a limit."""
_MAGNITUDE_LIMIT = 100.0
_END_EFFECTOR_NAMES = ("dx", "dy", "dz", "rx", "ry", "rz")


class ManiSkillTaskEnv:
    """One ManiSkill 3 task; implements :class:`envs.task_env.TaskEnv`.

    Example:
        PickCube-v1: observation.images {"base_camera": uint8 [128, 160, 3]}, observation.state float32 [9] (seven arm joints
        in rad, two fingers in m), action float32 [7] in [-1, 1] (ManiSkill's normalised end-effector steps), 20 Hz, 50 steps.

    Args:
        task: ManiSkill's id, for example ``"PickCube-v1"``.
        image_height_px: of every camera.
        image_width_px: of every camera.

    Raises:
        ConfigError: unknown task (the nearest is named), or one with several robots.
        AssetError: the task's files are not on this machine; the message says how to get them.
        RendererError: no usable Vulkan driver.
    """

    family = "maniskill"
    asset_set = "none"

    def __init__(self, task: str, *, image_height_px: int = 128, image_width_px: int = 160) -> None:
        ensure_renderer()
        self.task = task
        registered = _registered(task)
        self.time_limit_steps: int = registered.max_episode_steps or DEFAULT_TIME_LIMIT_STEPS
        with _no_questions(task):
            _require_assets(task, registered.asset_download_ids)
            self._env = _build(registered, {"height": image_height_px, "width": image_width_px})
        self.env_spec = EnvSpec(
            cameras=tuple(
                CameraSpec(name=name, height_px=image_height_px, width_px=image_width_px) for name in self._env.scene.sensors
            ),
            state=_state_spec(self._env.agent),
            action=_action_spec(self._env),
        )
        self._steps = 0

    @property
    def instruction(self) -> str:
        """The task's own sentence where it has one, else its name in words: ``"pick cube"``."""
        if hasattr(self._env, "get_language_instruction"):
            return str(self._env.get_language_instruction()[0])
        return instruction_from_name(self.task)

    def reset(self, *, seed: int, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode; ``options`` are ManiSkill's."""
        raw, _ = self._env.reset(seed=seed, options=dict(options or {}))
        self._steps = 0
        return self._observation(raw), {"success": False}

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Execute one action [A].

        ``info["judged_failure"]`` is ManiSkill's ``fail``: a task may declare that it cannot be solved any more.

        Raises:
            SpecError: wrong shape or absurdly large.
            NonFiniteError: not finite.
        """
        move = checked_action(action, self.env_spec.action, magnitude_limit=_MAGNITUDE_LIMIT)
        raw, reward, terminated, _, details = self._env.step(move)
        self._steps += 1
        success = _flag(details, "success")
        info = {"success": success, "judged_failure": _flag(details, "fail") and not success}
        truncated = self._steps >= self.time_limit_steps
        return self._observation(raw), float(reward), bool(terminated), truncated, info

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()

    def _observation(self, raw: dict[str, Any]) -> Observation:
        # ManiSkill returns batches of one, as torch tensors that the simulator may write to again.
        images = {name: np.array(data["rgb"][0].numpy(), np.uint8) for name, data in raw["sensor_data"].items()}
        state = np.array(self._env.agent.robot.get_qpos()[0].numpy(), np.float32)
        return Observation(images=images, state=state, time_s=self._steps / self.env_spec.action.control_hz)


def instruction_from_name(task: str) -> str:
    """A task's id in words.

    Example:
        >>> instruction_from_name("PegInsertionSide-v1")
        'peg insertion side'
    """
    name = re.sub(r"^MS-|-v\d+$", "", task)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[-_]+", " ", name).lower()


def _registered(task: str) -> Any:
    import mani_skill.envs  # noqa: F401  (registers the tasks)
    from mani_skill.utils.registration import REGISTERED_ENVS

    if task not in REGISTERED_ENVS:
        nearest = difflib.get_close_matches(task, REGISTERED_ENVS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ConfigError(f"unknown env.task={task!r}; ManiSkill has {len(REGISTERED_ENVS)}, such as 'PickCube-v1'{hint}")
    return REGISTERED_ENVS[task]


def _require_assets(task: str, asset_ids: list[str] | None) -> None:
    from mani_skill.utils import assets

    for asset_id in asset_ids or []:
        is_group = asset_id in assets.DATA_GROUPS
        sources = assets.expand_data_group_into_individual_data_source_ids(asset_id) if is_group else [asset_id]
        missing = [source for source in sources if not assets.is_data_source_downloaded(source)]
        if missing:
            raise _missing(task, f"the asset {missing[0]!r}", asset_id)


def _missing(task: str, what: str, asset_id: str = "") -> AssetError:
    place = os.environ.get("MS_ASSET_DIR", "~/.maniskill")
    download = "python -m mani_skill.utils.download_asset"
    unknown = f"Find its name with `{download} --list task_assets` (or scene, robot, objects), and run `{download} NAME`"
    fix = f"Run `{download} {asset_id}`" if asset_id else unknown
    return AssetError(f"{task} needs {what}, not found under {place}. {fix}; or set MS_ASSET_DIR to a directory that has it")


@contextlib.contextmanager
def _no_questions(task: str) -> Iterator[None]:
    """While building: ManiSkill asks on the terminal whether to download what is missing, and calls exit() upon a no."""
    from mani_skill.utils import download_asset

    def refuse(question: str) -> bool:
        robot = re.match(r"Robot (\S+) ", question)
        raise _missing(task, f"the robot {robot[1]!r}", robot[1]) if robot else _missing(task, f"files ({question.strip()})")

    ask, download_asset.prompt_yes_no = download_asset.prompt_yes_no, refuse
    try:
        yield
    except AssetError:
        raise
    except (FileNotFoundError, RuntimeError) as error:
        # Some tasks look for their files themselves, and say in their own words what is to be run.
        if isinstance(error, RuntimeError) and "download_asset" not in str(error):
            raise
        raise _missing(task, f"files ({error})") from error
    finally:
        download_asset.prompt_yes_no = ask


def _build(registered: Any, size: dict[str, int]) -> Any:
    # A few tasks that overlay a real background offer images only together with the segmentation that they need for it.
    has_rgb = "rgb" in getattr(registered.cls, "SUPPORTED_OBS_MODES", ("rgb",))
    arguments = registered.default_kwargs | {
        "obs_mode": "rgb" if has_rgb else "rgb+segmentation",
        "sim_backend": "cpu",
        "render_backend": "cpu",
        "sensor_configs": size,
    }
    try:
        env = registered.cls(**arguments, control_mode=END_EFFECTOR_MODE)
    except AssertionError as error:
        # Which modes a robot offers is known only once it is built; ManiSkill asserts that the asked one is among them.
        if "not in supported modes" not in str(error):
            raise
        env = registered.cls(**arguments)
    if not hasattr(env.agent, "robot"):
        count = len(env.agent.agents)
        env.close()
        raise ConfigError(f"env.task={registered.uid!r} has {count} robots; only tasks with one are supported")
    return env


def _state_spec(agent: Any) -> StateSpec:
    joints = agent.robot.active_joints
    return StateSpec(names=tuple(joint.name for joint in joints), units=tuple(_unit(joint) for joint in joints))


def _unit(joint: Any) -> str:
    return "m" if "prismatic" in joint.type[0] else "rad"


def _action_spec(env: Any) -> ActionSpec:
    agent = env.agent
    units = {joint.name: _unit(joint) for joint in agent.robot.active_joints}
    parts = getattr(agent.controller, "controllers", {"body": agent.controller})
    names: list[str] = []
    action_units: list[str] = []
    for part, controller in parts.items():
        part_names = _part_names(part, controller)
        names += part_names
        # Normalised entries are shares of what the controller allows in a step.
        is_normalised = getattr(controller.config, "normalize_action", False)
        action_units += ["1" if is_normalised else units.get(name, "1") for name in part_names]
    space = env.single_action_space
    return ActionSpec(
        names=tuple(names),
        units=tuple(action_units),
        low=tuple(space.low.tolist()),
        high=tuple(space.high.tolist()),
        control_hz=float(env.control_freq),
    )


def _part_names(part: str, controller: Any) -> list[str]:
    size = controller.single_action_space.shape[0]
    joints = [joint.name for joint in controller.joints]
    if "ee" in type(controller).__name__.lower() and size <= len(_END_EFFECTOR_NAMES):
        return list(_END_EFFECTOR_NAMES[:size])
    if size == 1:
        return [part]
    return joints if len(joints) == size else [f"{part}_{index}" for index in range(size)]


def _flag(details: dict[str, Any], name: str) -> bool:
    return bool(details.get(name, False))
