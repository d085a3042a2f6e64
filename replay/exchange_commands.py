"""``python -m replay export|import``: the command line of data that comes from, or goes to, other programs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from core.command import whole
from core.errors import ConfigError
from core.experience import Collection, Episode, EpisodeEnd, Source
from core.ids import EpisodeId
from core.labels import Labels
from core.specs import EnvSpec
from replay.episode_store import EpisodeStore, EpisodeStoreConfig, ImageEncoding
from replay.label_store import LabelStore
from replay.lerobot_export import LeRobotExportConfig, export_lerobot
from replay.lerobot_format import LeRobotVersion
from replay.lerobot_import import LeRobotDataSet, LeRobotImportConfig
from replay.mcap_export import export_mcap
from replay.progress import episode_progress
from replay.rerun_export import export_rerun
from replay.rlds_import import RldsImportConfig, read_rlds
from replay.store_command import add_store_command
from replay.upkeep_commands import LABELS_FOLDER
from replay.video_file import VideoCodec

_DATA_SETS = {"lerobot": LeRobotVersion.V30, "lerobot-v2.1": LeRobotVersion.V21}
_ONE_EPISODE: dict[str, Callable[[Path, Episode, Labels | None], None]] = {"mcap": export_mcap, "rerun": export_rerun}


def add_exchange_commands(commands: Any) -> None:
    """Add the parsers; each sets ``run``."""
    export = add_store_command(commands, "export", _export, help="write a LeRobot data set, or an episode for MCAP or Rerun")
    export.add_argument("target", type=Path, metavar="TARGET", help="the folder or file to write; must not exist")
    export.add_argument("--format", choices=[*_DATA_SETS, *_ONE_EPISODE], default="lerobot", help="default: lerobot (v3.0)")
    export.add_argument("--episode", action="append", default=[], metavar="ID", help="only this one, by the beginning of its id")
    export.add_argument("--task", help="only episodes of this task")
    export.add_argument("--collection", choices=[c.value for c in Collection], help="only episodes made for this")
    export.add_argument("--codec", choices=[c.value for c in VideoCodec], default="h264", help="of the videos (default: h264)")
    export.add_argument("--robot-type", help="what info.json says of the robot")
    export.add_argument("--value-version", type=whole(0), metavar="V", help="write labels of this value version too")
    export.add_argument("--labels", type=Path, help="the label store (default: STORE/labels)")
    bring = add_store_command(
        commands,
        "import",
        _import,
        help="add a LeRobot or RLDS data set to a store",
        needs_store=False,
    )
    bring.add_argument("source", type=Path, metavar="SOURCE", help="the data set's folder")
    bring.add_argument("--format", choices=["lerobot", "rlds"], default="lerobot", help="default: lerobot (v3.0 or v2.1)")
    bring.add_argument("--env-spec", type=Path, metavar="JSON", help="units and limits: a file as EnvSpec.to_json makes it")
    bring.add_argument("--env", help="environment family of the provenance (default: the format)")
    bring.add_argument("--task", default="", help="task of the provenance (default: from the data set)")
    bring.add_argument("--collection", choices=[c.value for c in Collection], default=Collection.DEMONSTRATION.value)
    bring.add_argument("--source-of-actions", choices=[s.name.lower() for s in Source], default="human", help="default: human")
    bring.add_argument("--end", choices=[e.value for e in EpisodeEnd], default="success", help="where the data does not say")
    bring.add_argument("--image-encoding", choices=[e.value for e in ImageEncoding], default="jpeg", help="default: jpeg")
    bring.add_argument("--writer", default="imported", help="writer name in the store (default: imported)")
    for key, default in (("state", "state"), ("action", ""), ("instruction", "language_instruction")):
        bring.add_argument(f"--rlds-{key}", default=default, metavar="KEY", help=f"RLDS key of the {key} (default: {default!r})")


def _import(options: argparse.Namespace, console: Console) -> int:
    config = EpisodeStoreConfig(image_encoding=ImageEncoding(options.image_encoding))
    episodes, total = _incoming(options)
    store = EpisodeStore(options.store, options.writer, config)
    num_new = num_known = 0
    try:
        with episode_progress("importing", is_shown=not options.json) as told:
            for number, episode in enumerate(episodes, start=1):
                is_known = episode.episode_id in store
                store.append(episode)
                num_known, num_new = num_known + is_known, num_new + (not is_known)
                told(number, total or number)
    finally:
        store.close()
    if options.json:
        console.print_json(data={"num_imported": num_new, "num_known": num_known})
    else:
        console.print(f"{num_new} episodes imported, {num_known} were there")
    return 0


def _incoming(options: argparse.Namespace) -> tuple[Iterator[Episode], int]:
    spec = _read_spec(options.env_spec) if options.env_spec else None
    common: dict[str, Any] = {
        "env": options.env or options.format,
        "task": options.task,
        "collection": Collection(options.collection),
        "source": Source[options.source_of_actions.upper()],
        "end": EpisodeEnd(options.end),
    }
    if options.format == "lerobot":
        data_set = LeRobotDataSet(options.source, LeRobotImportConfig(env_spec=spec, **common))
        return data_set.episodes(), len(data_set)
    if spec is None:
        raise ConfigError("RLDS says nothing of cameras, units and rates; give --env-spec FILE, as EnvSpec.to_json makes it")
    config = RldsImportConfig(
        env_spec=spec,
        state_key=options.rlds_state,
        action_key=options.rlds_action,
        instruction_key=options.rlds_instruction,
        **common,
    )
    return read_rlds(options.source, config), 0


def _read_spec(path: Path) -> EnvSpec:
    try:
        return EnvSpec.from_json(json.loads(path.read_bytes()))
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} is no environment specification ({type(error).__name__}: {error})") from None


def _export(options: argparse.Namespace, console: Console) -> int:
    store = EpisodeStore(options.store)
    ids = _selected(store, options)
    get_labels = _labels(options)
    if options.format in _ONE_EPISODE:
        if len(ids) != 1:
            raise ConfigError(f"{len(ids)} episodes are selected; {options.format} takes one: name it with --episode")
        labels = get_labels(ids[0]) if get_labels else None
        _ONE_EPISODE[options.format](options.target, store.read(ids[0]), labels)
    else:
        config = LeRobotExportConfig(
            version=_DATA_SETS[options.format],
            codec=VideoCodec(options.codec),
            value_version=options.value_version,
            robot_type=options.robot_type,
        )
        with episode_progress("exporting", is_shown=not options.json) as told:
            export_lerobot(store, ids, options.target, config, get_labels=get_labels, on_episode=told)
    if options.json:
        console.print_json(data={"target": str(options.target), "num_episodes": len(ids)})
    else:
        console.print(f"{options.target}: {len(ids)} episodes")
    return 0


def _selected(store: EpisodeStore, options: argparse.Namespace) -> list[EpisodeId]:
    ids: list[EpisodeId] = list(store.episode_ids())
    if options.episode:
        ids = [find_episode(ids, prefix) for prefix in options.episode]
    origins = {episode_id: store.info(episode_id).provenance for episode_id in ids}
    return [
        episode_id
        for episode_id, origin in origins.items()
        if (options.task is None or origin.task == options.task)
        and (options.collection is None or origin.collection.value == options.collection)
    ]


def _labels(options: argparse.Namespace) -> Callable[[EpisodeId], Labels] | None:
    if options.value_version is None:
        return None
    folder = options.labels or options.store / LABELS_FOLDER
    if not folder.exists():
        raise ConfigError(f"no label store at {folder}")
    labels = LabelStore(folder)
    return lambda episode_id: labels.get(episode_id, options.value_version)


def find_episode(ids: list[EpisodeId] | tuple[EpisodeId, ...], prefix: str) -> EpisodeId:
    """The one episode whose id begins so.

    Raises:
        ConfigError: if there is none, or more than one.
    """
    matches = [episode_id for episode_id in ids if episode_id.startswith(prefix)]
    if len(matches) != 1:
        raise ConfigError(f"{len(matches)} episodes begin with {prefix!r}; expected exactly one")
    return matches[0]
