"""Turns instructions into token embeddings, and says how the advantage indicator is worded.

Hops 2 and 8 of the tour. Two embedders behind one interface: :class:`HashedText` needs no weights (``tiny``), and
:class:`PrecomputedT5` holds what a T5 or UMT5 encoder said of a known set of instructions (``5b``), so that neither
actors nor learners carry an 11 GB text encoder.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from core.errors import AssetError, CheckpointError, SpecError
from core.labels import Indicator
from models.loading import require_finite_tensors

_INDICATOR_TEXT = {
    Indicator.ABSENT: "",
    Indicator.NEGATIVE: "\nAdvantage: negative",
    Indicator.POSITIVE: "\nAdvantage: positive",
}


def with_indicator(instruction: str, indicator: Indicator | int) -> str:
    r"""Append the advantage indicator to an instruction (RECAP Sec. V-B; worded as in its paper).

    Example:
        >>> with_indicator("pick coke can", Indicator.POSITIVE)
        'pick coke can\nAdvantage: positive'

    Raises:
        SpecError: if the instruction is empty.
    """
    if not instruction.strip():
        raise SpecError(f"instruction is {instruction!r}; expected words, for example 'pick coke can'")
    return instruction + _INDICATOR_TEXT[Indicator(indicator)]


def with_every_indicator(instructions: Sequence[str]) -> tuple[str, ...]:
    """All texts that a policy may be given for ``instructions``: what to precompute."""
    return tuple(with_indicator(text, indicator) for text in dict.fromkeys(instructions) for indicator in Indicator)


class TextEmbedder(Protocol):
    """Texts -> token embeddings of a fixed length."""

    length: int
    """L, tokens."""
    dim: int
    """D, channels of a token."""

    def embed(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed B texts.

        Returns:
            float32 [B, L, D] and bool [B, L], true where there is a word; on the CPU. Padding as the encoder makes it
            (zeros for HashedText and for UMT5, the encoder's output for T5): CogVideoX attends to it unmasked.

        Raises:
            SpecError: if a text cannot be embedded.
        """
        ...

    def to_tensors(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and a JSON-like record for :func:`text_from_tensors`."""
        ...


class HashedText:
    """Words as fixed random signs: the same everywhere, no training data, no weights, any language.

    Differs from a learned table in that unseen words need no entry; related words are as far apart as unrelated ones.
    Half of the channels say which word it is, the rest are the word joined with its place, because the transformer
    gives text tokens no position of their own.
    """

    kind = "hashed"

    def __init__(self, length: int = 12, dim: int = 64) -> None:
        """Embed up to ``length`` words in ``dim`` channels (even)."""
        if length < 1 or dim < 2 or dim % 2:
            raise SpecError(f"HashedText length={length} dim={dim}; expected length >= 1 and an even dim >= 2")
        self.length = length
        self.dim = dim

    def embed(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`TextEmbedder`; words are runs of letters and digits, case does not matter."""
        embeddings = torch.zeros(len(texts), self.length, self.dim)
        mask = torch.zeros(len(texts), self.length, dtype=torch.bool)
        for row, text in enumerate(texts):
            words = re.findall(r"\w+", text.lower())
            if not words or len(words) > self.length:
                raise SpecError(
                    f"text {text!r} has {len(words)} words; HashedText takes 1..{self.length}. Use a shorter instruction or "
                    "more text tokens"
                )
            for place, word in enumerate(words):
                embeddings[row, place, : self.dim // 2] = _signs(word, self.dim // 2)
                embeddings[row, place, self.dim // 2 :] = _signs(f"{place} {word}", self.dim - self.dim // 2)
            mask[row, : len(words)] = True
        return embeddings, mask

    def to_tensors(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """See :class:`TextEmbedder`; there is nothing but two numbers."""
        return {}, {"kind": self.kind, "length": self.length, "dim": self.dim}


@functools.lru_cache(maxsize=4096)
def _signs(key: str, count: int) -> torch.Tensor:
    """``count`` signs -1 or +1 from the bits of SHA-256: no random generator whose stream a release may change."""
    blocks = (hashlib.sha256(f"{block} {key}".encode()).digest() for block in range(-(-count // 256)))
    bits = np.unpackbits(np.frombuffer(b"".join(blocks), np.uint8))[:count]
    return torch.from_numpy(bits.astype(np.float32) * 2 - 1)


class PrecomputedT5:
    """Embeddings computed once by a T5 (CogVideoX) or UMT5 (Wan) encoder, looked up by the exact text."""

    kind = "precomputed_t5"

    def __init__(self, texts: Sequence[str], embeddings: torch.Tensor, mask: torch.Tensor) -> None:
        """Hold ``embeddings`` [M, L, D] (any float type) and ``mask`` bool [M, L] of M distinct ``texts``."""
        if embeddings.ndim != 3 or mask.shape != embeddings.shape[:2] or len(texts) != len(embeddings):
            raise SpecError(
                f"{len(texts)} texts with embeddings {tuple(embeddings.shape)} and mask {tuple(mask.shape)}; "
                "expected [M, L, D] and [M, L] with M texts"
            )
        self.length, self.dim = embeddings.shape[1:]
        self._row = {text: row for row, text in enumerate(texts)}
        self._embeddings = embeddings
        self._mask = mask.bool()

    @property
    def texts(self) -> tuple[str, ...]:
        """What can be embedded."""
        return tuple(self._row)

    def embed(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`TextEmbedder`."""
        unknown = [text for text in texts if text not in self._row]
        if unknown:
            raise SpecError(
                f"no precomputed embedding of {unknown[0]!r}; known are {list(self._row)[:6]}. Compute it with "
                "models.text.PrecomputedT5.compute (every instruction with every indicator)"
            )
        rows = torch.tensor([self._row[text] for text in texts])
        return self._embeddings[rows].float(), self._mask[rows]

    @classmethod
    def compute(
        cls, texts: Sequence[str], directory: Path, *, length: int = 226, zeroes_padding: bool = False, device: str = "cpu"
    ) -> PrecomputedT5:
        """Run the text encoder of a local diffusers directory once.

        Args:
            texts: what to embed; see :func:`with_every_indicator`.
            directory: holds ``tokenizer/`` and ``text_encoder/``, as CogVideoX-5B and Wan2.2-TI2V-5B do.
            length: tokens; 226 for CogVideoX, 512 for Wan.
            zeroes_padding: false as in CogVideoX's pipeline (padding is encoded like words); true as in Wan's
                (padding is hidden from the encoder and its output is zero).
            device: where the encoder runs.

        Raises:
            AssetError: if the directory lacks a part.
        """
        from transformers import AutoConfig, AutoTokenizer, T5EncoderModel, UMT5EncoderModel

        directory = Path(directory)
        for part in ("tokenizer", "text_encoder"):
            if not (directory / part).is_dir():
                raise AssetError(
                    f"{directory / part} is missing; expected a diffusers directory with tokenizer/ and text_encoder/"
                )
        tokenizer = AutoTokenizer.from_pretrained(directory / "tokenizer", local_files_only=True)
        is_umt5 = AutoConfig.from_pretrained(directory / "text_encoder", local_files_only=True).model_type == "umt5"
        encoder_class = UMT5EncoderModel if is_umt5 else T5EncoderModel
        encoder = encoder_class.from_pretrained(
            directory / "text_encoder", local_files_only=True, use_safetensors=True, dtype="auto"
        ).to(device)
        distinct = list(dict.fromkeys(texts))
        tokens = tokenizer(distinct, padding="max_length", max_length=length, truncation=True, return_tensors="pt").to(device)
        mask = tokens.attention_mask.bool()
        with torch.inference_mode():
            hidden = encoder(tokens.input_ids, attention_mask=tokens.attention_mask if zeroes_padding else None).last_hidden_state
        if zeroes_padding:
            hidden = hidden * mask[..., None]
        return cls(distinct, hidden.cpu(), mask.cpu())

    def save(self, path: Path) -> None:
        """Write one safetensors file; the texts are its metadata."""
        save_file({"embeddings": self._embeddings, "mask": self._mask}, path, metadata={"texts": json.dumps(self.texts)})

    @classmethod
    def load(cls, path: Path) -> PrecomputedT5:
        """Read what :meth:`save` wrote.

        Raises:
            AssetError: if there is no such file.
            CheckpointError: if it is something else.
        """
        if not Path(path).is_file():
            raise AssetError(f"no text embeddings at {path}; make them with models.text.PrecomputedT5.compute(...).save(path)")
        try:
            with safe_open(path, framework="pt") as file:
                return cls(json.loads(file.metadata()["texts"]), file.get_tensor("embeddings"), file.get_tensor("mask"))
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} does not hold text embeddings ({error}); compute them again") from None

    def to_tensors(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """See :class:`TextEmbedder`."""
        return {"embeddings": self._embeddings, "mask": self._mask}, {"kind": self.kind, "texts": list(self.texts)}


def text_from_tensors(tensors: Mapping[str, torch.Tensor], record: Mapping[str, Any]) -> TextEmbedder:
    """Rebuild a text embedder from its ``to_tensors``.

    Raises:
        CheckpointError: if the kind is unknown or something is missing.
        NonFiniteError: if an embedding holds NaN or infinity.
    """
    try:
        if record["kind"] == HashedText.kind:
            return HashedText(length=record["length"], dim=record["dim"])
        if record["kind"] == PrecomputedT5.kind:
            require_finite_tensors(tensors, "the checkpoint's text embeddings")
            return PrecomputedT5(record["texts"], tensors["embeddings"], tensors["mask"])
    except KeyError as error:
        raise CheckpointError(f"text record {dict(record)} lacks {error}; the checkpoint is damaged") from None
    raise CheckpointError(f"unknown text embedder {record['kind']!r}; known are {HashedText.kind!r}, {PrecomputedT5.kind!r}")
