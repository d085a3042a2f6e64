"""SIMPLER as a ``gymnasium.Env`` with upstream's interface: names, options, nesting, info keys; numpy, no batch.

Hop 1 of the tour for code written against ``simpler_env``. Our own actors use :mod:`envs.simpler.task_env`, which wraps
this. Differs from upstream in what is said of each below, and in one general way: nothing that the caller passes in is
modified.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

import gymnasium
import numpy as np
from numpy.typing import NDArray

from core.errors import ConfigError
from envs.simpler.embodiment import EMBODIMENTS
from envs.simpler.tasks import ENVIRONMENTS, TaskSpec, find_task
from envs.task_env import checked_action

if TYPE_CHECKING:
    from envs.simpler.scene import SimplerScene
    from envs.simpler.upstream_backend import UpstreamGymEnv

NAMESPACE = "simpler"
ABSURD_MAGNITUDE = 10.0
"""Times the bounds; an action beyond that is refused rather than executed."""


@overload
def make(
    name: str, assets: str = ..., obs_size: tuple[int, int] | None = ..., *, backend: Literal["native"] = ..., **kwargs: Any
) -> SimplerGymEnv: ...


@overload
def make(
    name: str, assets: str = ..., obs_size: tuple[int, int] | None = ..., *, backend: str, **kwargs: Any
) -> SimplerGymEnv | UpstreamGymEnv: ...


def make(
    name: str, assets: str = "builtin", obs_size: tuple[int, int] | None = None, *, backend: str = "native", **kwargs: Any
) -> SimplerGymEnv | UpstreamGymEnv:
    """Make a task by its public name.

    Args:
        name: one of ``ENVIRONMENTS``.
        assets: ``"builtin"`` or ``"upstream"``; numbers from the two are not comparable, so it is recorded everywhere.
        obs_size: height and width of the image, px; upstream's 512 x 640 (WidowX: 480 x 640) if None. The field of view stays the
            same.
        backend: ``"native"``, or ``"upstream"``: the original ``simpler_env`` in an interpreter of its own, named by
            ``python=PATH`` (:mod:`envs.simpler.upstream_backend`); it has its own assets and one image size.
        **kwargs: of the scene, for example ``urdf_version=""`` (one robot colour, no rebuilding),
            ``prepackaged_config=False``, ``success_from_episode_stats=False``, ``max_episode_steps=200``.

    Raises:
        ConfigError: unknown name (the nearest is suggested), a task that is not offered yet, an unknown argument.
        RendererError: no Vulkan driver.
        AssetError: files are missing or altered.

    Example:
        >>> make("google_robot_pick_coke_cam")
        Traceback (most recent call last):
        ...
        core.errors.ConfigError: unknown SIMPLER task 'google_robot_pick_coke_cam'; did you mean 'google_robot_pick_coke_can'?
    """
    if backend == "upstream":
        from envs.simpler import upstream_backend

        return upstream_backend.make(name, **kwargs)
    if backend != "native":
        raise ConfigError(f"backend={backend!r}; known are 'native' and 'upstream'")
    task = find_task(name)
    return SimplerGymEnv(task, assets=assets, obs_size=obs_size or EMBODIMENTS[task.robot].camera.full_size_px, **kwargs)


class SimplerGymEnv(gymnasium.Env[dict[str, Any], NDArray[np.float32]]):
    """One task, one environment, numpy in and out.

    Example:
        obs["image"]["overhead_camera"]["rgb"] uint8 [512, 640, 3], obs["agent"]["qpos"] float32 [11] in upstream's joint
        order, obs["extra"]["tcp_pose"] float32 [7] (world, position then w, x, y, z). The WidowX: "3rd_view_camera", [8].

    Args:
        task: from :func:`envs.simpler.tasks.find_task`.
        assets: name of the asset set.
        obs_size: height and width, px.
        max_episode_steps: time limit; the task's own if None.
        **scene_kwargs: see :class:`envs.simpler.scene.SimplerScene` and its subclass for the task.
    """

    backend = "native"
    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 (gymnasium declares it so)

    def __init__(
        self,
        task: TaskSpec,
        *,
        assets: str,
        obs_size: tuple[int, int],
        max_episode_steps: int | None = None,
        **scene_kwargs: Any,
    ) -> None:
        self.task = task
        self.embodiment = EMBODIMENTS[task.robot]
        self.metadata = self.metadata | {"render_fps": self.embodiment.control_hz}
        self.render_mode = "rgb_array"
        self.max_episode_steps = max_episode_steps or task.max_episode_steps
        self.asset_set = assets
        self.scene = _build_scene(task, assets, obs_size, scene_kwargs)
        self.robot_uid = self.scene.agent.uid
        self.robot_uids = self.robot_uid
        self._elapsed_steps = 0
        self._last_obs: dict[str, Any] = _unbatched(self.scene.first_obs)
        action = self.embodiment.action
        low, high = np.array(action.low, dtype=np.float32), np.array(action.high, dtype=np.float32)
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self.observation_space = _space_of(self._last_obs)

    # -- gymnasium -----------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: of every draw; None continues upstream's chain.
            options: upstream's: ``obj_init_options`` (``init_xy``, ``init_rot_quat``, ``orientation``, ...),
                ``robot_init_options`` (replaced by the evaluation's own under ``prepackaged_config``), ``model_id``,
                ``reconfigure``.
        """
        super().reset(seed=seed)
        obs, info = self.scene.reset(seed=seed, options=options)
        self._elapsed_steps = 0
        self._last_obs = _unbatched(obs)
        return self._last_obs, info | {"backend": self.backend}

    def step(self, action: NDArray[np.floating[Any]]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Execute one action [7]; ``terminated`` is success, ``truncated`` the time limit.

        Raises:
            SpecError: wrong shape or absurdly large.
            NonFiniteError: not finite.
        """
        checked = checked_action(np.asarray(action), self.embodiment.action, magnitude_limit=ABSURD_MAGNITUDE)
        obs, reward, terminated, _, info = self.scene.step(checked)
        self._elapsed_steps += 1
        self._last_obs = _unbatched(obs)
        info = _plain(info) | {"elapsed_steps": self._elapsed_steps}
        return self._last_obs, float(reward), bool(terminated), self._elapsed_steps >= self.max_episode_steps, info

    def get_obs(self) -> dict[str, Any]:
        """Look again, without acting: after something was moved by hand."""
        self._last_obs = _unbatched(self.scene.get_obs())
        return self._last_obs

    def render(self) -> NDArray[np.uint8]:
        """The latest image of the policy's camera."""
        cameras = self._last_obs.get("image")
        if not cameras:
            raise ConfigError("render() needs an image, but this environment was made with render=False")
        image: NDArray[np.uint8] = next(iter(cameras.values()))["rgb"]
        return image

    def close(self) -> None:
        """Free the simulator."""
        self.scene.close()

    # -- upstream's additions ------------------------------------------------------------------------------------

    @property
    def elapsed_steps(self) -> int:
        """Actions since reset."""
        return self._elapsed_steps

    def get_language_instruction(self, **_: Any) -> str:
        """What the robot is asked to do now."""
        return self.scene.language_instruction()

    def is_final_subtask(self) -> bool:
        """Whether no stage follows."""
        return self.scene.is_final_subtask()

    def advance_to_next_subtask(self) -> None:
        """Begin the next stage (a policy's terminate signal); nothing where there is none."""
        self.scene.advance_to_next_subtask()

    def __getattr__(self, name: str) -> Any:
        """Upstream's callers also reach for the scene's own attributes (``agent``, ``obj``, ``episode_stats``)."""
        if name.startswith("_") or name == "scene":
            raise AttributeError(name)
        return getattr(self.scene, name)


def get_image_from_maniskill2_obs_dict(env: Any, obs: Mapping[str, Any], camera_name: str | None = None) -> NDArray[np.uint8]:
    """The image that upstream's policies are given.

    Args:
        env: the environment, wrapped or not.
        obs: its observation.
        camera_name: the robot's own policy camera if None.

    Returns:
        uint8 [H, W, 3].
    """
    if camera_name is None:
        robot = "google_robot" if "google_robot" in env.unwrapped.robot_uid else "widowx"
        camera_name = EMBODIMENTS[robot].camera.name
    image: NDArray[np.uint8] = obs["image"][camera_name]["rgb"]
    return image


def register() -> None:
    """Tell Gymnasium the public names: ``gymnasium.make("simpler/google_robot_pick_coke_can-v0", assets="upstream")``."""
    for name in ENVIRONMENTS:
        env_id = f"{NAMESPACE}/{name}-v0"
        if env_id not in gymnasium.registry:
            # The time limit is in the environment: upstream's info and our verdict depend on it.
            gymnasium.register(env_id, entry_point="envs.simpler.gym_env:make", kwargs={"name": name}, disable_env_checker=True)


def _build_scene(task: TaskSpec, assets: str, obs_size: tuple[int, int], kwargs: dict[str, Any]) -> SimplerScene:
    """Find the renderer, then import the simulator, then build: in that order."""
    if min(obs_size) < 8 or len(obs_size) != 2:
        raise ConfigError(f"obs_size={obs_size!r}; expected (height, width) of at least 8 px each")
    from envs.vulkan import ensure_renderer

    ensure_renderer()
    from envs.simpler.assets import load_asset_set
    from envs.simpler.drawer import DrawerScene
    from envs.simpler.move_near import MoveNearScene
    from envs.simpler.pick import PickScene
    from envs.simpler.place_in_drawer import PlaceInDrawerScene
    from envs.simpler.put_on import PutOnScene

    scenes: dict[str, Callable[..., SimplerScene]] = {
        "pick": PickScene,
        "pick_object": PickScene,
        "move_near": MoveNearScene,
        "drawer": DrawerScene,
        "place_in_drawer": PlaceInDrawerScene,
        "put_on": PutOnScene,
    }
    arguments = dict(task.kwargs) | kwargs
    try:
        return scenes[task.family](assets=load_asset_set(assets), obs_size=obs_size, **arguments)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise ConfigError(f"SIMPLER task {task.name!r}: {error}. See the arguments of envs.simpler.scene.SimplerScene") from error


def _unbatched(tree: Any) -> Any:
    """Nested torch with a leading 1 -> nested numpy without."""
    if isinstance(tree, Mapping):
        return {key: _unbatched(value) for key, value in tree.items()}
    return tree[0].numpy()


def _plain(info: Mapping[str, Any]) -> dict[str, Any]:
    """One-element tensors -> Python numbers; the rest as it is."""
    return {key: value.item() if hasattr(value, "item") else value for key, value in info.items()}


def _space_of(tree: Any) -> gymnasium.Space[Any]:
    if isinstance(tree, Mapping):
        return gymnasium.spaces.Dict({key: _space_of(value) for key, value in tree.items()})
    low, high = (0, 255) if tree.dtype == np.uint8 else (-np.inf, np.inf)
    if np.issubdtype(tree.dtype, np.integer) and tree.dtype != np.uint8:
        low, high = np.iinfo(tree.dtype).min, np.iinfo(tree.dtype).max
    return gymnasium.spaces.Box(low, high, shape=tree.shape, dtype=tree.dtype.type)


register()
