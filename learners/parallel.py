"""How several processes train one model: which rows each computes, how parameters and gradients are kept.

Hop 8 of the tour. A learner is written once, for a :class:`Ranks`; one process, data-parallel (DDP) and fully sharded (FSDP2,
``torch.distributed.fsdp.fully_shard``) are three of them. Noise and batches are defined by the step (``models/noise.py``), so
that all three take the same steps up to the rounding of sums.
"""

from __future__ import annotations

import contextlib
import enum
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from core.errors import ConfigError
from models.blocks import repeated_blocks

# Torch warns where a sharded block returns views, of which somebody might change one in place; nothing here does.
warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor", category=UserWarning)


class Parallel(enum.Enum):
    """How parameters are kept."""

    NONE = "none"
    """One process."""
    DDP = "ddp"
    """Whole in every process; gradients are averaged (arXiv:2006.15704)."""
    FSDP = "fsdp"
    """Each process keeps its part of parameters, gradients and optimizer state; a block is whole while it computes
    (arXiv:2304.11277)."""


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How many processes train a model, and how. What is learned does not depend on it, up to rounding."""

    parallel: Parallel = Parallel.NONE
    num_processes: int = 1
    """Of one learner; a run can be resumed with another number."""
    backend: str = "auto"
    """Of torch.distributed: ``gloo`` (CPU), ``nccl`` (GPU), or ``auto``: by the learner's device."""
    start_timeout_s: float = 300.0
    """How long starting the processes and building the learners in them may take."""

    def __post_init__(self) -> None:
        if self.num_processes < 1 or (self.parallel is Parallel.NONE and self.num_processes != 1):
            raise ConfigError(
                f"learner.num_processes is {self.num_processes} with learner.parallel={self.parallel.value}; expected at least "
                "1, and 1 where nothing is parallel: set learner.parallel=ddp or fsdp"
            )
        if self.backend not in ("auto", "gloo", "nccl"):
            raise ConfigError(f"learner.backend is {self.backend!r}; expected auto, gloo or nccl")

    def backend_on(self, device: torch.device) -> str:
        """The backend meant."""
        if self.backend != "auto":
            return self.backend
        return "nccl" if device.type == "cuda" else "gloo"


Loss: TypeAlias = Callable[..., tuple[torch.Tensor, Mapping[str, float]]]
"""The model's ``loss``, with its arguments: losses of examples [B], and unweighted means."""


class Ranks(Protocol):
    """The processes that train one model, as one of them (its rank) sees them."""

    rank: int
    size: int

    def prepare(self, model: nn.Module) -> Loss:
        """Spread the model over the processes; called once, before its parameters are listed."""
        ...

    def microbatch(self, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Around loss and backward pass of a microbatch; gradients are averaged over the processes in the last of a step."""
        ...

    def total(self, numbers: torch.Tensor) -> torch.Tensor:
        """Sums over the processes."""
        ...

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """A parameter, or what is kept like one, in one piece; all processes call this."""
        ...

    def own_part(self, tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`whole`: what this process keeps of it."""
        ...


class OneRank:
    """A single process: nothing is spread."""

    rank = 0
    size = 1

    def prepare(self, model: nn.Module) -> Loss:
        """See :class:`Ranks`."""
        return _LossModule(model)

    def microbatch(self, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """See :class:`Ranks`."""
        return contextlib.nullcontext()

    def total(self, numbers: torch.Tensor) -> torch.Tensor:
        """See :class:`Ranks`."""
        return numbers

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """See :class:`Ranks`."""
        return tensor

    def own_part(self, tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """See :class:`Ranks`."""
        return tensor.to(like.device)


class DdpRanks(OneRank):
    """Whole parameters in every process. The process group must have been started (``learners/parallel_rank.py``)."""

    def __init__(self) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        self._module: nn.parallel.DistributedDataParallel | None = None

    def prepare(self, model: nn.Module) -> Loss:
        """See :class:`Ranks`."""
        self._module = nn.parallel.DistributedDataParallel(_LossModule(model), forward_sync_buffers=False)
        return self._module

    @contextlib.contextmanager
    def microbatch(self, *, is_last: bool) -> Iterator[None]:
        """See :class:`Ranks`."""
        assert self._module is not None, "prepare comes first"
        with contextlib.nullcontext() if is_last else self._module.no_sync():
            yield

    def total(self, numbers: torch.Tensor) -> torch.Tensor:
        """See :class:`Ranks`."""
        dist.all_reduce(numbers)
        return numbers


class FsdpRanks(DdpRanks):
    """A part of every parameter in each process; blocks, and what is around them, are gathered while they compute."""

    def __init__(self) -> None:
        super().__init__()
        self._root: FSDPModule | None = None

    def prepare(self, model: nn.Module) -> Loss:
        """See :class:`Ranks`."""
        device = next(model.parameters()).device.type
        mesh: DeviceMesh = init_device_mesh("cpu" if device == "meta" else device, (self.size,))
        root = _LossModule(model)
        for block in repeated_blocks(model):
            fully_shard(block, mesh=mesh)
        self._root = fully_shard(root, mesh=mesh)
        return root

    @contextlib.contextmanager
    def microbatch(self, *, is_last: bool) -> Iterator[None]:
        """See :class:`Ranks`."""
        assert self._root is not None, "prepare comes first"
        self._root.set_requires_gradient_sync(is_last)
        yield

    def whole(self, tensor: torch.Tensor) -> torch.Tensor:
        """See :class:`Ranks`."""
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def own_part(self, tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """See :class:`Ranks`."""
        if not isinstance(like, DTensor):
            return tensor.to(like.device)
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


class _LossModule(nn.Module):
    """A model whose ``loss`` is the call: what wraps modules, wraps their calls."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *arguments: Any) -> tuple[torch.Tensor, Mapping[str, float]]:
        example = cast(Any, self.model).loss(*arguments)
        return example.per_example, dict(example.metrics)  # a tuple, in which torch finds the tensor that hooks go to
