"""Which value model an experiment uses, and the numbers of each.

All of them have their group of keys, so that one experiment can be run with another model by changing one word.
"""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass, field

from core.errors import ConfigError
from models.viva_config import VivaConfig, viva_config
from models.vlm_value_config import VlmValueConfig, vlm_value_config
from models.wvm_config import WvmConfig, wvm_config


class ValueKind(enum.Enum):
    """The value models."""

    VIVA = "viva"
    """A video generator that also predicts the future state (models/viva.py)."""
    WVM = "wvm"
    """Chunks of values beside a video generator that predicts the future (models/wvm.py)."""
    VLM = "vlm"
    """Image and text encoders with a head of 201 bins (models/vlm_value.py)."""
    VALUE_ONLY = "value_only"
    """ViVa without state and future; reads the keys of ``viva``."""


AnyValueConfig = VivaConfig | WvmConfig | VlmValueConfig


@dataclass(frozen=True, kw_only=True)
class ValueModelConfig:
    """The value model of an experiment.

    Example:
        >>> ValueModelConfig(model=ValueKind.VALUE_ONLY).selected().has_future_state
        False
    """

    model: ValueKind = ValueKind.VIVA
    viva: VivaConfig = field(default_factory=VivaConfig)
    wvm: WvmConfig = field(default_factory=WvmConfig)
    vlm: VlmValueConfig = field(default_factory=VlmValueConfig)

    def selected(self) -> AnyValueConfig:
        """The configuration of the model that is used."""
        if self.model is ValueKind.VALUE_ONLY:
            return dataclasses.replace(self.viva, has_future_state=False, has_state_input=False)
        of_kind: dict[ValueKind, AnyValueConfig] = {
            ValueKind.VIVA: self.viva,
            ValueKind.WVM: self.wvm,
            ValueKind.VLM: self.vlm,
        }
        return of_kind[self.model]


def value_model_config(preset: str, model: ValueKind = ValueKind.VIVA) -> ValueModelConfig:
    """Every value model at a preset: ``tiny``, or ``5b``, where the VLM-style baseline is its ``full``.

    Raises:
        ConfigError: for an unknown preset.
    """
    sizes = {"tiny": "tiny", "5b": "full"}
    if preset not in sizes:
        raise ConfigError(f"unknown preset {preset!r}; known are {', '.join(sizes)}")
    return ValueModelConfig(model=model, viva=viva_config(preset), wvm=wvm_config(preset), vlm=vlm_value_config(sizes[preset]))
