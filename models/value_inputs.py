"""What every value model does with windows before its network sees them: checks, letterboxing, normalising, embedding.

Hops 5 and 8 of the tour, inside every value model. Pure functions; a window that does not fit the environment is refused here,
by name, whichever model reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from core.errors import NonFiniteError, SpecError
from core.specs import CameraSpec, EnvSpec
from core.windows import WindowBatch
from models.codecs import LatentCodec
from models.normalization import Normalization
from models.text import TextEmbedder
from models.viva_frames import letterbox


class LatentConfig(Protocol):
    """The part of a model's configuration that its codec and its text embedder must agree with."""

    @property
    def image_shape(self) -> tuple[int, int]:
        """(H, W), pixels."""
        ...

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        ...

    @property
    def text_length(self) -> int:
        """Tokens."""
        ...

    @property
    def text_dim(self) -> int:
        """Channels of a token."""
        ...


def require_fitting(config: LatentConfig, codec: LatentCodec, text: TextEmbedder) -> None:
    """Refuse a codec or a text embedder of other sizes than the configuration's.

    Raises:
        SpecError: naming the first size that differs.
    """
    found = {
        "image_shape": codec.image_shape,
        "latent_shape": codec.latent_shape,
        "text_length": text.length,
        "text_dim": text.dim,
    }
    for name, value in found.items():
        if value != getattr(config, name):
            raise SpecError(
                f"codec or text embedder has {name} {value}; the value model's configuration says {getattr(config, name)}"
            )


def selected_cameras(names: Sequence[str], env_spec: EnvSpec) -> tuple[CameraSpec, ...]:
    """The cameras of these names, in this order; none named: all of the environment's, in its order.

    Raises:
        SpecError: if the environment lacks one.
    """
    by_name = {camera.name: camera for camera in env_spec.cameras}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise SpecError(f"the value model looks through {missing}; the environment has {list(by_name)}. Set its key cameras")
    return tuple(by_name[name] for name in names) or env_spec.cameras


def camera_frames(
    windows: WindowBatch, camera: CameraSpec, image_shape: tuple[int, int], *, num_frames: int
) -> NDArray[np.uint8]:
    """The first ``num_frames`` images of one camera, letterboxed.

    Returns:
        uint8 [B, num_frames, *image_shape, 3].

    Raises:
        SpecError: if the camera is missing, or its images have another number, size or type.
    """
    if camera.name not in windows.images:
        raise SpecError(f"windows have cameras {sorted(windows.images)}; expected {camera.name!r} among them")
    frames = windows.images[camera.name]
    expected = (camera.height_px, camera.width_px, 3)
    if frames.ndim != 5 or frames.shape[1] < num_frames or frames.shape[2:] != expected or frames.dtype != np.uint8:
        raise SpecError(
            f"windows: {camera.name} is {frames.dtype} {frames.shape}; expected uint8 "
            f"(B, F, {camera.height_px}, {camera.width_px}, 3) with F >= {num_frames}"
        )
    if len(frames) != len(windows):
        raise SpecError(f"windows: {camera.name} has {len(frames)} images for {len(windows)} windows; expected one each")
    flat = letterbox(frames[:, :num_frames].reshape(-1, *expected), *image_shape)
    return flat.reshape(len(frames), num_frames, *flat.shape[1:])


def require_state(windows: WindowBatch, env_spec: EnvSpec, *, num_offsets: int) -> None:
    """Refuse states of another width or number; a model that reads none calls it too: such windows are another robot's.

    Raises:
        SpecError: naming the shape.
    """
    count, dim = len(windows), env_spec.state.dim
    if windows.state.ndim != 3 or windows.state.shape[::2] != (count, dim) or windows.state.shape[1] < num_offsets:
        raise SpecError(f"windows: state is {windows.state.shape}; expected ({count}, G, {dim}) with G > {num_offsets - 1}")


def normalized_state(windows: WindowBatch, offset: int, env_spec: EnvSpec, normalization: Normalization) -> torch.Tensor:
    """States as float32 [B, S], clamped to [-1, 1] as in ViVa's code: one out of range must not become a large input.

    Args:
        windows: B of them.
        offset: which of the window's states.
        env_spec: says S.
        normalization: of the state.

    Raises:
        SpecError: as :func:`require_state`.
    """
    require_state(windows, env_spec, num_offsets=offset + 1)
    return torch.from_numpy(np.clip(normalization.state.normalize(windows.state[:, offset]), -1, 1))


def require_instructions(instructions: Sequence[str]) -> None:
    """Refuse an empty instruction.

    Raises:
        SpecError: naming the first window that has one.
    """
    for index, instruction in enumerate(instructions):
        if not instruction.strip():
            raise SpecError(f"window {index}: the instruction is {instruction!r}; expected words, for example 'pick coke can'")


def embedded_instructions(instructions: Sequence[str], text: TextEmbedder) -> torch.Tensor:
    """Tokens [B, L, D]; each instruction is embedded once, however many windows share it.

    Raises:
        SpecError: if one is empty or cannot be embedded.
    """
    require_instructions(instructions)
    distinct = list(dict.fromkeys(instructions))
    row = {instruction: number for number, instruction in enumerate(distinct)}
    return text.embed(distinct)[0][[row[instruction] for instruction in instructions]]


def shared_instructions(instructions: Sequence[str], text: TextEmbedder) -> torch.Tensor:
    """Tokens [B, L, D], or [1, L, D] where all instructions are the same (``models.wan.SharedText`` reads them once).

    Raises:
        SpecError: if one is empty or cannot be embedded.
    """
    return embedded_instructions(instructions[:1] if len(set(instructions)) == 1 else instructions, text)


def require_targets(value_target: NDArray[np.float32], expected: tuple[int, ...]) -> None:
    """Refuse value targets of another shape, or outside [-1, 0].

    Raises:
        SpecError: naming the shape or the first bad target.
    """
    if value_target.shape != expected:
        raise SpecError(f"value_target is {value_target.shape}; expected {expected}, as the model's window_spec says")
    bad = np.argwhere(~((value_target >= -1) & (value_target <= 0)))
    if bad.size:
        place = tuple(bad[0].tolist())
        raise SpecError(
            f"value_target[{', '.join(map(str, place))}] is {value_target[place]}; expected a number in [-1, 0]. Truncated "
            "episodes have no return: leave them out"
        )


def require_finite(value: NDArray[np.float32], who: str) -> None:
    """Refuse values [B] that are NaN or infinite.

    Raises:
        NonFiniteError: naming the first window, and the model as ``who``.
    """
    bad = np.flatnonzero(~np.isfinite(value))
    if bad.size:
        raise NonFiniteError(
            f"{who}: the value of window {bad[0]} is {value[bad[0]]}; expected a number in [-1, 0]. "
            "The weights or the normalisation are damaged: retrain it or load an earlier checkpoint"
        )
