"""What do the networks cost: a pass forward and backward, a denoising step, a label; and how far is that from the least possible?

``python -m benchmarks models`` measures ``tiny`` on this machine's CPU and counts ``5b`` without running it;
``python -m benchmarks.bench_models --gpu`` measures random-weight ``5b`` networks on a GPU (benchmarks/gpu_models.py).
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_models import measure_gpu
from benchmarks.model_arithmetic import arithmetic_section
from benchmarks.model_costs import Cost, counted_flops, interleaved_s, square_product
from benchmarks.model_subjects import drawn_chunks, env_spec, episode, network_passes, policy, value_model
from benchmarks.report import Section, write_sections
from core.command import run_command
from core.experience import Episode
from core.windows import episode_windows
from learners.losses import weighted_mean
from models.latent_cache import CachesLatents, LatentCache
from models.value_config import ValueKind
from models.videovla import VideoVla
from models.videovla_config import AttentionMask
from value_service.labeler import Labeler, LabelerConfig

CPU = torch.device("cpu")
PRESET = "tiny"
STEPS = (1, 4, 10)
BATCH = 32
LABEL_BATCHES = (1, 8, 32, 128)
EPISODE_STEPS = 127
MATMUL_SIZE = 1024
REPEATS = 7
HOW = "Processor time of one thread, float32, random weights, random images of 128x160; medians."
NAMES = {"videovla": "VideoVLA", "viva": "ViVa", "wvm": "WVM", "vlm": "VLM", "value_only": "value-only video"}


def main(arguments: Sequence[str] = ()) -> None:
    """Write ``results/DATE-models.md``, or with ``--gpu`` ``results/DATE-models_gpu.md``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_models", description=__doc__)
    parser.add_argument("--gpu", action="store_true", help="random-weight 5b networks in bf16 on a CUDA device, and nothing else")
    if parser.parse_args(arguments).gpu:
        measure_gpu()
        return
    torch.set_num_threads(1)
    makers: tuple[Callable[[], Section], ...] = (
        lambda: pass_section(repeats=REPEATS),
        lambda: steps_section(repeats=REPEATS),
        lambda: label_section(episode(env_spec(PRESET), EPISODE_STEPS), repeats=3),
        lambda: prefix_section(repeats=REPEATS),
        arithmetic_section,
    )
    sections = []
    for make in makers:
        sections.append(make())
        sections[-1].show()
    title = "What the networks cost: passes, denoising steps, labels"
    write_sections("models", title=title, command="python -m benchmarks models", how=HOW, sections=sections)


def pass_section(*, repeats: int) -> Section:
    """Every model, forward as it is used and forward and backward as it is trained."""
    seen, product = episode(env_spec(PRESET), BATCH - 1), square_product(CPU, torch.float32, MATMUL_SIZE)
    rows, floors = [], []
    for name in NAMES:
        for what, parameters, call in passes(name, seen):
            seconds, product_s = interleaved_s([call, product], CPU, repeats=repeats, warmup=2)
            floors.append(2 * MATMUL_SIZE**3 / product_s)
            cost = Cost(flops=counted_flops(call), seconds=seconds, floor_flops_per_s=floors[-1])
            numbers = (f"{cost.flops / 1e9:.2f}", f"{1000 * cost.seconds:.1f}", f"{cost.flops_per_s / 1e9:.0f}")
            rows.append((NAMES[name], what, f"{parameters / 1e6:.2f} M", *numbers, f"{cost.floor_ratio:.1f}"))
    return Section(
        question="Forward and backward of every model, `tiny`",
        headings=("model", "what", "parameters", "GFLOP", "ms (median)", "GFLOP/s", "times its floor"),
        rows=rows,
        notes=(
            f"{repeats} repeats. Operations are counted by torch (products, convolutions, attention). Floor: the same operations "
            f"at the rate of a {MATMUL_SIZE}x{MATMUL_SIZE} product that takes turns with the call, "
            f"{statistics.median(floors) / 1e9:.0f} GFLOP/s (median of the rows).",
            "All that a caller waits for is in it: checks, image encoding, text, noise, sampling.",
            f"Values: of {BATCH} neighbouring observations. Chunk: of one observation, {policy_steps()} denoising steps. "
            f"Training: loss and gradients of {BATCH} windows.",
        ),
    )


def policy_steps() -> int:
    """Denoising steps of the preset's policy."""
    return policy(PRESET, device=CPU, dtype=torch.float32).config.denoise_steps


def passes(name: str, seen: Episode) -> list[tuple[str, int, Callable[[], object]]]:
    """(what, trained parameters, call) of one model: acting or valuing, and training."""
    generator = torch.Generator().manual_seed(0)
    model: Any = _policy() if name == "videovla" else value_model(ValueKind(name), PRESET, device=CPU, dtype=torch.float32)
    windows = episode_windows(seen, np.arange(BATCH), model.window_spec)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if name == "videovla":
        forward, use = drawn_chunks(model, seen, 1), "a chunk"
        told = np.ones(BATCH, np.int8)

        def losses() -> torch.Tensor:
            return model.loss(windows, told, generator).per_example
    else:
        forward, use = (lambda: model.predict(windows)), f"{BATCH} values"
        offsets = len(model.window_spec.value_offsets)
        target = np.linspace(-0.9, -0.1, BATCH, dtype=np.float32)
        target = np.repeat(target[:, None], offsets, axis=1) if offsets else target

        def losses() -> torch.Tensor:
            return model.loss(windows, target, generator).per_example

    def train() -> None:
        per_example = losses()
        torch.autograd.grad(weighted_mean(per_example, torch.ones_like(per_example)), parameters, allow_unused=True)

    count = sum(parameter.numel() for parameter in parameters)
    return [(use, count, forward), (f"training, {BATCH}", count, train)]


def steps_section(*, repeats: int) -> Section:
    """A chunk and a value by the number of denoising steps."""
    seen = episode(env_spec(PRESET), BATCH - 1)
    rows = []
    for name in ("videovla", "viva", "value_only", "wvm"):
        seconds = interleaved_s([use_with_steps(name, seen, steps) for steps in STEPS], CPU, repeats=repeats)
        per = 1 if name == "videovla" else BATCH
        what = "a chunk" if name == "videovla" else f"a value, {BATCH} at once"
        rows.append((NAMES[name], what, *(f"{1000 * s / per:.2f}" for s in seconds), f"{seconds[-1] / seconds[0]:.1f}"))
    return Section(
        question="Denoising steps, `tiny`",
        headings=("model", "ms of", *(f"{steps} step{'s' * (steps > 1)}" for steps in STEPS), "10 steps against 1"),
        rows=rows,
        notes=(
            f"{repeats} interleaved repeats, medians. What does not depend on the step (images, text, what WVM's values read of "
            "the video) is computed once.",
        ),
    )


def use_with_steps(name: str, seen: Episode, steps: int) -> Callable[[], object]:
    """Draw one chunk, or predict the values of all observations."""
    if name == "videovla":
        return drawn_chunks(_policy(denoise_steps=steps), seen, 1)
    model = value_model(ValueKind(name), PRESET, device=CPU, dtype=torch.float32, denoise_steps=steps)
    windows = episode_windows(seen, np.arange(seen.num_steps + 1), model.window_spec)
    return lambda: model.predict(windows)


def label_section(of: Episode, *, repeats: int) -> Section:
    """Whole labels of an episode, by batch size, and again with the latents kept."""
    rows = []
    for kind in ValueKind:
        model = value_model(kind, PRESET, device=CPU, dtype=torch.float32)
        calls = [labelling(model, of, batch_size) for batch_size in LABEL_BATCHES]
        has_latents = isinstance(model, CachesLatents)
        if has_latents:
            keeping = value_model(kind, PRESET, device=CPU, dtype=torch.float32)
            keeping.latent_cache = LatentCache(1024**3)
            calls.append(labelling(keeping, of, 32))
        seconds = interleaved_s(calls, CPU, repeats=repeats)
        rates = [(of.num_steps + 1) / s for s in seconds]
        again = f"{rates[-1]:.0f} ({rates[-1] / rates[LABEL_BATCHES.index(32)]:.2f} x)" if has_latents else "reads pixels"
        rows.append((NAMES[kind.value], *(f"{rate:.0f}" for rate in rates[: len(LABEL_BATCHES)]), again))
    return Section(
        question="Labelling an episode: observations a second, `tiny`",
        headings=("model", *(f"batches of {size}" for size in LABEL_BATCHES), "batches of 32, latents kept"),
        rows=rows,
        notes=(
            f"{of.num_steps + 1} observations of 128x160, {repeats} interleaved repeats, medians: windows cut, values, "
            "returns, advantages.",
            "Latents kept: labelled once before, so that no image is encoded (in brackets: against the same batches without).",
        ),
    )


def labelling(model: Any, of: Episode, batch_size: int) -> Callable[[], object]:
    """Label the episode."""
    labeler = Labeler(model, LabelerConfig(batch_size=batch_size))
    return lambda: labeler.label(of)


def prefix_section(*, repeats: int) -> Section:
    """The clean prefix's keys and values made once a draw, against at every step."""
    sizes: dict[str, dict[str, Any]] = {
        "tiny": {},
        "13 latents of 20 tokens, 5 layers": {"num_future_frames": 12},
        "4 latents of 80 tokens, 5 layers": {"latent_px": 16, "num_future_frames": 3},
    }
    rows = []
    for size, changes in sizes.items():
        drawing = _policy(attention=AttentionMask.BLOCK_CAUSAL, **changes)
        for steps in STEPS:
            cached, uncached = (network_passes(drawing, 1, steps, is_cached=kept) for kept in (True, False))
            difference = largest_difference(cached(), uncached())
            seconds = interleaved_s([cached, uncached], CPU, repeats=repeats)
            saved = counted_flops(cached) / counted_flops(uncached)
            ratio = f"{seconds[0] / seconds[1]:.2f}"
            rows.append((size, str(steps), *(f"{1000 * s:.1f}" for s in seconds), ratio, f"{saved:.2f}", f"{difference:.1e}"))
    return Section(
        question="Block-causal VideoVLA: the prefix's keys and values once a draw, against at every step",
        headings=("size", "steps", "cached, ms", "uncached, ms", "time ratio", "operations ratio", "largest difference"),
        rows=rows,
        notes=(
            f"The network's passes of one draw, {repeats} interleaved repeats, medians; difference: "
            "of predicted velocities, whose largest is of the order of 1.",
        ),
    )


def largest_difference(ours: Sequence[Sequence[torch.Tensor]], theirs: Sequence[Sequence[torch.Tensor]]) -> float:
    """Between the outputs of two lists of passes."""
    return max(float((a - b).abs().max()) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True))


def _policy(**changes: Any) -> VideoVla:
    return policy(PRESET, device=CPU, dtype=torch.float32, **changes)


if __name__ == "__main__":
    sys.exit(run_command(lambda: main(sys.argv[1:])))
