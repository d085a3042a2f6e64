"""The shipped tiny policy and its values at the demonstration's simulated robot: ``python -m console.demo_player FOLDER``.

Both were made in SIMPLER, for the very robot that is simulated; behind a supervisor it has other names, and 1 opens its gripper.
Episodes are recorded as on any robot. It moves nothing by itself: a person arms, homes, hands over, takes over, labels.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from actors.robot_runner import RobotRunner
from actors.robot_value import LiveAdvantage, LiveValue
from configs.build import load_policy, load_value_model, open_store
from configs.load import load_config
from configs.schema import ExperimentConfig
from console.demo_robots import READY
from core.command import port, run_command, whole
from core.experience import ActionChunk, EpisodeEnd, Observation
from core.specs import EnvSpec
from envs.real_config import RealEnvConfig
from envs.real_connect import open_real_env
from models.policy import ContinuingPolicy, Policy
from robot_drivers.json_lines import JsonLines
from robot_drivers.limits import Box, read_robot_config
from value_service.returns import step_rewards

_WEIGHTS = Path(__file__).parent.parent / "weights/simpler_google"
_GRIPPER = -1
_MARGIN_M = 0.025
"""As far as the arm was on its way when the policy looked: that comes on top of what it asks for."""


def to_simpler(observation: Observation) -> Observation:
    """The supervised robot's observation as SIMPLER's: the state's last entry says how closed the gripper is, not how open."""
    state = observation.state.copy()
    state[_GRIPPER] = 1 - state[_GRIPPER]
    return dataclasses.replace(observation, state=state)


def to_robot(chunk: ActionChunk, position_m: NDArray[np.float32], box: Box, *, num_committed: int = 0) -> ActionChunk:
    """SIMPLER's actions as the supervisor's, inside its box.

    SIMPLER's own arm follows late and sags, so that the policy asks for more height than it gets. Here it would get it, and press
    on the box's top for so long that the supervisor takes it for a policy with wrong units.

    Args:
        chunk: translations [m] and rotations [rad] in the base frame; the gripper's command, 1 closes and -1 opens.
        position_m: [3], where the tool was seen, base frame.
        box: what the supervisor allows.
        num_committed: so many of the actions are on their way already, and stay as they are.

    Returns:
        Translations shortened to end ``_MARGIN_M`` inside the box; the gripper's opening, 0..1.
    """
    actions = chunk.actions.copy()
    actions[:, _GRIPPER] = np.clip((1 - actions[:, _GRIPPER]) / 2, 0, 1)
    low_m, high_m = np.array(box.low_m) + _MARGIN_M, np.array(box.high_m) - _MARGIN_M
    end_m = position_m + actions[:num_committed, :3].sum(axis=0)
    for translation_m in actions[num_committed:, :3]:
        before_m, end_m = end_m, np.clip(end_m + translation_m, low_m, high_m)
        translation_m[:] = end_m - before_m
    return dataclasses.replace(chunk, actions=actions)


def from_robot(actions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Back from :func:`to_robot`: actions [..., 7] in SIMPLER's units."""
    translated = actions.copy()
    translated[..., _GRIPPER] = 1 - 2 * translated[..., _GRIPPER]
    return translated


class TranslatedPolicy:
    """A policy of SIMPLER's robot for the same one behind a supervisor; it acts, and is not trained.

    Consumes: the robot's Observations. Produces: ActionChunks in the supervisor's units.
    """

    def __init__(self, policy: Policy, env_spec: EnvSpec, box: Box) -> None:
        """``env_spec``: the robot's; ``box``: of its supervisor."""
        self.env_spec = env_spec
        self._box = box
        self.version = policy.version
        self._policy = policy

    def sample_actions(
        self, observations: Sequence[Observation], instructions: Sequence[str], generators: Sequence[torch.Generator]
    ) -> list[ActionChunk]:
        """See :meth:`models.policy.Policy.sample_actions`."""
        chunks = self._policy.sample_actions([to_simpler(one) for one in observations], instructions, generators)
        return [to_robot(chunk, one.state[:3], self._box) for chunk, one in zip(chunks, observations, strict=True)]

    def continue_actions(
        self,
        observations: Sequence[Observation],
        instructions: Sequence[str],
        generators: Sequence[torch.Generator],
        committed: Sequence[NDArray[np.float32]],
    ) -> list[ActionChunk]:
        """See :meth:`models.policy.ContinuingPolicy.continue_actions`; committed actions are in the robot's units."""
        assert isinstance(self._policy, ContinuingPolicy)
        translated = [to_simpler(one) for one in observations]
        begun = [from_robot(actions) for actions in committed]
        chunks = self._policy.continue_actions(translated, instructions, generators, begun)
        return [
            to_robot(chunk, one.state[:3], self._box, num_committed=len(actions))
            for chunk, one, actions in zip(chunks, observations, committed, strict=True)
        ]


def _live_value(config: ExperimentConfig, task: str) -> LiveAdvantage:
    reward = step_rewards(1, EpisodeEnd.SUCCESS, config.labeler.returns, task=task)[0]
    model = load_value_model(_WEIGHTS / "value")
    control_hz = model.env_spec.action.control_hz
    lookahead_s = config.labeler.advantage.lookahead_s
    return LiveAdvantage(model, lookahead_s=lookahead_s, control_hz=control_hz, step_cost=-float(reward), threshold=None)


def play(folder: Path, *, task: str, simulation_port: int, image_px: tuple[int, int]) -> None:
    """Episodes, one after the other, until interrupted; after each the simulation lays its objects out anew.

    Args:
        folder: of the demonstration: socket, tokens, limits and cameras; the replay store goes there.
        task: SIMPLER's name.
        simulation_port: of the simulated arm's controller.
        image_px: height and width of the shared frames.

    Raises:
        RecapError: if the supervisor or the simulation ends.
    """
    config = load_config(family="simpler_google")
    simulation = JsonLines("127.0.0.1", simulation_port, timeout_s=60.0, on_message=lambda _: None)
    simulation.start()
    robot = RealEnvConfig(
        name="simulated",
        socket=str(folder / "arm.sock"),
        tokens=str(folder / "arm.tokens"),
        cameras=(f"overhead_camera=shared:{folder / 'cameras'}@{image_px[1]}x{image_px[0]}",),
        instruction=str(simulation.ask({"command": "describe"}, "describe")["instruction"]),
    )
    box = read_robot_config(folder / "robot.yaml").arms[0].limits.box
    policy = load_policy(_WEIGHTS / "policy")
    camera = policy.env_spec.cameras[0]
    env = open_real_env(robot, task=task, image_height_px=camera.height_px, image_width_px=camera.width_px)
    values = _live_value(config, task)

    def value_of(observation: Observation, instruction: str) -> LiveValue:
        return values(to_simpler(observation), instruction)

    runner = RobotRunner(
        env,
        replan_steps=config.rollout.replan_steps,
        load_policy=lambda path: cast(Policy, TranslatedPolicy(load_policy(path), env.env_spec, box)),
        value_of=value_of,
        run="robot demo",
        worker="robot demo",
    )
    try:
        store = open_store(config, folder / "replay", "robot_demo")
        runner.load_policy(_WEIGHTS / "policy")
        print(f"the policy {READY}", flush=True)
        for seed in itertools.count(1):
            episode = runner.run_episode(seed)
            store.append(episode)
            print(f"{episode.episode_id}: {episode.end.value}, {episode.num_steps} steps", flush=True)
            simulation.ask({"command": "rearrange", "seed": seed}, "rearrange")
    finally:
        runner.close()
        simulation.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m console.demo_player", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of the demonstration")
    parser.add_argument("--task", required=True)
    parser.add_argument("--simulation-port", type=port, required=True)
    parser.add_argument("--image-px", type=whole(1), nargs=2, required=True, metavar=("HEIGHT", "WIDTH"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    torch.set_num_threads(1)  # beside physics, rendering and a supervisor that must be in time

    def command() -> None:
        height, width = options.image_px
        play(options.folder, task=options.task, simulation_port=options.simulation_port, image_px=(height, width))

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
