"""The original ``simpler_env`` as a backend: the same interface, played by another interpreter.

Hop 1 of the tour, where one wants upstream's own simulator (SAPIEN 2 and its pins do not fit into our environment)::

    env = simpler.make("google_robot_pick_coke_can", backend="upstream", python=interpreter)

A child process runs :mod:`envs.simpler.upstream_child` there. Requests and replies are small JSON lines over pipes, arrays go
through memory-mapped files, nothing is pickled. The backend is named in every reset's info.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import cv2
import gymnasium
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from core.errors import ConfigError, WorkerError
from core.experience import Observation
from envs.simpler.embodiment import EMBODIMENTS
from envs.simpler.task_env import simpler_env_spec
from envs.simpler.tasks import TaskSpec, find_task
from envs.simpler.upstream_child import ArrayFile
from envs.task_env import checked_action

BACKEND = "upstream"
_CHILD = Path(__file__).with_name("upstream_child.py")
_CLOSING_S = 5.0
_TAIL_CHARACTERS = 1500
_FINGERS = {"google_robot": ([7, 8], 0.0, 1.3), "widowx": ([6, 7], 0.037, 0.015)}
"""Their places in upstream's joint order, and where they are open and closed (rad; m)."""
_FORGOTTEN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")  # they describe this interpreter, not the other


class UpstreamProcess:
    """The child: starts it, asks it, notices when it is gone.

    Args:
        python: the interpreter that has ``simpler_env``.
        timeout_s: how long an answer may take. Making an environment is the slowest.

    Raises:
        ConfigError: there is no such interpreter.
    """

    def __init__(self, python: str | Path, *, timeout_s: float) -> None:
        interpreter = shutil.which(str(python))
        if interpreter is None:
            raise ConfigError(f"python={str(python)!r} is not an executable file; name the interpreter that has simpler_env")
        self.interpreter = interpreter
        self._timeout_s = timeout_s
        memory = Path("/dev/shm")
        self._folder = tempfile.TemporaryDirectory(prefix="simpler-", dir=memory if os.access(memory, os.W_OK) else None)
        paths = [os.path.join(self._folder.name, name) for name in ("requests", "results")]  # noqa: PTH118
        for path in paths:
            Path(path).touch()
        self._requests, self._results = (ArrayFile(path) for path in paths)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            [interpreter, str(_CHILD), *paths],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={key: value for key, value in os.environ.items() if key not in _FORGOTTEN},
        )
        self._unread = b""
        self._end = weakref.finalize(self, _finish, self._process, self._errors, self._folder)

    def call(self, name: str, *arguments: Any) -> Any:
        """Ask, and wait for the answer.

        Args:
            name: a method of the child's server.
            *arguments: nested dicts, lists and arrays.

        Raises:
            WorkerError: the child is gone or silent (it is then ended), or the original raised an error.
        """
        request = {"call": name, "arguments": self._requests.pack(list(arguments))}
        deadline = time.monotonic() + self._timeout_s
        try:
            stream = _open(self._process.stdin)
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
        except (OSError, ValueError):
            raise self._gone(name) from None
        reply = json.loads(self._read_line(name, deadline))
        if "error" in reply:
            raise WorkerError(f"upstream's {name} raised {reply['error']}: {reply['message']}")
        return self._results.unpack(reply["result"])

    def close(self) -> None:
        """End the child: politely, then by force."""
        if self._process.poll() is None:
            self._timeout_s = _CLOSING_S
            with contextlib.suppress(WorkerError):  # it ends either way
                self.call("close")
        self._end()

    @property
    def is_running(self) -> bool:
        """Whether the child is there to answer."""
        return self._process.poll() is None

    def _read_line(self, name: str, deadline: float) -> bytes:
        stream = _open(self._process.stdout)
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    last_words = self._last_words()
                    self._end()
                    raise WorkerError(
                        f"upstream's {name} gave no answer within {self._timeout_s:g} s; its process was ended. "
                        f"Pass a larger timeout_s if it is only slow.{last_words}"
                    )
                read = os.read(stream.fileno(), 1 << 16)
                if not read:
                    raise self._gone(name)
                self._unread += read
        line, self._unread = self._unread.split(b"\n", 1)
        return line

    def _gone(self, name: str) -> WorkerError:
        if not self._end.alive:
            return WorkerError(f"upstream's process has ended; {name} cannot be asked of it. Make the environment anew")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSING_S)
        last_words, status = self._last_words(), self._process.returncode
        self._end()
        return WorkerError(f"upstream's process ({self.interpreter}) died during {name}, exit status {status}.{last_words}")

    def _last_words(self) -> str:
        """What it last wrote to its error stream."""
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace").strip()
        return f" It last said: {text[-_TAIL_CHARACTERS:]}" if text else ""


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _finish(process: subprocess.Popen[bytes], errors: IO[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, errors):
        with contextlib.suppress(OSError):  # what was not written is no longer wanted
            _open(stream).close()
    folder.cleanup()


class UpstreamGymEnv(gymnasium.Env[dict[str, Any], NDArray[np.float32]]):
    """One task, played by the original; the interface is that of :class:`envs.simpler.gym_env.SimplerGymEnv`.

    What upstream returns is handed on as it is (its poses as [7] arrays), with ``backend`` and ``backend_versions`` added to
    the info of a reset.

    Args:
        task: from :data:`envs.simpler.tasks.TASKS`.
        python: the interpreter that has ``simpler_env``.
        timeout_s: how long one answer may take.
        **arguments: for upstream's own ``simpler_env.make``.

    Raises:
        ConfigError: there is no such interpreter, or it cannot import ``simpler_env``.
        WorkerError: it failed otherwise.
    """

    backend = BACKEND
    asset_set = "upstream"

    def __init__(self, task: TaskSpec, *, python: str | Path, timeout_s: float = 300.0, **arguments: Any) -> None:
        self.task = task
        self.embodiment = EMBODIMENTS[task.robot]
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": self.embodiment.control_hz}
        self.render_mode = "rgb_array"
        self.max_episode_steps = task.max_episode_steps
        self._process = UpstreamProcess(python, timeout_s=timeout_s)
        try:
            made = self._process.call("make", task.name, arguments)
        except WorkerError as error:
            self._process.close()
            if "ImportError" in str(error) or "ModuleNotFoundError" in str(error):
                raise ConfigError(f"{python} cannot run simpler_env: {error}") from None
            raise
        self.robot_uid = made["robot_uid"]
        self.robot_uids = self.robot_uid
        self.versions: Mapping[str, str] = made["versions"]
        low, high = (np.asarray(made[key], dtype=np.float32) for key in ("action_low", "action_high"))
        self.action_space = gymnasium.spaces.Box(low, high, dtype=np.float32)
        self._elapsed_steps = 0
        self._last_obs: dict[str, Any] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin an episode; ``options`` are upstream's."""
        super().reset(seed=seed)
        given = {"seed": seed, "options": options}
        self._last_obs, info = self._process.call("reset", {key: value for key, value in given.items() if value is not None})
        self._elapsed_steps = 0
        return self._last_obs, {**info, "backend": self.backend, "backend_versions": dict(self.versions)}

    def step(self, action: NDArray[np.floating[Any]]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Execute one action [7]; ``terminated`` is success, ``truncated`` the time limit.

        Raises:
            SpecError: wrong shape or absurdly large.
            NonFiniteError: not finite.
        """
        from envs.simpler.gym_env import ABSURD_MAGNITUDE

        checked = checked_action(np.asarray(action), self.embodiment.action, magnitude_limit=ABSURD_MAGNITUDE)
        self._last_obs, reward, terminated, truncated, info = self._process.call("step", checked)
        self._elapsed_steps += 1
        info.setdefault("elapsed_steps", self._elapsed_steps)
        return self._last_obs, float(reward), bool(terminated), bool(truncated), info

    def render(self) -> NDArray[np.uint8]:
        """The latest image of the policy's camera."""
        image: NDArray[np.uint8] = self._last_obs["image"][self.embodiment.camera.name]["rgb"]
        return image

    def close(self) -> None:
        """End the child process."""
        self._process.close()

    @property
    def elapsed_steps(self) -> int:
        """Actions since reset."""
        return self._elapsed_steps

    def get_language_instruction(self, **_: Any) -> str:
        """What the robot is asked to do now."""
        return str(self._process.call("get_language_instruction"))

    def is_final_subtask(self) -> bool:
        """Whether no stage follows."""
        return bool(self._process.call("is_final_subtask"))

    def advance_to_next_subtask(self) -> None:
        """Begin the next stage."""
        self._process.call("advance_to_next_subtask")


def make(name: str, *, python: str | Path | None = None, **arguments: Any) -> UpstreamGymEnv:
    """What ``envs.simpler.make(name, backend="upstream", ...)`` calls; see :class:`UpstreamGymEnv`.

    Raises:
        ConfigError: unknown name, no interpreter given.
    """
    task = find_task(name)
    if python is None:
        raise ConfigError('backend="upstream" needs python=PATH, the interpreter in which simpler_env is installed')
    return UpstreamGymEnv(task, python=python, **arguments)


class UpstreamTaskEnv:
    """The original for this project's actors; implements :class:`envs.task_env.TaskEnv` as ``SimplerTaskEnv`` does.

    Upstream renders one size only, so the image is scaled here; a policy sees nearly, not exactly, what the native
    environment renders at that size. There are no privileged poses: scripted experts need the native backend.

    Args:
        task: a public SIMPLER name.
        python: the interpreter that has ``simpler_env``.
        image_height_px: of the camera's image.
        image_width_px: of the camera's image.
        **arguments: see :class:`UpstreamGymEnv`.
    """

    backend = BACKEND
    asset_set = "upstream"

    def __init__(
        self, task: str, *, python: str | Path, image_height_px: int = 128, image_width_px: int = 160, **arguments: Any
    ) -> None:
        self.task = task
        self.env_spec = simpler_env_spec(task, (image_height_px, image_width_px))
        self.gym_env = make(task, python=python, **arguments)
        self.family = self.gym_env.embodiment.family
        self.time_limit_steps = self.gym_env.max_episode_steps

    @property
    def instruction(self) -> str:
        """What the robot is asked to do in the present stage."""
        return self.gym_env.get_language_instruction()

    def reset(self, *, seed: int, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode."""
        obs, info = self.gym_env.reset(seed=seed, options=options)
        return self._observation(obs), info | {"success": False}

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Execute one action [7]."""
        obs, reward, terminated, truncated, info = self.gym_env.step(action)
        info["judged_failure"] = truncated and not terminated
        return self._observation(obs), reward, terminated, truncated, info

    def close(self) -> None:
        """End the child process."""
        self.gym_env.close()

    def _observation(self, obs: dict[str, Any]) -> Observation:
        (camera,) = self.env_spec.cameras
        image = obs["image"][camera.name]["rgb"]
        scaled = cv2.resize(image, (camera.width_px, camera.height_px), interpolation=cv2.INTER_AREA).astype(np.uint8)
        state = np.append(_relative(obs["agent"]["base_pose"], obs["extra"]["tcp_pose"]), self._closedness(obs["agent"]["qpos"]))
        time_s = self.gym_env.elapsed_steps / self.env_spec.action.control_hz
        return Observation(images={camera.name: scaled}, state=state.astype(np.float32), time_s=time_s)

    def _closedness(self, qpos: NDArray[np.floating[Any]]) -> float:
        """0 open .. 1 closed, from the fingers in upstream's joint order."""
        fingers, opened, closed = _FINGERS[self.gym_env.embodiment.name]
        share = (float(np.mean(qpos[fingers])) - opened) / (closed - opened)
        return float(np.clip(share, 0.0, 1.0))


def _relative(base: NDArray[np.floating[Any]], pose: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """A world pose [7] (position, then w, x, y, z) in the frame of another."""
    turn = Rotation.from_quat(base[[4, 5, 6, 3]]).inv()
    x, y, z, w = (turn * Rotation.from_quat(pose[[4, 5, 6, 3]])).as_quat()
    return np.array([*turn.apply(pose[:3] - base[:3]), w, x, y, z])
