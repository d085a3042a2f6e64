"""One model in several processes, in microbatches, with recomputed activations: always the same steps."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from parallel_toys import OPTIMIZER, job
from value_toys import KINDS

from checkpoints.directory import read_checkpoint
from core.errors import ConfigError, NonFiniteError, WorkerError
from learners.batch import rows_of_rank
from learners.fit import fit
from learners.parallel import DdpRanks, FsdpRanks, Parallel, ParallelConfig
from learners.parallel_learner import open_learner
from learners.parallel_memory import rank_memory
from learners.parallel_rank import LearnerJob
from learners.train_state import OptimizerConfig
from models import presets
from models.blocks import repeated_blocks
from models.noise import RowGenerator, normal, stratified, uniform

MODELS = ("videovla", *KINDS)
QUICK_OR_SLOW = [pytest.param(model, marks=[] if model == "viva" else [pytest.mark.slow]) for model in MODELS]
"""The others repeat what one shows."""


@pytest.fixture
def one_process_group(tmp_path: Path) -> Iterator[None]:
    """torch.distributed with this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def steps(of: LearnerJob, *, ranks=None, count: int = 2):
    """Metrics of a few steps, the first step's gradients and the last's weights."""
    learner = of.make_learner(ranks)
    batches = of.make_batches(None, learner)
    whole, trained = learner.state.ranks.whole, learner.state._trained
    rows = [learner.step(learner.draw(batches))]
    gradients = {key: whole(value.grad).clone() for key, value in trained.items()}
    rows += [learner.step(learner.draw(batches)) for _ in range(count - 1)]
    return rows, gradients, {key: whole(value.detach()).clone() for key, value in trained.items()}


def assert_same_steps(first, second, *, is_rounded: bool) -> None:
    exact = {"rtol": 0, "atol": 0}
    for left, right in zip(first[0], second[0], strict=True):
        assert left == pytest.approx(right, **({"rel": 1e-3} if is_rounded else {"rel": 0, "abs": 0}))
    for key, gradient in first[1].items():
        assert_close(second[1][key], gradient, key, **({"rtol": 1e-3, "atol": 1e-5} if is_rounded else exact))
    for key, weight in first[2].items():
        assert_close(second[2][key], weight, key, **({"rtol": 1e-3, "atol": 5e-5} if is_rounded else exact))


def assert_close(found: torch.Tensor, expected: torch.Tensor, key: str, **tolerance: float) -> None:
    if key.endswith(("k_proj.bias", "in_proj_bias")):  # of keys: gradient 0 (softmax), and AdamW steps along the rounding error
        tolerance["atol"] = max(tolerance["atol"], 8 * OPTIMIZER.learning_rate)
    torch.testing.assert_close(found, expected, **tolerance, msg=lambda text: f"{key}: {text}")


# -- noise and rows -----------------------------------------------------------------------------------------------------


def test_a_row_gets_the_same_numbers_whoever_computes_it() -> None:
    def draws(rows: range) -> list[torch.Tensor]:
        generator = RowGenerator(seed=3, step=7, rows=rows, num_rows=8)
        count = len(rows)
        return [normal((count, 2, 3), generator), stratified(count, generator), uniform((count,), generator)]

    whole = draws(range(8))
    for rows in (range(0, 3), range(3, 8), range(5, 6)):
        for part, everything in zip(draws(rows), whole, strict=True):
            assert torch.equal(part, everything[rows.start : rows.stop])
    assert sorted((whole[1] * 8).long().tolist()) == list(range(8)), "one in each stratum of the whole batch"


def test_another_step_or_seed_has_other_numbers_and_equal_ones_repeat() -> None:
    def drawn(seed: int, step: int) -> list[float]:
        return normal((4,), RowGenerator(seed=seed, step=step, rows=range(4), num_rows=4)).tolist()

    assert drawn(1, 2) == drawn(1, 2)
    assert len({tuple(drawn(*each)) for each in ((1, 2), (1, 3), (2, 2))}) == 3
    plain = [torch.randn(3, generator=RowGenerator(seed=1, step=s, rows=range(4), num_rows=4)).tolist() for s in (0, 1)]
    assert plain[0] != plain[1], "who asks torch directly gets other numbers at every step"


def test_rows_are_normally_distributed_and_independent() -> None:
    drawn = normal((2000, 4), RowGenerator(seed=0, step=0, rows=range(2000), num_rows=2000)).numpy()
    assert abs(drawn.mean()) < 0.05
    assert abs(drawn.std() - 1) < 0.05
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.08


def test_a_draw_of_the_wrong_number_of_rows_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(3, 2\) for 2 rows"):
        normal((3, 2), RowGenerator(seed=0, step=0, rows=range(2), num_rows=4))


def test_rows_of_ranks_cover_the_batch_and_must_divide() -> None:
    assert [row for rank in range(4) for row in rows_of_rank(8, rank, 4)] == list(range(8))
    with pytest.raises(ConfigError, match="batch_size 9 does not divide among 2"):
        rows_of_rank(9, 0, 2)


# -- one process --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", QUICK_OR_SLOW)
@pytest.mark.parametrize("microbatch_size", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_accumulated_gradients_are_those_of_the_large_batch(model: str, microbatch_size: int) -> None:
    small = dataclasses.replace(OPTIMIZER, microbatch_size=microbatch_size)
    assert_same_steps(steps(job(model)), steps(job(model, small)), is_rounded=True)


@pytest.mark.parametrize("model", QUICK_OR_SLOW)
def test_recomputed_activations_give_the_same_gradients_to_the_bit(model: str) -> None:
    recomputed = dataclasses.replace(OPTIMIZER, is_recomputed=True)
    assert_same_steps(steps(job(model)), steps(job(model, recomputed)), is_rounded=False)


def test_recomputing_keeps_fewer_activations() -> None:
    def bytes_kept(config: OptimizerConfig) -> int:
        learner = job("videovla", config).make_learner(None)
        batch = learner.draw(job("videovla").make_batches(None, learner))
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            learner.policy.loss(batch.windows, batch.indicator, torch.Generator().manual_seed(0))
        return sum(kept.values())

    assert bytes_kept(dataclasses.replace(OPTIMIZER, is_recomputed=True)) < 0.5 * bytes_kept(OPTIMIZER)


@pytest.mark.parametrize("model", QUICK_OR_SLOW)
def test_bf16_computes_in_bfloat16_and_keeps_float32_weights(model: str) -> None:
    rows, _, _ = steps(job(model))
    half_rows, _, half_weights = steps(job(model, dataclasses.replace(OPTIMIZER, is_bf16=True)))
    assert all(weight.dtype == torch.float32 for weight in half_weights.values())
    assert half_rows[0]["loss"] == pytest.approx(rows[0]["loss"], rel=0.05)
    assert half_rows[0]["loss"] != rows[0]["loss"]


@pytest.mark.parametrize("ranks", [DdpRanks, FsdpRanks])
@pytest.mark.parametrize("model", QUICK_OR_SLOW)
def test_parallel_in_one_process_takes_the_same_steps(model: str, ranks: type[DdpRanks], one_process_group: None) -> None:
    config = dataclasses.replace(OPTIMIZER, microbatch_size=4)
    assert_same_steps(steps(job(model, config)), steps(job(model, config), ranks=ranks()), is_rounded=True)


def test_memory_a_rank_is_counted_from_real_shards() -> None:
    whole = presets.meta_networks("tiny")["viva"][1]
    total = sum(parameter.numel() for parameter in whole.parameters())
    alone, shared = (rank_memory("viva", presets.meta_networks("tiny")["viva"][1], count) for count in (1, 4))
    assert alone.own_parameters == alone.num_parameters == shared.num_parameters == total
    assert total / 4 <= shared.own_parameters < 1.02 * total / 4, "each parameter is cut along its first dimension, rounded up"
    assert sum(shared.kept_gib.values()) == pytest.approx(20 * shared.own_parameters / 2**30)
    assert shared.gathered_parameters < total
    assert not dist.is_initialized()


def test_sharding_finds_every_models_blocks() -> None:
    counts = {model: len(repeated_blocks(job(model).make_learner(None).state.module)) for model in MODELS}
    assert counts == {"videovla": 2, "viva": 2, "wvm": 4, "vlm": counts["vlm"], "value_only": 2}
    assert counts["vlm"] >= 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_processes": 2}, "num_processes is 2 with learner.parallel=none"),
        ({"num_processes": 0, "parallel": Parallel.DDP}, "expected at least 1"),
        ({"backend": "mpi"}, "expected auto, gloo or nccl"),
    ],
)
def test_impossible_parallel_numbers_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ParallelConfig(**changes)


# -- two processes ------------------------------------------------------------------------------------------------------


def fitted(folder: Path, model: str, parallel: Parallel, config: OptimizerConfig = OPTIMIZER, *, stop_after: int = 99):
    """Losses by step, and the published checkpoint; ``stop_after`` breaks off as a kill would."""
    rows: dict[int, dict[str, float]] = {}

    class StopError(Exception):
        pass

    def on_step(step: int, metrics: dict[str, float]) -> None:
        rows[step] = dict(metrics)
        if step == stop_after:
            raise StopError

    how = ParallelConfig(parallel=parallel, num_processes=1 if parallel is Parallel.NONE else 2)
    with open_learner(job(model, config), None, config, how) as (learner, batches):
        try:
            fit(learner, batches, folder=folder / "state", save_every_steps=2, on_step=on_step)
        except StopError:
            return rows, {}
        learner.publish(folder / f"{parallel.value}", version=1, extra={"by": "test"})
    return rows, read_checkpoint(folder / f"{parallel.value}")[0]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [Parallel.DDP, Parallel.FSDP])
@pytest.mark.parametrize("model", MODELS)
def test_two_processes_take_the_steps_of_one(model: str, parallel: Parallel, tmp_path: Path) -> None:
    one = fitted(tmp_path / "one", model, Parallel.NONE)
    two = fitted(tmp_path / "two", model, parallel)
    assert one[0].keys() == two[0].keys() == {1, 2, 3, 4}
    for step, row in one[0].items():
        assert two[0][step] == pytest.approx(row, rel=2e-3), f"step {step}"
    assert one[1].keys() == two[1].keys()
    for key, weight in one[1].items():
        assert_close(two[1][key], weight, key, rtol=1e-3, atol=5e-5)


@pytest.mark.slow
def test_a_sharded_state_is_written_in_one_piece_to_the_bit_and_resumes_with_another_number_of_processes(tmp_path: Path) -> None:
    """One process stops after step 2; two shards continue from its state, and stop at once: what they write is what it wrote."""
    whole = fitted(tmp_path / "whole", "videovla", Parallel.NONE)
    fitted(tmp_path / "a", "videovla", Parallel.NONE, stop_after=3)
    (state,) = (tmp_path / "a" / "state").iterdir()
    assert state.name == "step_00000002"
    how = ParallelConfig(parallel=Parallel.FSDP, num_processes=2)
    with open_learner(job("videovla"), None, OPTIMIZER, how) as (learner, _):
        position = learner.state.restore(state)
        learner.state.save(tmp_path / "again", position=position)
        learner.publish(tmp_path / "published", version=1, extra={})
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (state / "model.safetensors").read_bytes()
    alone = job("videovla").make_learner(None)
    alone.state.restore(state)
    alone.publish(tmp_path / "alone", version=1, extra={})
    for file in ("model.safetensors", "manifest.json"):
        assert (tmp_path / "published" / file).read_bytes() == (tmp_path / "alone" / file).read_bytes()
    resumed = fitted(tmp_path / "a", "videovla", Parallel.FSDP)
    assert resumed[0].keys() == {3, 4}
    assert resumed[0][4] == pytest.approx(whole[0][4], rel=2e-3)
    back = fitted(tmp_path / "b", "videovla", Parallel.FSDP, stop_after=3)
    assert back[0].keys() == {1, 2, 3}
    finished = fitted(tmp_path / "b", "videovla", Parallel.NONE)
    assert finished[0][4] == pytest.approx(whole[0][4], rel=2e-3)


@pytest.mark.slow
def test_a_killed_process_ends_the_run_with_one_error_and_the_run_resumes(tmp_path: Path) -> None:
    how = ParallelConfig(parallel=Parallel.DDP, num_processes=2)
    pids: list[int] = []

    def kill_one(step: int, metrics: dict[str, float]) -> None:
        if step == 3:
            os.kill(pids[1], signal.SIGKILL)

    with open_learner(job("viva"), None, OPTIMIZER, how) as (learner, batches):
        pids = learner.pids()
        with pytest.raises(WorkerError, match=r"process 1 of the 2 of a learner died \(signal SIGKILL\)"):
            fit(learner, batches, folder=tmp_path / "state", save_every_steps=2, on_step=kill_one)
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    resumed = fitted(tmp_path, "viva", Parallel.DDP)
    assert resumed[0].keys() == {3, 4}
    assert resumed[0][4] == pytest.approx(fitted(tmp_path / "whole", "viva", Parallel.NONE)[0][4], rel=2e-3)


@pytest.mark.slow
def test_an_error_in_the_processes_is_raised_as_itself(tmp_path: Path) -> None:
    config = dataclasses.replace(OPTIMIZER, learning_rate=1e30, warmup_steps=0)
    with pytest.raises(NonFiniteError, match="value learner step"):
        fitted(tmp_path, "viva", Parallel.DDP, config)
    uneven = dataclasses.replace(OPTIMIZER, batch_size=7)
    with pytest.raises(ConfigError, match="does not divide"):
        fitted(tmp_path, "viva", Parallel.FSDP, uneven)
