"""What a pass of a network costs: operations counted as torch runs them, and the least time that they could take.

A floor is operations over the rate of one large matrix product in the same precision, measured on the same device in the same
run; what takes 1.3 times its floor keeps the multipliers busy 77 % of the time. :data:`H200` has published rates instead, for
arithmetic where no such device is at hand; no product reaches those.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True, kw_only=True)
class DeviceRates:
    """Published peaks of an accelerator."""

    name: str
    bf16_flops_per_s: float
    """Dense."""
    fp8_flops_per_s: float
    bytes_per_s: float
    """Of its memory."""


H200 = DeviceRates(name="H200 SXM", bf16_flops_per_s=989e12, fp8_flops_per_s=1979e12, bytes_per_s=4.8e12)
"""NVIDIA's data sheet; dense, that is half of the rates it prints for sparse matrices."""


def counted_flops(call: Callable[[], object]) -> int:
    """Operations of matrix products, convolutions and attention in one ``call``; a multiplication and an addition are two.

    Attention is counted as its two products, all of them, as torch's plain form runs it: of a masked one the masked part too.
    """
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return int(counter.get_total_flops())


def square_product(device: torch.device, dtype: torch.dtype, size: int) -> Callable[[], object]:
    """The product of two random ``size`` x ``size`` matrices: ``2 * size**3`` operations."""
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(size, size, generator=generator, device=device).to(dtype) for _ in range(2))
    return lambda: left @ right


def interleaved_s(calls: Sequence[Callable[[], object]], device: torch.device, *, repeats: int, warmup: int = 1) -> list[float]:
    """Median times of calls that take turns, in seconds, each until the device has done all of it.

    On a CPU it is the processor's time of this process, which in one thread is what a quiet machine's clock would show, also
    where others share the machine; on a GPU it is the clock's.
    """
    for _ in range(warmup):
        for call in calls:
            call()
    rounds = [[_seconds(call, device) for call in calls] for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    _wait_for(device)
    started_s = clock()
    call()
    _wait_for(device)
    return clock() - started_s


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One call: what it had to compute, how long it took, how long it had to take."""

    flops: int
    seconds: float
    floor_flops_per_s: float

    @property
    def flops_per_s(self) -> float:
        """Achieved."""
        return self.flops / self.seconds

    @property
    def floor_s(self) -> float:
        """The least time."""
        return self.flops / self.floor_flops_per_s

    @property
    def floor_ratio(self) -> float:
        """How many times its floor it took."""
        return self.seconds / self.floor_s
