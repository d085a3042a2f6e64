"""Configurations as JSON-like records and back, checked; what a checkpoint's manifest holds of them."""

from __future__ import annotations

import dataclasses
import enum
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from core.errors import CheckpointError, ConfigError

Config = TypeVar("Config")


def to_record(config: Any) -> dict[str, Any]:
    """A configuration of numbers, texts, tuples and enumerations as JSON-like data; :func:`from_record` is the inverse."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def from_record(config_type: type[Config], record: Mapping[str, Any], *, who: str) -> Config:
    """Rebuild a configuration, also after a trip through JSON text; keys that are missing have their defaults.

    Args:
        config_type: a dataclass.
        record: of :func:`to_record`.
        who: the model's name for messages.

    Raises:
        CheckpointError: if it has unknown keys or impossible values.
    """
    hints = typing.get_type_hints(config_type)
    try:
        return config_type(**{key: _typed(value, hints.get(key)) for key, value in record.items()})
    except (TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{who} configuration in the checkpoint is not one of this version: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def _typed(value: Any, hint: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(value)
    return tuple(value) if typing.get_origin(hint) is tuple else value
