"""What an action's numbers mean where names and units do not say it, for each family of environments.

A policy that practised in one of them is published with these in its contract (``checkpoints.contract``), so that nobody has to
remember which way a gripper closes when it is promoted to a robot.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from checkpoints.contract import Conventions

CONVENTIONS: Mapping[str, Conventions] = MappingProxyType(
    {
        # envs/simpler/embodiment.py: along base axes, axis-angle; the two grippers disagree.
        "simpler_google": Conventions(frame="base", rotation="axis_angle", gripper="positive_closes"),
        "simpler_widowx": Conventions(frame="base", rotation="axis_angle", gripper="positive_opens"),
        # robot_drivers/messages.py: base frame, rotation vector, opening 0 closed to 1 open.
        "robot": Conventions(frame="base", rotation="axis_angle", gripper="positive_opens"),
        "fake": Conventions(frame="world", rotation="none", gripper="none"),
    }
)
"""By ``EnvConfig.family``. ManiSkill is not among them: each of its robots and controllers has its own."""


def conventions_of(family: str) -> Conventions:
    """Of a family of environments; all ``undeclared`` where they depend on more than the family.

    Example:
        >>> conventions_of("simpler_widowx").gripper, conventions_of("maniskill").gripper
        ('positive_opens', 'undeclared')
    """
    return CONVENTIONS.get(family, Conventions())
