"""Turns images into latents and back: a fitted patch transform for the CPU, or a real video autoencoder.

Hops 2, 5 and 8 of the tour: the first thing a model does with pixels and, in ``imagine``, the last.
All codecs are frozen: they are fitted or pretrained before, never trained with the policy.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX, AutoencoderKLWan
from numpy.typing import NDArray

from core.errors import AssetError, CheckpointError, SpecError
from models.loading import require_finite_tensors


class LatentCodec(Protocol):
    """Images <-> latents."""

    image_shape: tuple[int, int]
    """(H, W), pixels."""
    latent_shape: tuple[int, int, int]
    """(C, h, w)."""
    temporal_ratio: int
    """Frames a latent beyond the first: 1 for codecs of single images, 4 for video autoencoders."""

    def encode(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """Encode N images, each alone: uint8 [N, H, W, 3] -> float32 [N, C, h, w], about unit variance.

        Raises:
            SpecError: if shape or dtype differ.
        """
        ...

    def encode_video(self, frames: NDArray[np.uint8]) -> torch.Tensor:
        """Encode N clips: uint8 [N, F, H, W, 3] -> float32 [N, 1 + (F - 1) / temporal_ratio, C, h, w].

        The first latent is exactly ``encode`` of the first frame: what a policy will be given when it acts.

        Raises:
            SpecError: if shape or dtype differ.
        """
        ...

    def decode(self, latents: torch.Tensor) -> NDArray[np.uint8]:
        """Decode float [N, C, h, w] to uint8 [N, H, W, 3]."""
        ...

    def decode_video(self, latents: torch.Tensor) -> NDArray[np.uint8]:
        """Decode float [N, F', C, h, w] to uint8 [N, 1 + (F' - 1) * temporal_ratio, H, W, 3]."""
        ...

    def to_tensors(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and a JSON-like record for :func:`codec_from_tensors`."""
        ...


class PatchCodec(torch.nn.Module):
    """Principal components of image patches: an orthonormal basis shared by all places, one mean image.

    The mean is kept per pixel because the cameras here do not move: it takes the static scene away, so that all channels
    are spent on what changes (arm, gripper, objects).

    Differs from textbook whitening: channel c is scaled to variance proportional to (its variance) ** (1 - whitening).
    At ``whitening`` 1 the last, barely visible channels weigh as much in a denoising loss as the first; at 0 the first
    few drown the rest. The average variance over the channels is 1 either way.
    """

    kind: ClassVar[str] = "patch"
    temporal_ratio = 1

    mean: torch.Tensor
    basis: torch.Tensor
    scale: torch.Tensor
    _weight: torch.Tensor
    _offset: torch.Tensor

    def __init__(self, mean: torch.Tensor, basis: torch.Tensor, scale: torch.Tensor) -> None:
        """Build from what :meth:`fit` finds.

        Args:
            mean: float32 [H, W, 3], 0..255.
            basis: float32 [P * P * 3, C], orthonormal columns.
            scale: float32 [C], latent units for one grey level along each column.
        """
        super().__init__()
        patch_px = round((basis.shape[0] / 3) ** 0.5)
        height, width, _ = mean.shape
        if patch_px**2 * 3 != basis.shape[0] or height % patch_px or width % patch_px or scale.shape != basis.shape[1:]:
            raise SpecError(
                f"PatchCodec mean {tuple(mean.shape)}, basis {tuple(basis.shape)}, scale {tuple(scale.shape)} do not fit "
                "together; expected [H, W, 3], [P * P * 3, C], [C] with H and W multiples of P"
            )
        for name, tensor in (("mean", mean), ("basis", basis), ("scale", scale)):
            self.register_buffer(name, tensor.float())
        # What encoding multiplies by and takes away, once: for one image that costs as much as encoding it.
        weight = self.basis * self.scale
        self.register_buffer("_weight", weight, persistent=False)
        self.register_buffer("_offset", _to_patches(self.mean[None], patch_px)[0] @ weight, persistent=False)
        self.patch_px = patch_px
        self.image_shape = (height, width)
        self.latent_shape = (len(scale), height // patch_px, width // patch_px)

    @classmethod
    def fit(
        cls,
        frames: NDArray[np.uint8],
        patch_px: int = 32,
        channels: int = 160,
        *,
        whitening: float = 0.5,
        max_patches: int = 20_000,
        seed: int = 0,
    ) -> PatchCodec:
        """Find the mean image and the leading components of uint8 frames [N, H, W, 3]; a few seconds on a CPU.

        Args:
            frames: as varied as the later use; a few hundred suffice.
            patch_px: P; H and W must be multiples of it.
            channels: C, at most the number of patches and of numbers in a patch.
            whitening: see the class.
            max_patches: more patches than this are subsampled.
            seed: of the subsampling and of the subspace iteration's start.

        Raises:
            SpecError: if the frames cannot be cut that way.
        """
        _require_images(frames, None)
        _, height, width, _ = frames.shape
        if height % patch_px or width % patch_px:
            raise SpecError(f"frames of {height}x{width} px cannot be cut into {patch_px} px patches; resize them")
        mean = torch.from_numpy(frames.mean(axis=0, dtype=np.float64)).float()
        patches = _to_patches(torch.from_numpy(frames), patch_px)
        num_images, num_places, size = patches.shape
        if channels > min(num_images * num_places, size):
            raise SpecError(f"{channels} channels asked of {num_images * num_places} patches of {size} numbers; give more frames")
        generator = torch.Generator().manual_seed(seed)
        picked = torch.randperm(num_images * num_places, generator=generator)[:max_patches]
        mean_patches = _to_patches(mean[None], patch_px)[0]
        centred = patches.flatten(0, 1)[picked].float() - mean_patches[picked % num_places]
        basis, variance = _principal_components(centred, channels, generator)
        floor = variance.max() * 1e-6 + 1e-6  # A channel that never varies in the data must not be blown up.
        relative = (variance + floor) ** ((1 - whitening) / 2)
        latent_std = relative / relative.square().mean().sqrt()
        return cls(mean, basis, latent_std / (variance + floor).sqrt())

    def encode(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """See :class:`LatentCodec`."""
        _require_images(images, self.image_shape)
        channels, rows, columns = self.latent_shape
        patches = _to_patches(torch.from_numpy(np.ascontiguousarray(images)).to(self.basis.device), self.patch_px)
        # Full precision whatever the caller's autocast: the mean is subtracted after the product.
        with torch.no_grad(), torch.autocast(self.basis.device.type, enabled=False):
            latents = patches.float() @ self._weight - self._offset
        return latents.transpose(1, 2).reshape(-1, channels, rows, columns)

    def encode_video(self, frames: NDArray[np.uint8]) -> torch.Tensor:
        """See :class:`LatentCodec`."""
        _require_clips(frames, self.image_shape, self.temporal_ratio)
        return self.encode(frames.reshape(-1, *frames.shape[2:])).unflatten(0, frames.shape[:2])

    def decode(self, latents: torch.Tensor) -> NDArray[np.uint8]:
        """See :class:`LatentCodec`."""
        _require_latents(latents, self.latent_shape)
        flat = latents.to(self.basis).flatten(2).transpose(1, 2)
        with torch.no_grad(), torch.autocast(self.basis.device.type, enabled=False):
            patches = (flat / self.scale) @ self.basis.T + _to_patches(self.mean[None], self.patch_px)[0]
        rows, columns = self.latent_shape[1:]
        images = patches.unflatten(2, (self.patch_px, self.patch_px, 3)).unflatten(1, (rows, columns))
        images = images.permute(0, 1, 3, 2, 4, 5).reshape(-1, *self.image_shape, 3)
        return images.round().clamp(0, 255).to(torch.uint8).cpu().numpy()

    def decode_video(self, latents: torch.Tensor) -> NDArray[np.uint8]:
        """See :class:`LatentCodec`."""
        frames = self.decode(latents.flatten(0, 1))
        return frames.reshape(*latents.shape[:2], *frames.shape[1:])

    def to_tensors(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """See :class:`LatentCodec`."""
        return {name: buffer.detach().cpu() for name, buffer in self.state_dict().items()}, {"kind": self.kind}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any]) -> PatchCodec:
        """Rebuild from :meth:`to_tensors`."""
        names = {"mean", "basis", "scale"}
        if tensors.keys() != names:
            raise SpecError(f"missing {sorted(names - tensors.keys())}, unexpected {sorted(tensors.keys() - names)}")
        return cls(tensors["mean"], tensors["basis"], tensors["scale"])


class _VaeCodec(torch.nn.Module):
    """What the two video autoencoders share: pixel range, latent scaling, shapes, saving."""

    kind: ClassVar[str]
    vae_class: ClassVar[Any]
    latent_mean: torch.Tensor
    latent_std: torch.Tensor
    vae: Any
    """A diffusers autoencoder; its type says nothing that a checker could use."""

    def __init__(self, vae: torch.nn.Module, image_height_px: int, image_width_px: int) -> None:
        """Wrap a diffusers autoencoder; it is frozen and put into evaluation mode."""
        super().__init__()
        self.vae = vae.requires_grad_(False).eval()
        ratio = self._spatial_ratio()
        if image_height_px % ratio or image_width_px % ratio:
            raise SpecError(f"images of {image_height_px}x{image_width_px} px: expected multiples of {ratio} px for {self.kind}")
        mean, std = self._latent_statistics()
        self.register_buffer("latent_mean", mean.view(-1, 1, 1, 1), persistent=False)
        self.register_buffer("latent_std", std.view(-1, 1, 1, 1), persistent=False)
        self.image_shape = (image_height_px, image_width_px)
        self.latent_shape = (len(mean), image_height_px // ratio, image_width_px // ratio)
        self.temporal_ratio = self._temporal_ratio()

    @abstractmethod
    def _spatial_ratio(self) -> int: ...

    @abstractmethod
    def _temporal_ratio(self) -> int: ...

    @abstractmethod
    def _latent_statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation [C] of the autoencoder's raw latents."""

    @classmethod
    def from_pretrained(cls, directory: Path, image_height_px: int, image_width_px: int, **kwargs: Any) -> Self:
        """Load ``directory/vae`` of a local diffusers directory (safetensors only).

        Args:
            directory: as CogVideoX-5B or Wan2.2-TI2V-5B are laid out.
            image_height_px: H.
            image_width_px: W.
            **kwargs: passed to diffusers, for example ``torch_dtype``.

        Raises:
            AssetError: if there is no ``vae`` in it.
        """
        folder = Path(directory) / "vae"
        if not (folder / "config.json").is_file():
            raise AssetError(f"{folder / 'config.json'} is missing; expected a diffusers directory with vae/")
        vae = cls.vae_class.from_pretrained(folder, local_files_only=True, use_safetensors=True, **kwargs)
        return cls(vae, image_height_px, image_width_px)

    def encode(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """See :class:`LatentCodec`; the posterior's mode, so that equal images have equal latents."""
        _require_images(images, self.image_shape)
        return self._encode_clips(images[:, None])[:, 0]

    def encode_video(self, frames: NDArray[np.uint8]) -> torch.Tensor:
        """See :class:`LatentCodec`.

        The autoencoders are causal only up to their group normalisation, so the first latent is made again alone.
        """
        _require_clips(frames, self.image_shape, self.temporal_ratio)
        first = self.encode(frames[:, 0])[:, None]
        return first if frames.shape[1] == 1 else torch.cat([first, self._encode_clips(frames)[:, 1:]], dim=1)

    def decode(self, latents: torch.Tensor) -> NDArray[np.uint8]:
        """See :class:`LatentCodec`."""
        return self.decode_video(latents[:, None])[:, 0]

    def decode_video(self, latents: torch.Tensor) -> NDArray[np.uint8]:
        """See :class:`LatentCodec`."""
        _require_latents(latents.flatten(0, 1), self.latent_shape)
        with torch.no_grad():
            raw = latents.to(self.latent_mean.device).float().transpose(1, 2) * self.latent_std + self.latent_mean
            video = self._decode_raw(raw.to(self.vae.dtype)).float()
        grey = (video.clamp(-1, 1) + 1) * 127.5
        return grey.round().to(torch.uint8).permute(0, 2, 3, 4, 1).cpu().numpy()

    def _decode_raw(self, raw: torch.Tensor) -> torch.Tensor:
        """[N, C, F', h, w] -> [N, 3, F, H, W] in -1..1."""
        return self.vae.decode(raw).sample

    def _encode_clips(self, frames: NDArray[np.uint8]) -> torch.Tensor:
        with torch.no_grad():
            pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(self.latent_mean.device).permute(0, 4, 1, 2, 3)
            raw = self.vae.encode((pixels.float() / 127.5 - 1).to(self.vae.dtype)).latent_dist.mode().float()
            return ((raw - self.latent_mean) / self.latent_std).transpose(1, 2)

    def to_tensors(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """See :class:`LatentCodec`; the autoencoder's weights included, so that a checkpoint stands alone."""
        config = {key: value for key, value in self.vae.config.items() if not key.startswith("_")}
        return dict(self.vae.state_dict()), {"kind": self.kind, "image_shape": list(self.image_shape), "vae": config}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any]) -> Self:
        """Rebuild from :meth:`to_tensors`."""
        vae = cls.vae_class.from_config(record["vae"])
        vae.load_state_dict(dict(tensors))
        return cls(vae.to(next(iter(tensors.values())).dtype), *record["image_shape"])


class CogVideoXVaeCodec(_VaeCodec):
    """CogVideoX's causal video autoencoder: 8 x 8 px and 4 frames a latent, 16 channels, one scaling factor."""

    kind = "cogvideox_vae"
    vae_class = AutoencoderKLCogVideoX

    def _spatial_ratio(self) -> int:
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def _temporal_ratio(self) -> int:
        return int(self.vae.config.temporal_compression_ratio)

    def _latent_statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        channels = self.vae.config.latent_channels
        return torch.zeros(channels), torch.full((channels,), 1 / self.vae.config.scaling_factor)

    def _decode_raw(self, raw: torch.Tensor) -> torch.Tensor:
        # Diffusers tells the first latent (one frame) from the others (four) by an odd number of latents; an even number
        # would give four frames for each. So an even clip is decoded with its last latent repeated, and the repetition cut.
        if raw.shape[2] % 2:
            return super()._decode_raw(raw)
        return super()._decode_raw(torch.cat([raw, raw[:, :, -1:]], dim=2))[:, :, : -self.temporal_ratio]


class WanVaeCodec(_VaeCodec):
    """Wan's causal video autoencoder (2.2: 16 x 16 px and 4 frames a latent, 48 channels), scaled per channel."""

    kind = "wan_vae"
    vae_class = AutoencoderKLWan

    def _spatial_ratio(self) -> int:
        return 2 ** (len(self.vae.config.dim_mult) - 1) * (self.vae.config.patch_size or 1)

    def _temporal_ratio(self) -> int:
        return 2 ** sum(self.vae.config.temperal_downsample)

    def _latent_statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(self.vae.config.latents_mean), torch.tensor(self.vae.config.latents_std)


_CODECS: dict[str, Any] = {codec.kind: codec for codec in (PatchCodec, CogVideoXVaeCodec, WanVaeCodec)}


def codec_from_tensors(tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any]) -> LatentCodec:
    """Rebuild a codec from its ``to_tensors``.

    Raises:
        CheckpointError: if the kind is unknown, or something is missing or unexpected.
        NonFiniteError: if a tensor holds NaN or infinity.
    """
    codec = _CODECS.get(record.get("kind", ""))
    if codec is None:
        raise CheckpointError(f"unknown codec {record.get('kind')!r}; known are {sorted(_CODECS)}")
    require_finite_tensors(tensors, f"the checkpoint's {record['kind']} codec")
    try:
        return codec.from_tensors(tensors, record)
    except (KeyError, RuntimeError, SpecError) as error:
        raise CheckpointError(f"the checkpoint's {record['kind']} codec cannot be rebuilt ({error})") from None


@dataclass(frozen=True, kw_only=True)
class ReconstructionError:
    """What a codec loses, over N images."""

    variance_kept: float
    """1 - (mean squared error) / (variance around the mean image); 1 is perfect, 0 is the mean image."""
    psnr_db: float
    """10 log10(255^2 / mean squared error)."""


def reconstruction_error(codec: LatentCodec, images: NDArray[np.uint8]) -> ReconstructionError:
    """Encode and decode ``images`` uint8 [N, H, W, 3] (best: ones the codec was not fitted on) and compare."""
    decoded = codec.decode(codec.encode(images)).astype(np.float32)
    error = float(np.square(decoded - images).mean())
    variance = float(np.square(images - images.mean(axis=0, dtype=np.float32)).mean())
    psnr = float("inf") if error == 0 else float(10 * np.log10(255**2 / error))
    return ReconstructionError(variance_kept=1 - error / max(variance, 1e-12), psnr_db=psnr)


def _to_patches(images: torch.Tensor, patch_px: int) -> torch.Tensor:
    """[N, H, W, 3] -> [N, h * w, P * P * 3], row by row."""
    patches = images.unflatten(2, (-1, patch_px)).unflatten(1, (-1, patch_px)).transpose(2, 3)
    return patches.flatten(3).flatten(1, 2)


def _principal_components(centred: torch.Tensor, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Leading eigenvectors [D, count] and variances [count] of ``centred`` [M, D], largest first.

    Subspace iteration on a few more vectors than asked (Halko et al. 2011, arXiv:0909.4061, Alg. 4.4): seconds where a
    full eigendecomposition of 3072 x 3072 takes far longer. Signs are fixed so that equal data give equal bases.
    """
    oversampled = min(count + 32, *centred.shape)
    basis = torch.linalg.qr(torch.randn(centred.shape[1], oversampled, generator=generator)).Q
    for _ in range(5):
        basis = torch.linalg.qr(centred.T @ (centred @ basis)).Q
    projected = centred @ basis
    variance, rotation = torch.linalg.eigh(projected.T @ projected / len(centred))
    vectors = (basis @ rotation).flip(1)[:, :count]
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return vectors * largest.sign(), variance.flip(0)[:count].clamp_min(0)


def _require_images(images: NDArray[np.uint8], shape: tuple[int, int] | None) -> None:
    expected = ("H", "W") if shape is None else shape
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or (shape and images.shape[1:3] != shape):
        raise SpecError(f"images are {images.dtype} {images.shape}; expected uint8 (N, {expected[0]}, {expected[1]}, 3)")


def _require_clips(frames: NDArray[np.uint8], shape: tuple[int, int], temporal_ratio: int) -> None:
    if frames.ndim != 5 or (frames.shape[1] - 1) % temporal_ratio:
        raise SpecError(
            f"frames are {frames.dtype} {frames.shape}; expected uint8 (N, F, {shape[0]}, {shape[1]}, 3) "
            f"with F = 1 + a multiple of {temporal_ratio}"
        )
    _require_images(frames[:, 0], shape)


def _require_latents(latents: torch.Tensor, shape: tuple[int, int, int]) -> None:
    if latents.shape[1:] != shape:
        raise SpecError(f"latents are {tuple(latents.shape)}; expected (N, {shape[0]}, {shape[1]}, {shape[2]})")
