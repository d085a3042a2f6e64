"""What is said about speed: operations are counted right, savings change no result, and the GPU's half runs (small, on a CPU)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from model_toys import CAMERA
from value_toys import clip_windows, small_value_model

from benchmarks import bench_models, gpu_models
from benchmarks.fp8 import ATTENTION, FEED_FORWARD, Fp8Linear, swap_to_fp8
from benchmarks.gpu_models import Bench
from benchmarks.model_arithmetic import videovla_block_causal, wan_pass, wvm_passes
from benchmarks.model_costs import Cost, counted_flops, interleaved_s
from benchmarks.model_subjects import env_spec, episode, network_passes, policy
from core.errors import ConfigError
from models.value_config import ValueKind
from models.value_inputs import embedded_instructions
from models.videovla_config import AttentionMask
from models.viva_config import viva_config
from models.wvm_clips import Chunks

CPU = torch.device("cpu")


def wan_flops(config, frames):
    """Of one pass of Wan's transformer, from its description."""
    width = config.num_attention_heads * config.attention_head_dim
    channels, height, grid_width = config.latent_shape
    patch = config.patch_height * config.patch_width * channels
    tokens = frames * height * grid_width * channels // patch
    words = config.text_length
    layer = 4 * tokens * width**2 + 2 * tokens * tokens * width  # q, k, v, out; scores and their sums
    layer += 2 * tokens * width**2 + 2 * words * width**2 + 2 * tokens * words * width
    layer += 2 * tokens * width * config.ffn_dim
    outside = 2 * tokens * patch * width  # into tokens and back
    outside += words * (config.text_dim * width + width**2) + config.time_embed_dim * width + width**2 + 6 * width**2
    return 2 * (config.num_layers * layer + outside)


@pytest.mark.parametrize("kind", [ValueKind.VIVA, ValueKind.VALUE_ONLY])
def test_counted_operations_are_those_of_the_description(kind):
    frames = {ValueKind.VIVA: 5, ValueKind.VALUE_ONLY: 3}[kind]
    assert wan_pass(kind, "tiny").flops == wan_flops(viva_config("tiny"), frames)


def test_the_device_that_counts_allocates_nothing_and_counts_the_same():
    drawing = policy("tiny", device=CPU, dtype=torch.float32, attention=AttentionMask.BLOCK_CAUSAL)
    counted = sum(part.flops for part in videovla_block_causal("tiny"))
    assert counted_flops(network_passes(drawing, 1, 1)) == counted


def test_attention_is_counted_though_a_cpu_hides_it():
    query = torch.zeros(1, 2, 64, 16)
    assert (
        counted_flops(lambda: torch.nn.functional.scaled_dot_product_attention(query, query, query)) == 2 * 2 * 2 * 64 * 64 * 16
    )


def test_a_labelled_frame_of_wvm_is_mostly_its_video():
    video, value = wvm_passes("tiny")
    assert 0 < value.flops < video.flops


def test_costs_are_ratios_of_what_was_measured():
    cost = Cost(flops=400, seconds=2.0, floor_flops_per_s=500.0)
    assert (cost.flops_per_s, cost.floor_s, cost.floor_ratio) == (200.0, 0.8, 2.5)
    calls = []
    medians = interleaved_s([lambda: calls.append("a"), lambda: calls.append("b")], CPU, repeats=2)
    assert calls == ["a", "b"] * 3
    assert len(medians) == 2


# -- savings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"num_future_frames": 2}])
def test_a_kept_prefix_changes_no_velocity(changes):
    drawing = policy("tiny", device=CPU, dtype=torch.float32, attention=AttentionMask.BLOCK_CAUSAL, **changes)
    outputs = [network_passes(drawing, 2, 3, is_cached=kept)() for kept in (True, False)]
    assert bench_models.largest_difference(*outputs) == 0
    assert float(outputs[0][0][0].abs().max()) > 1e-3, "a network that says nothing would show nothing"


def test_a_frame_of_many_chunks_is_encoded_once_and_as_in_each_of_them():
    model = small_value_model("wvm")
    windows, _ = clip_windows(model, count=4)
    frames = windows.images[CAMERA]
    steps = [[("episode", t + offset) for offset in model.window_spec.image_offsets] for t in windows.t.tolist()]
    chunks = Chunks.cut(frames, windows.instruction, steps, model.config)
    whole = model.codec.encode_video(chunks.frames[chunks.clips])[:, 1:].transpose(1, 2)
    torch.testing.assert_close(model._current_latents(chunks), whole, atol=1e-6, rtol=0)
    assert len(chunks.frames) < chunks.clips.size


@pytest.mark.parametrize("kind", ["viva", "value_only", "wvm"])
def test_a_text_that_all_share_is_read_once_and_says_the_same(kind, monkeypatch):
    model = small_value_model(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    windows, target = clip_windows(model)
    others = dataclasses.replace(windows, instruction=("leave it alone",) * len(windows))

    def answers():
        generator = torch.Generator().manual_seed(0)
        return model.predict(windows).value, model.loss(windows, target, generator).per_example.detach().numpy()

    shared, flops = answers(), counted_flops(lambda: model.predict(windows))
    module = {"wvm": "models.wvm"}.get(kind, "models.viva")
    monkeypatch.setattr(f"{module}.shared_instructions", embedded_instructions)
    for once, each in zip(shared, answers(), strict=True):
        np.testing.assert_allclose(once, each, atol=1e-5)
    assert flops < counted_flops(lambda: model.predict(windows))
    assert abs(model.predict(others).value - shared[0]).max() > 1e-4, "the text must matter, or the test shows nothing"


# -- eight bits -------------------------------------------------------------------------------------------------------


def test_eight_bit_products_are_close_and_shape_is_kept():
    torch.manual_seed(0)
    linear, tokens = torch.nn.Linear(64, 48), torch.randn(2, 5, 64)
    tokens[0, 0] *= 1000  # a scale a token: one that is large spoils no other
    with torch.no_grad():
        exact, found = linear(tokens), Fp8Linear(linear)(tokens)
    assert (found.shape, found.dtype) == (exact.shape, exact.dtype)
    error = (found - exact).norm(dim=-1) / exact.norm(dim=-1)
    assert 1e-4 < float(error.max()) < 0.06


def test_only_what_is_asked_for_and_fits_is_swapped():
    network = torch.nn.ModuleDict(
        {
            "ff": torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Linear(64, 40)),
            "attn1": torch.nn.ModuleDict({"to_q": torch.nn.Linear(32, 32)}),
            "norm1": torch.nn.Linear(32, 32),
        }
    )
    assert swap_to_fp8(network, FEED_FORWARD) == 1
    assert isinstance(network["ff"][0], Fp8Linear)
    assert isinstance(network["ff"][1], torch.nn.Linear), "40 is no multiple of 16"
    assert swap_to_fp8(network, (*FEED_FORWARD, *ATTENTION)) == 1
    assert isinstance(network["norm1"], torch.nn.Linear)


# -- the reports ------------------------------------------------------------------------------------------------------


def test_without_a_gpu_the_gpus_half_says_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"on a CUDA device, and torch finds none .*python -m benchmarks models counts"):
        bench_models.main(["--gpu"])


@pytest.fixture
def small_bench():
    """The GPU's sections at a size for a CPU."""
    return Bench(
        device=CPU,
        dtype=torch.bfloat16,
        preset="tiny",
        floor_flops_per_s=1e9,
        value_batches=(2,),
        chunk_batches=(1,),
        compile_modes=(),
        repeats=1,
    )


@pytest.mark.slow
def test_eight_bit_section_judges_by_what_changes(small_bench, monkeypatch):
    rows = gpu_models.fp8_section(small_bench).rows
    assert [row[-1] for row in rows[0::2]] == [""] * 4
    assert all("layers in fp8" in row[0] and 0 < float(row[-2]) < 1 for row in rows[1::2])
    monkeypatch.setattr(gpu_models, "VELOCITY_TOLERANCE", 0.0)
    assert {row[-1] for row in gpu_models.fp8_section(small_bench).rows[1::2]} == {"no"}


@pytest.mark.slow
@pytest.mark.parametrize("section", ["chunk", "value", "prefix", "backend", "compile"])
def test_every_section_of_the_gpus_half_runs(section, small_bench, monkeypatch):
    monkeypatch.setattr(gpu_models, "STEPS", (1, 2))
    bench = dataclasses.replace(small_bench, compile_modes=("default",) if section == "compile" else ())
    table = getattr(gpu_models, f"{section}_section")(bench)
    assert table.rows
    assert all(len(row) == len(table.headings) for row in table.rows)
    for row in table.rows:
        assert "not possible" in row[2] or float(row[5]) > 0


@pytest.mark.slow
def test_every_section_of_the_cpus_half_runs(monkeypatch):
    monkeypatch.setattr(bench_models, "BATCH", 2)
    monkeypatch.setattr(bench_models, "STEPS", (1, 2))
    seen = episode(env_spec("tiny"), 3)
    sections = [
        bench_models.pass_section(repeats=1),
        bench_models.steps_section(repeats=1),
        bench_models.label_section(seen, repeats=1),
        bench_models.prefix_section(repeats=1),
        bench_models.arithmetic_section(),
    ]
    for table in sections:
        assert all(len(row) == len(table.headings) for row in table.rows)
    np.testing.assert_array_equal([row[-1] for row in sections[3].rows], "0.0e+00")
