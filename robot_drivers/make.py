"""The only place where a driver is chosen by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from core.clock import Clock
from core.errors import ConfigError
from robot_drivers.driver import RobotDriver


def _fake(options: Mapping[str, Any], clock: Clock) -> RobotDriver:
    from robot_drivers.fake import FakeArm, FakeArmConfig

    return FakeArm(_checked(FakeArmConfig, options), clock)


DRIVERS: dict[str, Callable[[Mapping[str, Any], Clock], RobotDriver]] = {"fake": _fake}
"""Each imports its own vendor's library, when it is asked for."""


def make_driver(name: str, options: Mapping[str, Any], clock: Clock) -> RobotDriver:
    """Build a driver that is not connected yet.

    Args:
        name: as in a robot's configuration.
        options: the driver's own.
        clock: what it stamps its states with.

    Raises:
        ConfigError: for an unknown name or option.
    """
    if name not in DRIVERS:
        raise ConfigError(f"unknown driver {name!r}; known are {', '.join(sorted(DRIVERS))}")
    return DRIVERS[name](options, clock)


def _checked(kind: type[Any], options: Mapping[str, Any]) -> Any:
    adapter = TypeAdapter(kind)
    try:
        unknown = set(options) - set(kind.__dataclass_fields__)
        if unknown:
            raise ConfigError(
                f"unknown option {sorted(unknown)} of {kind.__name__}; known are {sorted(kind.__dataclass_fields__)}"
            )
        return adapter.validate_python(dict(options))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"option {'.'.join(map(str, first['loc']))} of {kind.__name__}: {first['msg']}") from None
