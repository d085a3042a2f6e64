from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel, UMT5Config, UMT5EncoderModel

from core.errors import AssetError, CheckpointError, SpecError
from core.labels import Indicator
from models.text import HashedText, PrecomputedT5, text_from_tensors, with_every_indicator, with_indicator

PICK, OPEN = "pick coke can", "open top drawer"


def test_indicator_wording():
    assert with_indicator(PICK, Indicator.POSITIVE) == "pick coke can\nAdvantage: positive"
    assert with_indicator(PICK, 0) == "pick coke can\nAdvantage: negative"
    assert with_indicator(PICK, np.int8(-1)) == PICK
    assert len(with_every_indicator([PICK, OPEN, PICK])) == 6


@pytest.mark.parametrize("text", ["", "  \n"])
def test_empty_instruction_is_refused(text):
    with pytest.raises(SpecError, match="expected words"):
        with_indicator(text, Indicator.ABSENT)


class TestHashedText:
    def test_shapes_padding_and_case(self):
        embeddings, mask = HashedText(length=5, dim=16).embed([PICK, "Pick COKE can."])
        assert embeddings.shape == (2, 5, 16)
        assert mask.tolist() == [[True] * 3 + [False] * 2] * 2
        assert torch.equal(embeddings[0], embeddings[1])
        assert not embeddings[0, 3:].any()
        assert embeddings[0, :3].abs().eq(1).all()

    def test_is_the_same_on_every_machine(self):
        embeddings, _ = HashedText(length=2, dim=16).embed(["coke can"])
        assert embeddings[0, 0].int().tolist() == [1, 1, -1, 1, -1, 1, -1, -1, -1, 1, 1, -1, 1, -1, 1, -1]

    def test_words_indicators_and_order_differ(self):
        texts = [*with_every_indicator([PICK, OPEN]), "can coke pick"]
        embeddings, _ = HashedText().embed(texts)
        assert len({tuple(e.flatten().tolist()) for e in embeddings}) == 7
        same_words = embeddings[0, :3, :32], embeddings[6, :3, :32]
        assert torch.equal(same_words[0], same_words[1].flip(0)), "half of the channels do not depend on the place"

    @pytest.mark.parametrize("text", ["one two three four", "...", ""])
    def test_too_long_or_empty_text_is_refused(self, text):
        with pytest.raises(SpecError, match=r"takes 1\.\.3"):
            HashedText(length=3).embed([text])

    def test_round_trip(self):
        text = text_from_tensors(*HashedText(length=7, dim=32).to_tensors())
        assert (text.length, text.dim) == (7, 32)

    def test_odd_dim_is_refused(self):
        with pytest.raises(SpecError, match="even dim"):
            HashedText(dim=15)


@pytest.fixture(params=[(T5Config, T5EncoderModel), (UMT5Config, UMT5EncoderModel)], ids=["t5", "umt5"])
def encoder_directory(request, tmp_path):
    """A random text encoder laid out as CogVideoX-5B's and Wan2.2's directories are."""
    config_class, model_class = request.param
    torch.manual_seed(0)
    words = ["<pad>", "</s>", "<unk>", "pick", "coke", "can", "open", "top", "drawer", "Advantage", ":", "positive", "negative"]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(
        tmp_path / "tokenizer"
    )
    config = config_class(vocab_size=len(words), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    model_class(config).save_pretrained(tmp_path / "text_encoder")
    return tmp_path


class TestPrecomputedT5:
    def test_computes_what_the_encoder_says(self, encoder_directory):
        text = PrecomputedT5.compute(with_every_indicator([PICK, OPEN]), encoder_directory, length=10)
        assert (text.length, text.dim) == (10, 16)
        embeddings, mask = text.embed([with_indicator(PICK, Indicator.POSITIVE), PICK])
        assert embeddings.shape == (2, 10, 16)
        assert embeddings.dtype == torch.float32
        assert mask.sum(dim=1).tolist() == [6, 3]
        assert embeddings[1, 5:].any(), "CogVideoX encodes padding like words"
        assert not torch.allclose(embeddings[0], embeddings[1])

    def test_wan_has_zero_padding_that_words_do_not_see(self, encoder_directory):
        short = PrecomputedT5.compute([PICK], encoder_directory, length=4, zeroes_padding=True)
        long = PrecomputedT5.compute([PICK], encoder_directory, length=9, zeroes_padding=True)
        assert not long.embed([PICK])[0][0, 3:].any()
        torch.testing.assert_close(short.embed([PICK])[0][0, :3], long.embed([PICK])[0][0, :3])

    def test_file_and_tensors_round_trip_exactly(self, tmp_path):
        text = PrecomputedT5([PICK, OPEN], torch.randn(2, 3, 4).bfloat16(), torch.ones(2, 3, dtype=torch.bool))
        text.save(tmp_path / "text.safetensors")
        for again in (PrecomputedT5.load(tmp_path / "text.safetensors"), text_from_tensors(*text.to_tensors())):
            assert again.texts == (PICK, OPEN)
            for left, right in zip(again.embed([OPEN]), text.embed([OPEN]), strict=True):
                assert torch.equal(left, right)

    def test_unknown_text_is_refused(self):
        text = PrecomputedT5([PICK], torch.zeros(1, 3, 4), torch.ones(1, 3, dtype=torch.bool))
        with pytest.raises(SpecError, match=r"no precomputed embedding of 'open top drawer'; known are \['pick coke can'\]"):
            text.embed([PICK, OPEN])

    def test_shapes_that_disagree_are_refused(self):
        with pytest.raises(SpecError, match="1 texts with embeddings"):
            PrecomputedT5([PICK], torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool))

    def test_missing_directory_or_file_is_refused(self, tmp_path):
        with pytest.raises(AssetError, match="tokenizer is missing"):
            PrecomputedT5.compute([PICK], tmp_path)
        with pytest.raises(AssetError, match="no text embeddings at"):
            PrecomputedT5.load(tmp_path / "text.safetensors")

    def test_damaged_file_is_refused(self, tmp_path):
        (tmp_path / "text.safetensors").write_bytes(b"not safetensors")
        with pytest.raises(CheckpointError, match="does not hold text embeddings"):
            PrecomputedT5.load(tmp_path / "text.safetensors")


def test_unknown_embedder_is_refused():
    with pytest.raises(CheckpointError, match="unknown text embedder 'bert'"):
        text_from_tensors({}, {"kind": "bert"})
    with pytest.raises(CheckpointError, match="lacks 'dim'"):
        text_from_tensors({}, {"kind": "hashed", "length": 3})
