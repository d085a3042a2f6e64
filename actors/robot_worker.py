"""The robot's worker as a command: records demonstrations without a policy, or plays one, or whatever its channel promotes.

Hops 1 to 4 and 10 of the tour on a real robot. It moves nothing by itself: a person arms, hands over, takes over, labels, at the
console. It may be killed and started again at any time; the supervisor holds the robot, and goes on only when a person says so.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from actors.collection import CommittedEpisodes, episode_seeds
from actors.robot_promoted import PromotedEpisodes
from actors.robot_runner import RobotRunner
from checkpoints.agent import AgentConfig
from checkpoints.promotion import Promotion
from configs.build import load_policy, make_robot_runner, open_store
from configs.command_line import make_parser
from configs.conventions import conventions_of
from configs.load import load_config
from configs.schema import ExperimentConfig
from core.command import positive, run_command, whole
from core.errors import ConfigError
from core.experience import Collection, Episode

_SEEDS_AT_ONCE = 256


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    def command() -> None:
        given = [f"--{name}" for name in ("demonstrations", "checkpoint", "agent") if getattr(options, name)]
        if len(given) != 1:
            raise ConfigError(f"expected one of --demonstrations, --checkpoint DIR, --agent STORE; got {given or 'none of them'}")
        if options.public_key and not options.agent:
            raise ConfigError(
                "--public-key goes with --agent STORE: a checkpoint that is named by its folder is not asked for a signature"
            )
        if options.agent and not (options.cache and options.max_latency_s):
            raise ConfigError("--agent STORE needs --cache DIR, on the robot's own disk, and --max-latency-s SECONDS")
        _record(load_config(options.config, options.overrides, family="robot"), options)

    return run_command(command)


def _record(config: ExperimentConfig, options: argparse.Namespace) -> None:
    """Episodes, one after the other, each committed before the next begins."""
    name = f"{config.env.robot.name}-{uuid.uuid4().hex[:8]}"
    runner = make_robot_runner(config, options.run, name)
    try:
        store, promoted = open_store(config, Path(options.store), name), None
        if options.checkpoint:
            runner.load_policy(Path(options.checkpoint))
        elif options.agent:
            promoted = _promoted(runner, config, options)
        collection = Collection.DEMONSTRATION if options.demonstrations else Collection.ROLLOUT
        for seed in itertools.islice(seeds_to_play(store, collection, config.seed), options.episodes):

            def play(seed: int = seed) -> Episode:
                return runner.run_episode(seed, collection=collection)

            episode = promoted.play(play) if promoted else play()
            store.append(episode)
            print(_line(episode), flush=True)
    finally:
        runner.close()


def seeds_to_play(store: CommittedEpisodes, collection: Collection, run_seed: int) -> Iterator[int]:
    """Seeds of episodes that a store lacks, in their order: a worker that is started again goes on where it stopped.

    They are those that ``learners.pretrain`` looks for, which so takes demonstrations of a robot as it takes scripted ones.

    Args:
        store: where the episodes are committed.
        collection: of the episodes.
        run_seed: of the experiment.
    """
    infos = (store.info(episode_id) for episode_id in store.episode_ids())
    have = {info.provenance.seed for info in infos if info.provenance.collection is collection}
    tried, count = 0, len(have) + _SEEDS_AT_ONCE
    while True:
        yield from (seed for seed in episode_seeds(run_seed, 0, count)[tried:] if seed not in have)
        tried, count = count, count + _SEEDS_AT_ONCE


def _promoted(runner: RobotRunner, config: ExperimentConfig, options: argparse.Namespace) -> PromotedEpisodes:
    return PromotedEpisodes(
        runner,
        Promotion.open(Path(options.agent)),
        AgentConfig(
            robot=config.env.robot.name,
            cache=Path(options.cache),
            max_latency_s=options.max_latency_s,
            public_key=Path(options.public_key) if options.public_key else None,
        ),
        conventions=conventions_of(config.env.family),
        load=load_policy,
    )


def _line(episode: Episode) -> str:
    corrected = int((episode.intervention_id >= 0).sum())
    return (
        f"{episode.episode_id}  {episode.end.value:<13} {episode.num_steps:>4} steps, {corrected} of them an intervention's  "
        f"{episode.provenance.annotations['checkpoint'] or 'no policy'}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "actors.robot_worker",
        """
        Record episodes on a robot whose supervisor runs on this host (docs/robot_worker.md): demonstrations, which a person
        drives from beginning to end; a policy's episodes, with a person's corrections; or those of whatever checkpoint is
        promoted to the robot. A person at the console arms, hands over, takes over and labels; nothing moves without.

        examples:
          python -m actors.robot_worker robot=fake env.robot.cameras=[front=simulated] --demonstrations --store runs/d/replay
          python -m actors.robot_worker --config my_robot.yaml --checkpoint runs/recap/policies/001 --store runs/d/replay
          python -m actors.robot_worker --config my_robot.yaml --agent runs/checkpoint_store --cache /var/lib/robot \\
            --max-latency-s 0.4 --store runs/d/replay
        """,
        ["seed", "env", "rollout", "store"],
    )
    parser.add_argument("--store", metavar="DIR", required=True, help="the replay store that episodes are committed to")
    parser.add_argument("--run", metavar="NAME", default="robot", help="recorded in every episode (default: robot)")
    parser.add_argument("--episodes", type=whole(1), metavar="N", help="how many (default: until interrupted)")
    parser.add_argument("--demonstrations", action="store_true", help="no policy: a person drives")
    parser.add_argument("--checkpoint", metavar="DIR", help="a policy that plays all episodes")
    parser.add_argument("--agent", metavar="STORE", help="a store of checkpoints: the channel robot:NAME says what plays")
    parser.add_argument("--cache", metavar="DIR", help="with --agent: on the robot's own disk")
    parser.add_argument("--max-latency-s", type=positive, metavar="S", help="with --agent: the slowest inference accepted")
    parser.add_argument("--public-key", metavar="PEM", help="with --agent: of whoever signs; anything else is refused")
    return parser


if __name__ == "__main__":
    sys.exit(main())
