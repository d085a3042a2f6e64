"""The GPU half of ``benchmarks.bench_models``: random-weight networks in bf16 against what the device's products allow.

Every section is a function of a :class:`Bench`, which names device, preset and sizes: the tests run them at ``tiny`` on a CPU.
"""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.fp8 import ATTENTION, FEED_FORWARD, swap_to_fp8
from benchmarks.model_costs import Cost, counted_flops, interleaved_s, square_product
from benchmarks.model_subjects import drawn_chunks, env_spec, episode, network_passes, policy, value_model
from benchmarks.report import Section, write_sections
from core.errors import ConfigError
from core.experience import Episode
from core.windows import episode_windows
from models.latent_cache import CachesLatents, LatentCache
from models.value_config import ValueKind
from models.videovla import VideoVla
from models.videovla_config import AttentionMask

MATMUL_SIZE = 8192
VALUE_GOAL_S = 0.020
"""ViVa, a frame, batched, one step."""
CHUNK_GOAL = 1.3
"""VideoVLA, times its floor, for equal steps."""
VALUE_TOLERANCE = 0.01
"""Of a value in [-1, 0]: two of the 201 bins."""
ACTION_TOLERANCE = 0.02
"""Of a normalised action in [-1, 1]: a hundredth of its range."""
VELOCITY_TOLERANCE = 0.05
"""Of the norm of a predicted velocity."""
STEPS = (1, 4, 10)
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
HEADINGS = ("what", "batch", "ms each", "TFLOP each", "TFLOP/s", "times its floor")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is measured where."""

    device: torch.device
    dtype: torch.dtype
    preset: str
    floor_flops_per_s: float
    value_batches: tuple[int, ...] = (1, 8, 32, 64)
    chunk_batches: tuple[int, ...] = (1, 4)
    compile_modes: tuple[str, ...] = ("default", "max-autotune")
    repeats: int = 10

    def cost(self, call: Callable[[], object], *, flops: int | None = None) -> Cost:
        """Of one call, which is warmed up first (what it keeps the first time is not computed again)."""
        call()
        flops = counted_flops(call) if flops is None else flops
        seconds = interleaved_s([call], self.device, repeats=self.repeats, warmup=2)[0]
        return Cost(flops=flops, seconds=seconds, floor_flops_per_s=self.floor_flops_per_s)

    def policy(self, **changes: Any) -> VideoVla:
        """With random weights."""
        return policy(self.preset, device=self.device, dtype=self.dtype, **changes)

    def value_model(self, kind: ValueKind, **changes: Any) -> Any:
        """With random weights."""
        return value_model(kind, self.preset, device=self.device, dtype=self.dtype, **changes)

    def episode(self, num_observations: int) -> Episode:
        """Random images."""
        return episode(env_spec(self.preset), num_observations - 1)


def measure_gpu() -> None:
    """Write ``results/DATE-models_gpu.md``.

    Raises:
        ConfigError: where torch finds no CUDA device.
    """
    if not torch.cuda.is_available():
        raise ConfigError(
            "benchmarks.bench_models --gpu runs 5b networks on a CUDA device, and torch finds none on this machine; "
            "python -m benchmarks models counts what they compute without one"
        )
    device = torch.device("cuda")
    floor = 2 * MATMUL_SIZE**3 / interleaved_s([square_product(device, torch.bfloat16, MATMUL_SIZE)], device, repeats=20)[0]
    bench = Bench(device=device, dtype=torch.bfloat16, preset="5b", floor_flops_per_s=floor)
    sections = []
    for make in (chunk_section, value_section, prefix_section, backend_section, compile_section, fp8_section):
        sections.append(make(bench))
        sections[-1].show()
    title = f"5b networks with random weights on {torch.cuda.get_device_name()}"
    how = f"bf16, medians. Floor: at the {floor / 1e12:.0f} TFLOP/s of a {MATMUL_SIZE}x{MATMUL_SIZE} product, measured here."
    write_sections("models_gpu", title=title, command="python -m benchmarks.bench_models --gpu", how=how, sections=sections)


def chunk_section(bench: Bench) -> Section:
    """VideoVLA: whole chunks, from the camera's image to actions, and the network's passes alone."""
    rows, verdicts = [], []
    for batch in bench.chunk_batches:
        seen = bench.episode(max(2, batch))
        for steps in STEPS:
            with freed():
                drawing = bench.policy(denoise_steps=steps)
                network = bench.cost(network_passes(drawing, batch, steps))
                whole = bench.cost(drawn_chunks(drawing, seen, batch))
            rows.append(_row(f"network, {steps} steps", batch, network))
            rows.append(_row(f"with image and autoencoder, {steps} steps", batch, whole))
            verdicts.append(f"{steps} steps, batch {batch}: {network.floor_ratio:.2f} x")
    return Section(
        question="VideoVLA: an action chunk",
        headings=HEADINGS,
        rows=rows,
        notes=(
            f"Goal: the network's passes at most {CHUNK_GOAL} times their floor for equal steps; found {'; '.join(verdicts)}.",
        ),
    )


def value_section(bench: Bench) -> Section:
    """Every value model, with its images and from latents that are kept."""
    rows, best_s = [], {}
    for kind in ValueKind:
        for steps in STEPS if kind is not ValueKind.VLM else (1,):
            with freed():
                model = bench.value_model(kind, **({} if kind is ValueKind.VLM else {"denoise_steps": steps}))
                for batch in bench.value_batches:
                    windows = episode_windows(bench.episode(max(2, batch)), np.arange(batch), model.window_spec)
                    predict = functools.partial(model.predict, windows)
                    whole = bench.cost(predict)
                    rows.append(_row(f"{kind.value}, {steps} steps, with images", batch, whole))
                    if isinstance(model, CachesLatents):
                        model.latent_cache = LatentCache(2 * 1024**3)
                        kept = bench.cost(predict)
                        model.latent_cache = None
                        rows.append(_row(f"{kind.value}, {steps} steps, latents kept", batch, kept))
                    if kind is ValueKind.VIVA and steps == 1:
                        best_s[batch] = whole.seconds / batch
    best = min(best_s.values())
    verdict = "met" if best <= VALUE_GOAL_S else "missed"
    return Section(
        question="Values",
        headings=HEADINGS,
        rows=rows,
        notes=(
            f"Goal: ViVa, images included, at most {1000 * VALUE_GOAL_S:.0f} ms a frame: {1000 * best:.1f} ms, {verdict}.",
            "Windows of neighbouring observations; WVM's share most of their chunks.",
        ),
    )


def prefix_section(bench: Bench) -> Section:
    """Block-causal VideoVLA with its prefix kept, against made anew at every step."""
    rows = []
    for steps in STEPS:
        with freed():
            drawing = bench.policy(attention=AttentionMask.BLOCK_CAUSAL)
            cached, uncached = (bench.cost(network_passes(drawing, 1, steps, is_cached=kept)) for kept in (True, False))
        rows += [_row(f"prefix kept, {steps} steps", 1, cached), _row(f"made at every step, {steps} steps", 1, uncached)]
    return Section(question="VideoVLA, block-causal", headings=HEADINGS, rows=rows)


def backend_section(bench: Bench) -> Section:
    """One pass of either network under each form of attention."""
    rows = []
    for name, _, call, batch in _networks(bench):
        flops = counted_flops(call)
        for backend, kind in BACKENDS.items():
            try:
                with sdpa_kernel(kind):
                    rows.append(_row(f"{name}, {backend}", batch, bench.cost(call, flops=flops)))
            except (RuntimeError, torch.OutOfMemoryError) as error:
                rows.append((f"{name}, {backend}", str(batch), f"not possible: {str(error).splitlines()[0][:60]}", "", "", ""))
    return Section(question="Attention back ends, one pass", headings=HEADINGS, rows=rows)


def compile_section(bench: Bench) -> Section:
    """One pass of either network, compiled."""
    rows, notes = [], []
    for name, network, call, batch in _networks(bench):
        flops = counted_flops(call)
        rows.append(_row(f"{name}, eager", batch, bench.cost(call, flops=flops)))
        for mode in bench.compile_modes:
            torch.compiler.reset()
            network.compile(mode=mode)
            started_s = time.perf_counter()
            call()
            notes.append(f"{name}, {mode}: compiled in {time.perf_counter() - started_s:.0f} s.")
            rows.append(_row(f"{name}, {mode}", batch, bench.cost(call, flops=flops)))
    return Section(question="torch.compile, one pass", headings=HEADINGS, rows=rows, notes=notes)


def fp8_section(bench: Bench) -> Section:
    """Eight-bit products, and what they do to chunks and values, against bf16 with the same weights."""
    batch = bench.value_batches[-1]
    seen = bench.episode(max(2, batch))
    rows: list[tuple[str, ...]] = []
    for within, what in ((FEED_FORWARD, "feed-forward"), ((*FEED_FORWARD, *ATTENTION), "feed-forward and attention")):
        with freed():
            drawing = bench.policy()
            draw, normalize = drawn_chunks(drawing, seen, 1), drawing.normalization.action.normalize
            chunk = functools.partial(lambda draw, normalize: normalize(draw()), draw, normalize)
            rows += _against_bf16(bench, f"VideoVLA, {what}", drawing.network, within, 1, chunk, ACTION_TOLERANCE)
        with freed():
            viva = bench.value_model(ValueKind.VIVA)
            encoded = viva.encode_windows(episode_windows(seen, np.arange(batch), viva.window_spec))
            values = functools.partial(lambda viva, encoded: viva.predict_from_latents(encoded).value, viva, encoded)
            rows += _against_bf16(bench, f"ViVa, {what}", viva.transformer, within, batch, values, VALUE_TOLERANCE)
    return Section(
        question="Eight-bit products (float8 e4m3, a scale a token and a channel)",
        headings=(*HEADINGS, "largest change", "relative error of the velocity", "holds"),
        rows=rows,
        notes=(
            f"Holds: no value changes by more than {VALUE_TOLERANCE}, no normalised action by more than {ACTION_TOLERANCE}, and "
            f"the last pass's velocity by no more than {VELOCITY_TOLERANCE:.0%} of its norm.",
            "Weights are random; trained ones have to be tried again before they are served so. Floor: of a bf16 product.",
        ),
    )


def _against_bf16(
    bench: Bench,
    name: str,
    network: torch.nn.Module,
    within: tuple[str, ...],
    batch: int,
    use: Callable[[], np.ndarray],
    tolerance: float,
) -> list[tuple[str, ...]]:
    """Two rows; ``network`` is in eight bits afterwards."""
    plain, (before, velocity) = bench.cost(use), _with_output(network, use)
    count = swap_to_fp8(network, within)
    after, eight_bit_velocity = _with_output(network, use)
    change = float(np.abs(after - before).max())
    error = float((eight_bit_velocity - velocity).norm() / velocity.norm())
    eight_bit = bench.cost(use, flops=plain.flops)
    verdict = "yes" if change <= tolerance and error <= VELOCITY_TOLERANCE else "no"
    return [
        (*_row(f"{name}, bf16", batch, plain), "", "", ""),
        (*_row(f"{name}, {count} layers in fp8", batch, eight_bit), f"{change:.1e}", f"{error:.1e}", verdict),
    ]


def _with_output(network: torch.nn.Module, use: Callable[[], np.ndarray]) -> tuple[np.ndarray, torch.Tensor]:
    """What ``use`` gives, and the network's own output in its last pass."""
    outputs: list[torch.Tensor] = []
    hook = network.register_forward_hook(lambda module, inputs, output: outputs.append(output[0]))
    try:
        return use(), outputs[-1].float()
    finally:
        hook.remove()


def _networks(bench: Bench) -> Iterator[tuple[str, torch.nn.Module, Callable[[], object], int]]:
    """(name, network, one pass of it, batch) of VideoVLA and of ViVa; freed when the next is asked for."""
    with freed():
        drawing = bench.policy()
        yield "VideoVLA", drawing.network, network_passes(drawing, 1, 1), 1
    with freed():
        viva, batch = bench.value_model(ValueKind.VIVA), bench.value_batches[-1]
        encoded = viva.encode_windows(episode_windows(bench.episode(max(2, batch)), np.arange(batch), viva.window_spec))
        yield "ViVa", viva.transformer, lambda: viva.predict_from_latents(encoded), batch


@contextmanager
def freed() -> Iterator[None]:
    """What was made within is given back to the device after it."""
    yield
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _row(what: str, batch: int, cost: Cost) -> tuple[str, ...]:
    each = (f"{1000 * cost.seconds / batch:.2f}", f"{cost.flops / batch / 1e12:.3g}")
    return (what, str(batch), *each, f"{cost.flops_per_s / 1e12:.3g}", f"{cost.floor_ratio:.2f}")
