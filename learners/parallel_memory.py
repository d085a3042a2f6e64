"""What each of N processes holds of a model under FSDP2: parameters counted after sharding, bytes by arithmetic.

``python -m learners.parallel_memory [--preset 5b] [--processes 1 2 8 16]``. The networks are sharded for real, by the code that
trains them, but on the meta device and in a process group that only pretends: nothing is allocated, nobody else is needed.
Activations are not counted: they depend on the batch (``microbatch_size``) and on ``is_recomputed``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

from core.command import run_command, whole
from learners.parallel import FsdpRanks
from models import presets
from models.blocks import repeated_blocks

_GIB = 2**30
_BYTES = 4
"""Of float32, in which weights, gradients, moments and the moving average are kept."""


@dataclass(frozen=True, kw_only=True)
class RankMemory:
    """One row of the command's table: what rank 0 holds."""

    model: str
    num_processes: int
    num_parameters: int
    """Of the whole network."""
    own_parameters: int
    """Of this rank's shards."""
    gathered_parameters: int
    """Whole for a time: the largest block twice (the next one is fetched while one computes), and what is outside blocks."""

    @property
    def kept_gib(self) -> dict[str, float]:
        """Own parameters, gradients, AdamW's two moments, moving average."""
        one = self.own_parameters * _BYTES / _GIB
        return {"parameters": one, "gradients": one, "optimizer": 2 * one, "average": one}

    @property
    def gathered_gib(self) -> float:
        """Most that is gathered at once."""
        return self.gathered_parameters * _BYTES / _GIB


def rank_memory(model: str, network: nn.Module, num_processes: int) -> RankMemory:
    """Shard a network on the meta device over processes that do not exist; ``network`` is changed.

    Args:
        model: its name in the result.
        network: on the meta device.
        num_processes: of the learner.
    """
    num_parameters = _count(network)
    blocks = [_count(block) for block in repeated_blocks(network)]
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=num_processes)
    try:
        FsdpRanks().prepare(network)
        own = sum(_local(parameter).numel() for parameter in network.parameters())
    finally:
        dist.destroy_process_group()
    return RankMemory(
        model=model,
        num_processes=num_processes,
        num_parameters=num_parameters,
        own_parameters=own,
        gathered_parameters=num_parameters - sum(blocks) + 2 * max(blocks),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m learners.parallel_memory", description=__doc__)
    parser.add_argument("--preset", choices=presets.PRESETS, default="5b")
    parser.add_argument("--processes", type=whole(1), nargs="+", default=[1, 2, 8, 16], metavar="N")
    options = parser.parse_args(arguments)
    print("GiB a rank by arithmetic (float32; parameters counted after sharding); activations come on top")
    kept = ("parameters", "gradients", "optimizer", "average")
    print(f"{'model':<11}{'ranks':>6}{'own':>16}" + "".join(f"{name:>12}" for name in (*kept, "sum", "gathered")))
    for num_processes in options.processes:
        for model, (_, network) in presets.meta_networks(options.preset).items():
            row = rank_memory(model, network, num_processes)
            numbers = [*(row.kept_gib[name] for name in kept), sum(row.kept_gib.values()), row.gathered_gib]
            print(f"{model:<11}{num_processes:>6}{row.own_parameters:>16,}" + "".join(f"{number:>12.2f}" for number in numbers))


def _local(parameter: torch.Tensor) -> torch.Tensor:
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


if __name__ == "__main__":
    sys.exit(run_command(main))
