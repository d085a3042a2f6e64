"""A bench in milliseconds: a square that crosses a picture, an expert that hesitates, backs off or stops short when told to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from core.experience import Observation
from core.specs import ActionSpec, CameraSpec, EnvSpec, StateSpec
from envs.simpler.expert_quality import ExpertConfig, draw_behaviour
from envs.task_env import ExpertAction
from value_service.bench.generate import Stage
from value_service.bench.plan import TaskPlan

SPEC = EnvSpec(
    cameras=(CameraSpec(name="camera", height_px=32, width_px=32),),
    state=StateSpec(names=("x",), units=("m",)),
    action=ActionSpec(names=("dx",), units=("m",), low=(-1.0,), high=(1.0,), control_hz=5.0),
)


class LineEnv:
    """The hand goes from 0 to 1; a TaskEnv."""

    asset_set = "none"
    instruction = "cross the picture"
    env_spec = SPEC

    def __init__(self, plan: TaskPlan) -> None:
        self.family, self.task = plan.robot, plan.task
        self.x, self._steps = 0.0, 0

    def reset(self, *, seed: int, options: dict[str, Any] | None = None) -> Any:
        self.x, self._steps = float(np.random.default_rng(seed).uniform(0, 0.1)), 0
        return self._observation(), {"success": False}

    def step(self, action: np.ndarray) -> Any:
        self.x += float(action[0])
        self._steps += 1
        success, is_late = self.x >= 1, self._steps >= 60
        info = {"success": success, "judged_failure": is_late and not success}
        return self._observation(), float(success), success, is_late, info

    def close(self) -> None:
        pass

    def _observation(self) -> Observation:
        image = np.full((32, 32, 3), 40, np.uint8)
        left = int(np.clip(24 * self.x, 0, 24))
        image[12:20, left : left + 8] = (220, 60, 50)
        return Observation(images={"camera": image}, state=np.array([self.x], np.float32), time_s=self._steps / 5)


class LineExpert:
    """Approaches to 0.7 and lifts from there on; annotates as envs.simpler.expert_base does."""

    def __init__(self, flaws: ExpertConfig, rng: np.random.Generator) -> None:
        self._drawn = draw_behaviour(flaws, rng)
        self._intervals: list[dict[str, Any]] = []
        self._step = 0

    def reset(self, env: Any) -> None:
        self._env = env

    def act(self) -> ExpertAction:
        drawn, flaw = self._drawn, self._flaw()
        move, phase = 0.06, "approach" if self._env.x < 0.7 else "lift"
        if flaw is not None:
            move, phase = (0.0 if flaw == "hesitation" else -0.06), flaw
        elif drawn.aim_errors_m[0] > 0 and self._env.x > 0.8:
            move, phase = 0.0, "rest"
        self._step += 1
        action = np.array([move], np.float32)
        return ExpertAction(executed=action, intended=action, phase=phase)

    def _flaw(self) -> str | None:
        drawn = self._drawn
        if not self._intervals and drawn.hesitation is not None and self._step == 5:
            self._intervals.append({"kind": "hesitation", "m": 5, "n": 5 + drawn.hesitation[1]})
        if not self._intervals and drawn.retry is not None and self._step == 6:
            self._intervals.append({"kind": "retry", "m": 6, "n": 6 + drawn.retry[1]})
        is_flawed = bool(self._intervals) and self._step < self._intervals[0]["n"]
        return self._intervals[0]["kind"] if is_flawed else None

    def annotations(self) -> Mapping[str, Any]:
        return {"intervals": self._intervals}


def line_stage() -> Stage:
    return Stage(make_env=LineEnv, make_expert=lambda plan, flaws, rng: LineExpert(flaws, rng))


LINE_PLAN = (
    TaskPlan(robot="line", task="cross", expert=4, hesitation=2, retry=2, failure=2),
    TaskPlan(robot="line", task="cross_again", expert=1, hesitation=1, retry=1, failure=1, is_held_out=True),
)
