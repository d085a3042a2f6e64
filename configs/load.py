"""Loads an experiment: defaults <- the family's YAML <- a named YAML <- ``key=value`` overrides; checked, then frozen.

This is the only door: after it no code asks where a number came from. Unknown keys and wrong types are errors that name
the key, the value, and what was expected.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from configs.schema import ExperimentConfig
from core.errors import ConfigError
from models import presets

_FOLDER = Path(__file__).parent
SHORTHANDS = {
    "extraction": "extraction.method",
    "schedule": "recap.schedule",
    "iterations": "recap.iterations",
    "rollouts_from": "recap.rollouts_from",
    "execution": "execution.mode",
    "workers": "execution.num_workers",
    "demonstrations": "pretrain.num_demonstrations",
    "checkpoint": "evaluation.checkpoint",
    "episodes": "evaluation.num_episodes",
    "robot": "env.robot.name",
}
"""What may be written in place of the full key."""
Record = TypeVar("Record")


def load_config(name: str | None = None, overrides: Sequence[str] = (), *, family: str | None = None) -> ExperimentConfig:
    """Load an experiment.

    Args:
        name: of a YAML file in ``configs/``, or a path to one; None: defaults alone.
        overrides: ``key=value``, full keys or shorthands.
        family: of the environment (``--env``); it also chooses the family's own defaults.

    Raises:
        ConfigError: unknown file, key or value; the message says which and what is nearest.
    """
    named = _read_yaml(_find(name)) if name else {}
    asked = _from_overrides(overrides)
    families = [family, *(layer["env"].get("family") for layer in (asked, named) if isinstance(layer.get("env"), dict))]
    chosen = next((name for name in families if name), ExperimentConfig().env.family)
    family_file = _FOLDER / "families" / f"{chosen}.yaml"
    if not family_file.exists():
        known = sorted(path.stem for path in family_file.parent.glob("*.yaml"))
        raise ConfigError(f"unknown environment family {chosen!r}; known are {', '.join(known)}{_nearest(chosen, known)}")
    preset = asked.get("preset") or named.get("preset") or ExperimentConfig.preset
    layers = [_preset(preset), _read_yaml(family_file), named, {"env": {"family": chosen}}, asked]
    return _build(ExperimentConfig, _merged([_checked(ExperimentConfig, layer, "") for layer in layers]))


def read_config(path: Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read back what :func:`write_config` wrote beside a run, with some changes.

    Raises:
        ConfigError: if it is missing, or does not fit this version of the code.
    """
    if not Path(path).exists():
        raise ConfigError(f"{path} does not exist; give the folder of a run (it holds config.yaml)")
    layers = [_read_yaml(Path(path)), _from_overrides(overrides)]
    return _build(ExperimentConfig, _merged([_checked(ExperimentConfig, layer, "") for layer in layers]))


def write_config(config: ExperimentConfig, path: Path) -> None:
    """Write the resolved configuration: every key with its value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(to_plain(config))))


def to_plain(record: Any) -> Any:
    """A configuration as JSON-like data: dictionaries, lists, strings, numbers; enumerations by their value."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: to_plain(getattr(record, field.name)) for field in dataclasses.fields(record)}
    if isinstance(record, enum.Enum):
        return record.value
    if isinstance(record, list | tuple):
        return [to_plain(item) for item in record]
    if isinstance(record, dict):
        return {key: to_plain(value) for key, value in record.items()}
    return record


def all_keys(record_type: type = ExperimentConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf key with its type, for example ``("env.image_height_px", int)``."""
    for name, hint in _hints(record_type).items():
        if dataclasses.is_dataclass(hint):
            yield from all_keys(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hint


def _preset(name: str) -> dict[str, Any]:
    return {"policy": to_plain(presets.videovla_config(name)), "value": to_plain(presets.value_model_config(name))}


def _find(name: str) -> Path:
    for path in (Path(name), _FOLDER / f"{name}.yaml"):
        if path.suffix == ".yaml" and path.is_file():
            return path
    known = sorted(path.stem for path in _FOLDER.glob("*.yaml"))
    raise ConfigError(
        f"no configuration {name!r}; known are {', '.join(known)}{_nearest(name, known)}, or give a path to a .yaml"
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # YAML errors of several kinds, all about this file
        raise ConfigError(f"{path} is not readable YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}; expected keys and values")
    return typing.cast(dict[str, Any], tree)


def _from_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    pairs = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"{text!r} is not an override; expected key=value, for example recap.iterations=2")
        pairs.append(f"{SHORTHANDS.get(key, key)}={value or repr('')}")  # "key=" is an empty text, not null
    try:
        tree = OmegaConf.to_container(OmegaConf.from_dotlist(pairs))
    except Exception as error:
        raise ConfigError(f"cannot read the overrides {list(overrides)}: {error}") from None
    return typing.cast(dict[str, Any], tree)


def _checked(record_type: type, tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Refuse unknown keys; turn the values of enumerations into members, which OmegaConf wants."""
    hints = _hints(record_type)
    checked: dict[str, Any] = {}
    for key, value in tree.items():
        full = f"{prefix}{key}"
        if key not in hints:
            known = [*(name for name, _ in all_keys()), *SHORTHANDS]
            raise ConfigError(f"unknown key {full}={value}{_nearest_key(full, known)}; --help lists all keys")
        hint = hints[key]
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, Mapping):
                inner = ", ".join(f"{full}.{name}" for name in _hints(typing.cast(type, hint)))
                raise ConfigError(f"{full}={value}: {full} is a group of keys; set one of {inner}")
            checked[key] = _checked(typing.cast(type, hint), value, f"{full}.")
        elif kind := _enum_in(hint):
            checked[key] = (
                [_member(kind, item, full) for item in value] if isinstance(value, list) else _member(kind, value, full)
            )
        else:
            checked[key] = value
    return checked


def _merged(layers: Sequence[Mapping[str, Any]]) -> DictConfig:
    schema = OmegaConf.structured(ExperimentConfig)
    _thaw(schema)
    for layer in layers:
        try:
            schema.merge_with(layer)
        except OmegaConfBaseException as error:
            key = error.full_key or "?"
            expected = _type_name(dict(all_keys()).get(key.partition("[")[0], error.ref_type or "another type"))
            raise ConfigError(f"{key}={_value_at(layer, key)!r}: expected {expected}") from None
    return typing.cast(DictConfig, schema)


def _thaw(node: Any) -> None:
    """Frozen dataclasses make read-only nodes; merging needs them writable until the records are built."""
    OmegaConf.set_readonly(node, False)
    for key in node:
        if OmegaConf.is_dict(child := node._get_node(key)):  # noqa: SLF001  (node[key] would copy missing values into errors)
            _thaw(child)


def _build(record_type: type[Record], node: Any) -> Record:
    """Frozen records from merged data; their own checks run here."""
    values: dict[str, Any] = {}
    for name, hint in _hints(record_type).items():
        value = node[name]
        if dataclasses.is_dataclass(hint):
            values[name] = _build(typing.cast(type, hint), value)
        else:
            values[name] = _plain(value, hint)
    return record_type(**values)


def _plain(value: Any, hint: Any) -> Any:
    if OmegaConf.is_config(value):
        value = OmegaConf.to_container(value)
    return tuple(value) if isinstance(value, list) and typing.get_origin(hint) is tuple else value


def _hints(record_type: type) -> dict[str, Any]:
    hints = typing.get_type_hints(record_type)
    return {field.name: hints[field.name] for field in dataclasses.fields(record_type) if field.init}


def _enum_in(hint: Any) -> type[enum.Enum] | None:
    """The enumeration that a key, or each item of its list, must be of."""
    kind = typing.get_args(hint)[0] if typing.get_origin(hint) in (tuple, list) else hint
    return kind if isinstance(kind, type) and issubclass(kind, enum.Enum) else None


def _member(kind: type[enum.Enum], value: Any, key: str) -> enum.Enum:
    values = {str(member.value): member for member in kind}
    if str(value) not in values:
        raise ConfigError(f"{key}={value!r}: expected one of {', '.join(values)}{_nearest(str(value), list(values))}")
    return values[str(value)]


def _value_at(tree: Mapping[str, Any], key: str) -> Any:
    node: Any = tree
    for part in key.partition("[")[0].split("."):
        node = node.get(part) if isinstance(node, Mapping) else node
    return node


def _type_name(hint: Any) -> str:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return " or ".join("null" if part is type(None) else _type_name(part) for part in typing.get_args(hint))
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _nearest(word: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def _nearest_key(key: str, known: Sequence[str]) -> str:
    """The nearest full key; a right last part in the wrong group counts as near."""
    same_end = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    return _nearest(key, same_end) or (f"; did you mean {same_end[0]!r}?" if same_end else _nearest(key, known))
