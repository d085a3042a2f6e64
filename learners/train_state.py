"""Everything that changes while a model is trained, and its exact save and resume.

Hop 8 of the tour. One class serves the policy and the value learner: weights, their moving average, AdamW's moments, the
random generators and the sampler's position. Saved as a checkpoint directory (safetensors and JSON, never pickle), so
that a run continued after a kill takes the same steps, to the bit, as one that was never stopped.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from checkpoints.contract import Conventions, with_contract
from checkpoints.directory import read_checkpoint, write_checkpoint
from core.errors import CheckpointError, ConfigError, NonFiniteError
from learners.losses import cosine_with_warmup, share_of_weighted_mean
from learners.parallel import OneRank, Ranks
from models.blocks import recompute_activations
from models.noise import RowGenerator

# torch says so once where a norm keeps float32 weights under autocast, which is what autocast is for.
warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight", category=UserWarning)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW with warm-up and cosine decay, gradient clipping, and an exponential moving average of the weights."""

    num_steps: int = 1000
    """Learner steps of one fit; the cosine ends there."""
    batch_size: int = 64
    """Windows of one step, over all processes."""
    microbatch_size: int = 0
    """Most windows that a process computes at once; gradients are summed over the microbatches of a step. 0: all that it has."""
    learning_rate: float = 1e-3
    """At the peak."""
    warmup_steps: int = 100
    final_learning_rate_ratio: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    """Largest global norm of the gradient."""
    ema_decay: float = 0.999
    """Of the averaged weights, which are what is published; 0 publishes the last weights. Early steps use less:
    min(ema_decay, (1 + step) / (10 + step))."""
    is_bf16: bool = False
    """Whether the forward pass runs under bfloat16 autocast."""
    is_recomputed: bool = False
    """Activation checkpointing: blocks keep their inputs only and compute their activations again in the backward pass."""
    device: str = "cpu"
    """Where the model is trained: ``cpu``, ``cuda`` or ``auto`` (cuda where there is one)."""
    torch_threads: int = 0
    """Threads of one torch operation while learning; 0: torch's own choice (all cores)."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "learning_rate", "gradient_clip"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a positive number")
        if self.microbatch_size < 0:
            raise ConfigError(f"microbatch_size is {self.microbatch_size}; expected a positive number, or 0 for whole batches")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay is {self.ema_decay}; expected a number in [0, 1)")
        if self.device not in ("cpu", "cuda", "auto"):
            raise ConfigError(f"device is {self.device!r}; expected cpu, cuda or auto")

    def torch_device(self) -> torch.device:
        """The device meant."""
        name = self.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device=cuda, but torch sees no GPU here; use device=cpu or device=auto")
        return torch.device(name)


class TrainState:
    """A module in training, in one process or in several.

    The loop that calls it (policy_learner.py, value_learner.py)::

        metrics = state.take_step(loss_of_rows, rows=batch.rows, weight=batch.weight)
        state.publish(path, version=3, extra={})

    Invariant: after ``restore(save(...))`` every later step is bitwise the same as without the interruption, on the same
    machine with the same number of threads and processes; with another number of processes, up to the rounding of sums.
    """

    def __init__(
        self, module: torch.nn.Module, config: OptimizerConfig, *, seed: int, name: str, ranks: Ranks | None = None
    ) -> None:
        """Take over ``module``; ``name`` appears in messages, for example ``"policy"``; ``ranks``: None for one process."""
        self.module = module.to(config.torch_device())
        self.config = config
        self.name = name
        self.ranks = ranks or OneRank()
        self.step = 0
        self.rng = np.random.default_rng(seed)
        self._seed = seed
        if config.is_recomputed:
            recompute_activations(self.module)
        self._loss = self.ranks.prepare(self.module)
        self._trained = {key: value for key, value in self.module.named_parameters() if value.requires_grad}
        if not self._trained:
            raise ConfigError(f"the {name} has no trainable parameter; check its preset's frozen parts")
        self._average = {key: value.detach().clone() for key, value in self._trained.items()}
        self._optimizer = torch.optim.AdamW(
            self._trained.values(),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
        )
        if config.torch_threads:
            torch.set_num_threads(config.torch_threads)

    def autocast(self) -> torch.autocast:
        """Context of the forward pass."""
        device = next(iter(self._trained.values())).device.type
        return torch.autocast(device_type=device, dtype=torch.bfloat16, enabled=self.config.is_bf16)

    def take_step(
        self, arguments: Callable[[slice], tuple[Any, ...]], *, rows: range, weight: NDArray[np.float32]
    ) -> dict[str, float]:
        """Take one optimiser step along the gradient of the batch's weighted mean loss.

        Args:
            arguments: some of the rows -> the first arguments of the model's ``loss``; the last is a generator that gives every
                row of the batch its own numbers at every step, whoever computes it.
            rows: of the batch, that this process computes.
            weight: [B], of the whole batch.

        Returns:
            ``loss``, ``gradient_norm``, ``learning_rate``, and the model's own unweighted means; over the whole batch.

        Raises:
            NonFiniteError: if the loss or its gradient is NaN or infinite; the weights are left as they were.
        """
        self._optimizer.zero_grad(set_to_none=True)
        metrics = self._gradient(arguments, rows, torch.from_numpy(weight))
        if not np.isfinite(metrics["loss"]):
            raise NonFiniteError(self._not_finite("loss", metrics["loss"]))
        norm = torch.nn.utils.clip_grad_norm_(self._trained.values(), self.config.gradient_clip)
        metrics["gradient_norm"] = float(self.ranks.whole(norm))
        if not np.isfinite(metrics["gradient_norm"]):
            raise NonFiniteError(self._not_finite("gradient norm", metrics["gradient_norm"]))
        return {**metrics, "learning_rate": self._descend()}

    def _gradient(self, arguments: Callable[[slice], tuple[Any, ...]], rows: range, weight: torch.Tensor) -> dict[str, float]:
        """Leave the gradient in the parameters."""
        count = self.config.microbatch_size or len(rows)
        sums: dict[str, float] = {}
        for start in range(0, len(rows), count):
            part = slice(start, min(start + count, len(rows)))
            places = rows[part]
            generator = RowGenerator(seed=self._seed, step=self.step, rows=places, num_rows=len(weight))
            with self.ranks.microbatch(is_last=part.stop == len(rows)):
                with self.autocast():
                    per_example, means = self._loss(*arguments(part), generator)
                own = weight[places.start : places.stop].to(per_example.device)
                loss = share_of_weighted_mean(per_example.float(), own, weight.sum())
                (loss * self.ranks.size).backward()  # type: ignore[no-untyped-call]  # averaged over the processes
            share = len(places) / len(weight)
            for name, value in {"loss": float(loss.detach()), **{name: share * mean for name, mean in means.items()}}.items():
                sums[name] = sums.get(name, 0.0) + value
        device = next(iter(self._trained.values())).device
        totals = self.ranks.total(torch.tensor(list(sums.values()), dtype=torch.float64, device=device))
        return dict(zip(sums, totals.tolist(), strict=True))

    def _descend(self) -> float:
        """Move the weights along the gradient, and their average after them; returns the learning rate."""
        config = self.config
        rate = config.learning_rate * cosine_with_warmup(
            self.step,
            warmup_steps=config.warmup_steps,
            num_steps=config.num_steps,
            final_ratio=config.final_learning_rate_ratio,
        )
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self.step += 1
        move_average(self._average, self._trained, decay=config.ema_decay, step=self.step)
        return rate

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Put the averaged weights into the module for as long as the context lasts."""
        last = {key: value.detach().clone() for key, value in self._trained.items()}
        self._load(self._average)
        try:
            yield
        finally:
            self._load(last)

    def save(self, path: Path, *, position: Mapping[str, Any]) -> None:
        """Write a checkpoint directory from which :meth:`restore` continues exactly.

        All processes call this; what they keep in parts is put together, and the first writes it.

        Args:
            path: must not exist.
            position: JSON-like, of the loop around this state: where the sampler is.
        """
        tensors: dict[str, torch.Tensor] = {f"weight/{key}": value for key, value in self._trained.items()}
        tensors |= {f"average/{key}": value for key, value in self._average.items()}
        tensors |= {f"buffer/{key}": value for key, value in self.module.named_buffers()}
        for key, parameter in self._trained.items():
            for moment, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer/{moment}/{key}"] = value
        manifest = {
            "kind": "train_state",
            "model": self.name,
            "step": self.step,
            "noise_seed": self._seed,
            "rng": self.rng.bit_generator.state,
            "position": dict(position),
        }
        self._write(path, tensors, json.loads(json.dumps(manifest)))

    def publish(self, path: Path, *, version: int, extra: Mapping[str, Any], conventions: Conventions | None = None) -> None:
        """Write the averaged weights as an immutable checkpoint under a version; all processes call this, the first writes.

        The module is a policy or a value model: it has ``version`` and ``to_checkpoint``.

        Args:
            path: must not exist.
            version: of what is published.
            extra: JSON-like, into the manifest.
            conventions: of the environment it learned in, for the contract in the manifest; None: none is written, and the
                conventions are declared by whoever adds the checkpoint to a store.
        """
        model: Any = self.module
        model.version = version
        with self.averaged_weights():
            tensors, manifest = model.to_checkpoint()  # views of the weights, which are the averaged ones only in here
            if conventions is not None:
                manifest = with_contract(manifest, conventions)
            extra = {**manifest.get("extra", {}), **extra}
            self._write(path, tensors, {**manifest, "version": version, "extra": extra})

    def _write(self, path: Path, tensors: Mapping[str, torch.Tensor], manifest: Mapping[str, Any]) -> None:
        whole: dict[str, torch.Tensor] = {}
        for key, tensor in tensors.items():
            gathered = self.ranks.whole(tensor.detach())
            if self.ranks.rank == 0:
                whole[key] = gathered.cpu().clone()  # views of one storage would be refused by safetensors
        if self.ranks.rank == 0:
            write_checkpoint(path, whole, manifest)

    def restore(self, path: Path) -> dict[str, Any]:
        """Continue from :meth:`save`, by whatever number of processes that was called.

        Returns:
            The position that was saved.

        Raises:
            CheckpointError: if the directory is damaged or was written for another model.
        """
        tensors, manifest = read_checkpoint(path)
        expected = {f"weight/{key}": tuple(value.shape) for key, value in self._trained.items()}
        found = {key: tuple(value.shape) for key, value in tensors.items() if key.startswith("weight/")}
        if manifest.get("kind") != "train_state" or found != expected:
            differing = sorted(set(found.items()) ^ set(expected.items()))[:1]
            raise CheckpointError(
                f"{path} is not a train state of this {self.name} (first difference: {differing}); "
                "resume with the run's own configuration"
            )
        own = {
            f"{part}/{key}": self.ranks.own_part(tensors[f"{part}/{key}"], like=parameter)
            for key, parameter in self._trained.items()
            for part in ("weight", "average", "optimizer/exp_avg", "optimizer/exp_avg_sq")
            if f"{part}/{key}" in tensors
        }
        self._load({key: own[f"weight/{key}"] for key in self._trained})
        self._average = {key: own[f"average/{key}"] for key in self._trained}
        buffers = dict(self.module.named_buffers())
        with torch.no_grad():
            for key, value in buffers.items():
                value.copy_(tensors[f"buffer/{key}"])
        for key, parameter in self._trained.items():
            if (step := tensors.get(f"optimizer/step/{key}")) is not None:
                moments = {moment: own[f"optimizer/{moment}/{key}"] for moment in ("exp_avg", "exp_avg_sq")}
                self._optimizer.state[parameter] = {"step": step, **moments}
        self._seed = int(manifest["noise_seed"])
        self.rng.bit_generator.state = manifest["rng"]
        self.step = int(manifest["step"])
        position: dict[str, Any] = manifest["position"]
        return position

    def _load(self, weights: Mapping[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for key, parameter in self._trained.items():
                parameter.copy_(weights[key])

    def _not_finite(self, what: str, value: float) -> str:
        return (
            f"{self.name} learner step {self.step}: {what} is {value}; nothing of this step was kept and no checkpoint was "
            f"written. Lower learning_rate (now {self.config.learning_rate:g}) or raise warmup_steps, check the data for "
            "outliers, and resume from the last train state"
        )


@torch.no_grad()
def move_average(average: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor], *, decay: float, step: int) -> None:
    """Move an exponential average towards the weights, in place: a += (1 - d) (w - a), d = min(decay, (1 + step) / (10 + step)).

    The bound lets the average forget where training began: d passes 0.99 at step 890 and 0.999 at step 8990.

    Args:
        average: tensors, moved.
        weights: of the same names and shapes.
        decay: in [0, 1); 0: the average becomes the weights.
        step: steps taken, this one included.
    """
    bounded = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.values()), [weights[key] for key in average], 1.0 - bounded)


def latest_train_state(folder: Path) -> Path | None:
    """The train state with the highest step in ``folder``, if there is any.

    Example:
        ``run/train_state/policy_001/step_00000400``.
    """
    return max(folder.glob("step_*"), default=None, key=lambda path: path.name)


def save_train_state(state: TrainState, folder: Path, *, position: Mapping[str, Any]) -> None:
    """Write the present state into ``folder`` and delete the older ones, in this order."""
    path = folder / f"step_{state.step:08d}"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        state.save(path, position=position)
    for older in folder.glob("step_*"):
        if older != path:
            shutil.rmtree(older)
