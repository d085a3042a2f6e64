"""The contract: what a policy takes for granted about the robot it drives, and the check of it against a live one.

Between hops 9 and 10 of the tour. Most of it is derived: names, order, units, limits, cameras and rate from the checkpoint's
``EnvSpec``, chunk and instruction form from its configuration. Frame, rotation and gripper convention stand in no ``EnvSpec``:
its learner knows them from the environment, and writes the whole contract into the manifest (:func:`with_contract`); for a
checkpoint from elsewhere they are declared when it is added. What nobody declared is ``undeclared``, and no robot accepts that: a
gripper that closes instead of opening is not found by a shape check.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.errors import CheckpointError
from core.ids import digest
from core.specs import CameraSpec, EnvSpec

UNDECLARED = "undeclared"
FRAMES = ("base", "tool", "world", "joint")
ROTATIONS = ("axis_angle", "rpy", "quaternion_wxyz", "none")
GRIPPERS = ("positive_closes", "positive_opens", "none")
WHOLE_VIEW = "whole view"

_RELATIVE_RATE_TOLERANCE = 0.01
_LIMIT_TOLERANCE = 1e-6


class ContractError(CheckpointError):
    """A checkpoint and a robot do not agree; the message names the first difference."""


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """What numbers mean where names and units do not say it.

    Example:
        SIMPLER's Google robot: frame "base", rotation "axis_angle", gripper "positive_closes".
    """

    frame: str = UNDECLARED
    """Axes of the commands: one of :data:`FRAMES`."""
    rotation: str = UNDECLARED
    """One of :data:`ROTATIONS`."""
    gripper: str = UNDECLARED
    """One of :data:`GRIPPERS`."""

    def __post_init__(self) -> None:
        for name, allowed in (("frame", FRAMES), ("rotation", ROTATIONS), ("gripper", GRIPPERS)):
            value = getattr(self, name)
            if value not in (*allowed, UNDECLARED):
                raise CheckpointError(f"{name} convention is {value!r}; expected one of {', '.join(allowed)}")


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a checkpoint was made for."""

    env_spec: EnvSpec
    conventions: Conventions
    crop: str
    """What of each image the model sees."""
    model_image_px: tuple[int, int]
    """Height and width that images are resized to."""
    chunk_length: int
    """H, actions a chunk; 0: it does not act (a value model)."""
    instruction_form: str
    """How the instruction becomes numbers, and whether the advantage indicator is appended."""
    normalizer_digest: str
    """Of the action and state ranges."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON-like record; :meth:`from_json` is the exact inverse."""
        return {**dataclasses.asdict(self), "env_spec": self.env_spec.to_json(), "model_image_px": list(self.model_image_px)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Contract:
        """Rebuild from :meth:`to_json`.

        Raises:
            CheckpointError: if the record is not one.
        """
        try:
            height, width = record["model_image_px"]
            return cls(
                **{
                    **record,
                    "env_spec": EnvSpec.from_json(record["env_spec"]),
                    "conventions": Conventions(**record["conventions"]),
                    "model_image_px": (int(height), int(width)),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"damaged contract ({type(error).__name__}: {error}); add the checkpoint again") from None

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any], declared: Conventions | None = None) -> Contract:
        """Derive it from a checkpoint directory's manifest.

        Args:
            manifest: as ``models`` write it: ``env_spec``, ``config``, ``normalization``, ``text``; ``contract`` where its
                learner wrote one.
            declared: the conventions, where the manifest has none.

        Raises:
            CheckpointError: if the manifest names no environment, conventions other than those declared, or a contract that is
                not the one of this model.
        """
        try:
            env_spec = EnvSpec.from_json(manifest["env_spec"])
            config = manifest["config"]
            height, width = (
                config.get("image_height_px", config.get("image_px")),
                config.get("image_width_px", config.get("image_px")),
            )
            image_px = (int(height), int(width))
            normalization = manifest["normalization"]
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"the manifest lacks {error}; a policy or value model has env_spec, config and normalization. Save it again"
            ) from None
        written = cls.from_json(manifest["contract"]) if "contract" in manifest else None
        conventions = written.conventions if written else Conventions()
        if declared is not None:
            conventions = _joined(conventions, declared)
        text = manifest.get("text", {}).get("kind", "none")
        derived = cls(
            env_spec=env_spec,
            conventions=conventions,
            crop=str(config.get("crop", WHOLE_VIEW)),
            model_image_px=image_px,
            chunk_length=int(config.get("action_horizon", 0)) if manifest.get("kind") == "policy" else 0,
            instruction_form=f"{text} text" + (" with advantage indicator" if config.get("use_indicator") else ""),
            normalizer_digest=digest(normalization),
        )
        if written is not None:
            _require_same(written, derived)
        return derived


def with_contract(manifest: Mapping[str, Any], conventions: Conventions) -> dict[str, Any]:
    """A manifest that also says what its model takes for granted, for whoever publishes it.

    Args:
        manifest: as ``models`` write it. A ``contract`` in it is replaced, but for the conventions that it declares.
        conventions: of the environment in which the model learned.

    Raises:
        CheckpointError: if the manifest names no environment, or declares other conventions.
    """
    bare = {key: value for key, value in manifest.items() if key != "contract"}
    if "contract" in manifest:
        conventions = _joined(Contract.from_json(manifest["contract"]).conventions, conventions)
    return {**bare, "contract": Contract.of_manifest(bare, conventions).to_json()}


def _require_same(written: Contract, derived: Contract) -> None:
    for field in dataclasses.fields(Contract):
        says, has = getattr(written, field.name), getattr(derived, field.name)
        if field.name != "conventions" and says != has:
            raise CheckpointError(
                f"the manifest's contract says {field.name} {says}, but the model was saved with {has}; one of them was altered: "
                "publish the checkpoint again"
            )


def _joined(written: Conventions, declared: Conventions) -> Conventions:
    values = dataclasses.asdict(written)
    for name, value in dataclasses.asdict(declared).items():
        if UNDECLARED not in (value, values[name]) and value != values[name]:
            raise CheckpointError(
                f"{name} convention is declared {value!r}, but the checkpoint says {values[name]!r}; which is it?"
            )
        values[name] = values[name] if value == UNDECLARED else value
    return Conventions(**values)


@dataclass(frozen=True, kw_only=True)
class LiveCapabilities:
    """What a robot, as it stands there, shows and accepts."""

    robot: str
    """Its name, as in the channel ``robot:NAME``."""
    env_spec: EnvSpec
    """What its environment delivers and takes, limits included."""
    conventions: Conventions
    crop: str = WHOLE_VIEW
    """What its camera pipeline leaves of each image for the model to see."""
    max_chunk_length: int
    """How many actions it will queue."""
    safety_digest: str
    """Of the supervisor's configuration."""

    @property
    def digest(self) -> str:
        """16 hex digits: evidence that was gathered on a robot is bound to it, supervisor's configuration included."""
        return digest(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """As a JSON-like record; :meth:`from_json` is the exact inverse."""
        return {**dataclasses.asdict(self), "env_spec": self.env_spec.to_json()}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> LiveCapabilities:
        """Rebuild from :meth:`to_json`.

        Raises:
            CheckpointError: if the record is not one.
        """
        try:
            return cls(
                **{
                    **record,
                    "env_spec": EnvSpec.from_json(record["env_spec"]),
                    "conventions": Conventions(**record["conventions"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"not a record of a robot's capabilities ({type(error).__name__}: {error}); expected "
                f"{', '.join(field.name for field in dataclasses.fields(cls))}"
            ) from None


def require_contract(contract: Contract, live: LiveCapabilities) -> None:
    """Refuse a checkpoint that does not fit a robot.

    Raises:
        ContractError: naming the first difference.
    """
    difference = first_difference(contract, live)
    if difference:
        raise ContractError(
            f"the checkpoint does not fit robot {live.robot!r}: {difference}. Choose a checkpoint made for it, or correct what "
            "the robot reports or the checkpoint declares"
        )


def first_difference(contract: Contract, live: LiveCapabilities) -> str | None:
    """The first thing on which they disagree, in words; None if there is none."""
    if contract.chunk_length == 0:
        return "it is not a policy: it has no action chunk"
    return (
        _convention_difference(contract.conventions, live.conventions)
        or _action_difference(contract.env_spec, live.env_spec)
        or _state_difference(contract.env_spec, live.env_spec)
        or _camera_difference(contract, live)
        or _chunk_difference(contract.chunk_length, live.max_chunk_length)
    )


def _convention_difference(made_for: Conventions, has: Conventions) -> str | None:
    for name in ("frame", "rotation", "gripper"):
        ours, theirs = getattr(made_for, name), getattr(has, name)
        if UNDECLARED in (ours, theirs):
            who = "the checkpoint" if ours == UNDECLARED else "the robot"
            return f"{name} convention of {who} is undeclared (checkpoint: {ours}, robot: {theirs})"
        if ours != theirs:
            return f"{name} convention is {ours} for the checkpoint, {theirs} for the robot"
    return None


def _action_difference(made_for: EnvSpec, has: EnvSpec) -> str | None:
    ours, theirs = made_for.action, has.action
    if ours.names != theirs.names:
        return _first_unequal("action", ours.names, theirs.names)
    if ours.units != theirs.units:
        return _first_unequal("unit of action", ours.units, theirs.units)
    for index, name in enumerate(ours.names):
        low, high = (ours.low[index], theirs.low[index]), (ours.high[index], theirs.high[index])
        if low[0] < low[1] - _LIMIT_TOLERANCE or high[0] > high[1] + _LIMIT_TOLERANCE:
            return (
                f"action {name} of the checkpoint may be {low[0]:g} to {high[0]:g} {ours.units[index]}, "
                f"the robot accepts {low[1]:g} to {high[1]:g}"
            )
    if not math.isclose(ours.control_hz, theirs.control_hz, rel_tol=_RELATIVE_RATE_TOLERANCE):
        return f"control rate is {ours.control_hz:g} Hz for the checkpoint, {theirs.control_hz:g} Hz for the robot"
    return None


def _state_difference(made_for: EnvSpec, has: EnvSpec) -> str | None:
    if made_for.state.names != has.state.names:
        return _first_unequal("state", made_for.state.names, has.state.names)
    if made_for.state.units != has.state.units:
        return _first_unequal("unit of state", made_for.state.units, has.state.units)
    return None


def _camera_difference(contract: Contract, live: LiveCapabilities) -> str | None:
    has: dict[str, CameraSpec] = {camera.name: camera for camera in live.env_spec.cameras}
    for camera in contract.env_spec.cameras:
        if camera.name not in has:
            return f"camera {camera.name!r} is missing; the robot has {', '.join(map(repr, sorted(has))) or 'none'}"
        found = has[camera.name]
        if camera != found:
            return (
                f"camera {camera.name!r} is {camera.height_px} x {camera.width_px} px (height x width) for the checkpoint, "
                f"{found.height_px} x {found.width_px} px for the robot"
            )
    if contract.crop != live.crop:
        return f"images are cropped to {contract.crop!r} for the checkpoint, to {live.crop!r} on the robot"
    return None


def _chunk_difference(length: int, longest: int) -> str | None:
    return f"a chunk has {length} actions, the robot queues at most {longest}" if length > longest else None


def _first_unequal(what: str, ours: tuple[str, ...], theirs: tuple[str, ...]) -> str:
    if len(ours) != len(theirs):
        return f"the checkpoint has {len(ours)} {what} entries ({', '.join(ours)}), the robot {len(theirs)} ({', '.join(theirs)})"
    index = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    return f"{what} {index} is {ours[index]!r} for the checkpoint, {theirs[index]!r} for the robot"
