"""What is trained and compared: the four value models, and the ablations, each a model and the keys that it changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from core.errors import ConfigError
from models.value_config import AnyValueConfig, ValueKind, value_model_config
from models.wvm_config import ValueHead
from value_service.bench.truth import Kind

_SUCCESSES = (Kind.EXPERT,)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One value model of the bench.

    Example:
        Variant(name="wvm rewind 0", model=ValueKind.WVM, changes={"rewind_ratio": 0.0})
    """

    name: str
    model: ValueKind
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the model's configuration, as ``value.wvm.KEY=VALUE`` would set them."""
    trained_on: tuple[Kind, ...] = _SUCCESSES
    """Kinds whose training split it sees."""
    inference: Mapping[str, Any] = field(default_factory=dict)
    """Keys that are changed after training."""
    weights_of: str = ""
    """The variant, equal but for ``inference``, that it shares its weights with; empty: it is trained itself."""
    group: str = ""
    """Heading under which it is reported."""

    def config(self, preset: str) -> AnyValueConfig:
        """Its model's configuration.

        Raises:
            ConfigError: if the model has no such key, or not such a value.
        """
        config = value_model_config(preset, self.model).selected()
        unknown = set(self.changes) - {f.name for f in dataclasses.fields(config)}
        if unknown:
            raise ConfigError(f"{self.name}: {self.model.value} has no key {sorted(unknown)}")
        return dataclasses.replace(config, **self.changes)

    @property
    def folder(self) -> str:
        """Where its weights are: its name, or its source's, as part of a path."""
        return "_".join((self.weights_of or self.name).split())


def main_variants(names: Sequence[str]) -> tuple[Variant, ...]:
    """The models of the main comparison.

    Raises:
        ConfigError: for an unknown or repeated name.
    """
    known = [kind.value for kind in ValueKind]
    bad = [name for name in names if name not in known or names.count(name) > 1]
    if bad or not names:
        raise ConfigError(f"models {list(names)}; expected some of {', '.join(known)}, each once")
    return tuple(Variant(name=name, model=ValueKind(name)) for name in names)


def _viva(name: str, group: str, **changes: Any) -> Variant:
    return Variant(name=f"viva {name}", model=ValueKind.VIVA, changes=changes, group=group)


def _wvm(name: str, group: str, **changes: Any) -> Variant:
    return Variant(name=f"wvm {name}", model=ValueKind.WVM, changes=changes, group=group)


def _more_steps(base: Variant, denoise_steps: int) -> Variant:
    name, inference = f"{base.model.value} {denoise_steps} steps", {"denoise_steps": denoise_steps}
    return Variant(name=name, model=base.model, inference=inference, weights_of=base.name, group="inference steps")


def _trained_on(base: Variant, what: str, kinds: tuple[Kind, ...]) -> Variant:
    return Variant(name=f"{base.model.value} {what}", model=base.model, trained_on=kinds, group="training data")


VIVA_BASE, WVM_BASE = _viva("base", "base"), _wvm("base", "base")
_WITH_FAILURES = (Kind.EXPERT, Kind.FAILURE)

ABLATIONS: tuple[Variant, ...] = (
    VIVA_BASE,
    _viva("no future", "future state", has_future_state=False),
    _viva("value only", "future state", has_future_state=False, has_state_input=False),
    _viva("lambda 0.1", "future state", future_state_weight=0.1),
    _viva("lambda 1", "future state", future_state_weight=1.0),
    _viva("K 0.7 s", "future offset", future_offset_s=0.7),
    _viva("K 5 s", "future offset", future_offset_s=5.0),
    _trained_on(VIVA_BASE, "with failures", _WITH_FAILURES),
    _trained_on(VIVA_BASE, "with all kinds", tuple(Kind)),
    *(_more_steps(VIVA_BASE, steps) for steps in (2, 4, 10)),
    WVM_BASE,
    _wvm("regression", "head of the chunk", head=ValueHead.REGRESSION),
    _wvm("no rewind", "rewind", rewind_ratio=0.0),
    _wvm("p 0", "prefix randomisation", prefix_randomization=0.0),
    _wvm("p 1", "prefix randomisation", prefix_randomization=1.0),
    _wvm("no future video", "future video", video_weight=0.0),
    *(_more_steps(WVM_BASE, steps) for steps in (2, 4, 10)),
)
"""One change at a time from the two base models, which have K = 2 s, lambda_prop = 0.5, p = 0.5, rewind 0.5, 1 inference step."""

Configure = Callable[[Variant], AnyValueConfig]
"""How a variant becomes a configuration: ``variant.config("tiny")``, or a test's smaller one."""
