"""The only place where a driver is chosen by its name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from core.clock import Clock
from core.errors import ConfigError
from robot_drivers.driver import RobotDriver

DRIVERS = {
    "fake": ("fake", "FakeArm", "FakeArmConfig"),
    "realman": ("realman", "RealmanDriver", "RealmanConfig"),
    "xarm": ("xarm", "XArmDriver", "XArmConfig"),
    "franka": ("franka", "FrankaDriver", "FrankaConfig"),
    "so101": ("so101", "SO101Driver", "SO101Config"),
    "simulated": ("simulated", "SimulatedDriver", "SimulatedConfig"),
}
"""Name -> module, driver, its configuration. A module is imported when it is asked for: it may need a vendor's library."""


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
    module_name, driver_name, config_name = DRIVERS[name]
    module = importlib.import_module(f"robot_drivers.{module_name}")
    config = _checked(getattr(module, config_name), options)
    return cast(RobotDriver, getattr(module, driver_name)(config, clock))


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
