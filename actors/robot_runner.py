"""Runs episodes on a real robot: plays a policy's chunks, or nobody's, and records what the supervisor executed.

Hop 3 of the tour on a real robot: a person hands over -> Episode. It implements ``cluster.rollout_host.EpisodeRunner``, so the
pools and the loop of RECAP take it as they take a worker in simulation. Differs from ``actors.rollout_worker`` in that nothing
waits for the policy: it computes while the robot moves, and what comes late is dropped.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.chunk_stream import ChunkStream
from actors.robot_recording import acted, episode_of
from actors.robot_value import ValueOf
from core.errors import WorkerError
from core.experience import Collection, Episode, Observation, Provenance
from core.ids import new_episode_id
from models.policy import Policy

_log = logging.getLogger(__name__)
_POLL_S = 0.005
_MAX_NAME = 80
"""Of a checkpoint, in the supervisor's protocol."""
_MOTION_UNITS = ("m", "rad")


class RobotRunner:
    """One episode after another on one robot.

    Consumes: policies between episodes. Produces: Episodes. Waits for: a person, before every episode; never the policy.
    Invariant: it moves nothing by itself: after a hold, a stop, a fault or its own death the robot waits for a person.
    """

    def __init__(
        self,
        env: Any,
        *,
        replan_steps: int,
        load_policy: Callable[[Path], Policy],
        value_of: ValueOf | None = None,
        run: str = "",
        worker: str = "",
        software_version: str = "unknown",
        executor: Executor | None = None,
    ) -> None:
        """Take ownership of an environment.

        Args:
            env: an ``envs.real.RealEnv``.
            replan_steps: actions played of each chunk before the next takes over.
            load_policy: builds a policy from a checkpoint directory.
            value_of: what the console is shown beside the policy; None: nothing.
            run: recorded in every episode.
            worker: recorded in every episode.
            software_version: recorded in every episode.
            executor: where policy and value compute; default: one thread.
        """
        self._env = env
        self._replan_steps = replan_steps
        self._load_policy = load_policy
        self._value_of = value_of
        self._provenance = {"run": run, "worker": worker, "software_version": software_version}
        self._executor = executor or ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._told: Future[None] | None = None
        """The last value that was asked for."""
        self._policy: Policy | None = None
        self._checkpoint = ""
        self._speed_fraction = 1.0
        is_motion = [unit in _MOTION_UNITS for unit in env.env_spec.action.units]
        self._is_motion: NDArray[np.bool_] = np.array(is_motion)
        self._is_playing = False

    @property
    def env(self) -> Any:
        """The robot's environment."""
        return self._env

    def load_policy(self, path: Path) -> None:
        """Use a checkpoint for the episodes from now on.

        Raises:
            WorkerError: in the middle of an episode.
            CheckpointError, SpecError: if it cannot be read, or was made for another robot.
        """
        self._require_pause(str(path))
        self._policy = None  # before loading: never two in memory
        self.use_policy(self._load_policy(path), checkpoint=str(path))

    def use_policy(self, policy: Policy, *, checkpoint: str, speed_fraction: float = 1.0) -> None:
        """Use a policy that is loaded (by ``checkpoints.agent``, which has warmed it up) for the episodes from now on.

        Args:
            policy: made for this robot.
            checkpoint: its name, for the supervisor, the console and the record; its last 80 characters are kept.
            speed_fraction: of full speed, for a canary: translations and rotations of every action are scaled by it.

        Raises:
            WorkerError: in the middle of an episode.
        """
        self._require_pause(checkpoint)
        self._policy, self._checkpoint, self._speed_fraction = policy, checkpoint[-_MAX_NAME:], speed_fraction

    def run_episode(
        self, seed: int, *, collection: Collection = Collection.ROLLOUT, options: dict[str, Any] | None = None
    ) -> Episode:
        """Record one episode; if nobody acted in it, wait for the next.

        Args:
            seed: of the policy's noise, recorded; a person sets the scene.
            collection: a demonstration is a person's from beginning to end; anything else needs a policy.
            options: recorded in the annotations.

        Raises:
            WorkerError: if a policy is needed and none is loaded.
            ProtocolError: if the supervisor is gone.
        """
        is_demonstration = collection is Collection.DEMONSTRATION
        policy = None if is_demonstration else self._policy
        if policy is None and not is_demonstration:
            raise WorkerError(f"no policy was loaded, but a {collection.value} is asked for; load one, or record demonstrations")
        self._is_playing = True
        try:
            while True:
                episode = self._play(policy, seed, collection, options)
                if episode is not None:
                    return episode
        except Exception:
            self._env.end_at_supervisor()
            raise
        finally:
            self._is_playing = False

    def close(self) -> None:
        """Let go of the robot: if it moves, its supervisor holds it."""
        self._env.close()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _require_pause(self, checkpoint: str) -> None:
        if self._is_playing:
            raise WorkerError(f"cannot load {checkpoint}: on a robot, policies change only between episodes")

    def _play(self, policy: Policy | None, seed: int, collection: Collection, options: dict[str, Any] | None) -> Episode | None:
        env, clock = self._env, self._env.clock
        episode_id = new_episode_id()
        checkpoint = self._checkpoint if policy is not None else ""
        env.reset(seed=seed, options={"episode_id": episode_id, "checkpoint": checkpoint})
        anchor = {"unix_s": time.time(), "monotonic_s": clock.monotonic_s()}
        stream = None
        if policy is not None:
            stream = ChunkStream(
                policy,
                control_hz=env.env_spec.action.control_hz,
                replan_steps=self._replan_steps,
                executor=self._executor,
                seed=seed,
            )
        generation = -1
        while env.ending() is None:
            if stream is not None:
                if env.generation != generation:
                    stream.forget()
                    generation = env.generation
                self._advance(stream, checkpoint)
            clock.sleep_s(_POLL_S)
        end = env.finish()
        recorded = acted(env.recorded())
        if not recorded:
            return None
        label = env.label
        annotations = {
            "succeeded_once": end.value == "success",
            "first_success_step": len(recorded) - 1 if end.value == "success" else -1,
            "robot": env.welcome.robot,
            "checkpoint": checkpoint,
            "speed_fraction": self._speed_fraction if policy is not None else None,
            "supervisor_episode_id": episode_id,
            "wall_clock": anchor,
            "num_late_actions": stream.num_late if stream is not None else 0,
            "label": None if label is None else {"label": label.label.value, "operator": label.operator, "tag": label.tag},
            **({"options": options} if options else {}),
        }
        return episode_of(
            env.first,
            recorded,
            spec=env.env_spec,
            instruction=env.instruction,
            end=end,
            provenance=Provenance(
                env=env.family,
                task=env.task,
                seed=seed,
                collection=collection,
                asset_set=env.asset_set,
                annotations=annotations,
                **self._provenance,
            ),
            policy_version=-1 if policy is None else policy.version,
            checkpoint=checkpoint,
            limits_digest=env.welcome.limits_digest,
        )

    def _advance(self, stream: ChunkStream, checkpoint: str) -> None:
        env = self._env
        proposal = stream.advance(env.clock.monotonic_s, env.look, env.instruction)
        if proposal is None:
            return
        refused = env.propose(
            proposal.look,
            np.where(self._is_motion, proposal.actions * self._speed_fraction, proposal.actions).astype(np.float32),
            policy_version=proposal.policy_version,
            checkpoint=checkpoint,
            start_s=proposal.start_s,
        )
        if refused:
            stream.forget()
        elif self._value_of is not None and (self._told is None or self._told.done()):  # else a slow one would hold up the policy
            self._told = self._executor.submit(self._tell_value, proposal.look.observation)

    def _tell_value(self, observation: Observation) -> None:
        assert self._value_of is not None
        try:
            live = self._value_of(observation, self._env.instruction)
        except Exception:  # the robot does not depend on it
            _log.exception("no value for the console")
            return
        self._env.report_value(live.value, advantage=live.advantage, threshold=live.threshold)
