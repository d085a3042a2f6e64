"""Training to the bit: save and resume, weights that count, steps that must not be kept."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from learner_toys import EPISODE, ToyPolicy, ToyWindows

from checkpoints.directory import read_checkpoint
from core.errors import CheckpointError, ConfigError, NonFiniteError
from learners.batch import PolicyBatches, StepIndex
from learners.fit import fit
from learners.losses import cosine_with_warmup, effective_examples, weighted_mean
from learners.policy_learner import PolicyLearner
from learners.train_state import OptimizerConfig, latest_train_state, move_average

CONFIG = OptimizerConfig(num_steps=40, batch_size=8, learning_rate=0.05, warmup_steps=5, ema_decay=0.9)


def _batches(windows: ToyWindows | None = None, weight: np.ndarray | None = None) -> PolicyBatches:
    windows = windows or ToyWindows()
    return PolicyBatches(
        windows,
        ToyPolicy().window_spec,
        StepIndex.build({EPISODE: windows.num_steps}),
        indicator=np.array([0, 0, 1, 1], np.int8),
        weight=np.ones(4, np.float32) if weight is None else weight,
        indicator_dropout=0.3,
        batch_size=8,
    )


class _StopError(Exception):
    pass


def test_a_run_killed_and_resumed_takes_the_same_steps_to_the_bit(tmp_path: Path) -> None:
    straight: list[dict[str, float]] = []
    whole = PolicyLearner(ToyPolicy(), CONFIG, seed=1)
    result = fit(whole, _batches(), folder=tmp_path / "a", save_every_steps=10, on_step=lambda s, m: straight.append(dict(m)))

    resumed: dict[int, dict[str, float]] = {}

    def stop_at(step: int, metrics: dict[str, float]) -> None:
        resumed[step] = dict(metrics)
        if step == 27 and len(resumed) == 27:
            raise _StopError

    with pytest.raises(_StopError):
        fit(PolicyLearner(ToyPolicy(), CONFIG, seed=1), _batches(), folder=tmp_path / "b", save_every_steps=10, on_step=stop_at)
    again = PolicyLearner(ToyPolicy(), CONFIG, seed=1)
    second = fit(
        again, _batches(), folder=tmp_path / "b", save_every_steps=10, on_step=lambda s, m: resumed.__setitem__(s, dict(m))
    )
    assert [resumed[step] for step in range(1, 41)] == straight
    own = {"num_steps_here", "wait_s", "data_s", "step_s"}
    assert {k: v for k, v in second.items() if k not in own} == {k: v for k, v in result.items() if k not in own}
    again.publish(tmp_path / "again", version=3, extra={})
    whole.publish(tmp_path / "whole", version=3, extra={})
    tensors, manifest = read_checkpoint(tmp_path / "again")
    expected, _ = read_checkpoint(tmp_path / "whole")
    assert manifest["version"] == 3
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_only_the_newest_train_state_is_kept(tmp_path: Path) -> None:
    fit(PolicyLearner(ToyPolicy(), CONFIG, seed=1), _batches(), folder=tmp_path, save_every_steps=10)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000040"]
    assert latest_train_state(tmp_path) == tmp_path / "step_00000040"


def test_the_policy_learns_what_positive_means() -> None:
    learner = PolicyLearner(ToyPolicy(), OptimizerConfig(num_steps=300, batch_size=8, learning_rate=0.05, warmup_steps=5), seed=0)
    batches = _batches()
    for _ in range(300):
        learner.step(learner.draw(batches))
    # Told 'positive' exactly at t = 2 and 3, otherwise at t = 0..3 with the mix of 30 % dropout: a < 1.5 < a + b = 2.5.
    policy = learner.policy
    assert policy.a.item() + policy.b.item() == pytest.approx(2.5, abs=0.2)
    assert policy.a.item() < 1.2


def test_listening_tells_a_policy_that_hears_from_one_that_does_not() -> None:
    learner = PolicyLearner(ToyPolicy(), OptimizerConfig(num_steps=300, batch_size=8, learning_rate=0.05, warmup_steps=5), seed=0)
    batches = _batches()
    with torch.no_grad():
        learner.policy.a.fill_(0.5)
        learner.policy.b.fill_(2.0)
        for key, value in learner.state._average.items():
            value.copy_(learner.policy.get_parameter(key))
    # Told right: t = 0, 1 from 0.5 and t = 2, 3 from 2.5, each off by 0.5; told wrong, by 2.5, 1.5, 1.5, 2.5.
    found = learner.listening(batches)
    assert found["loss_told_right"] == pytest.approx(0.25, abs=0.02)
    assert found["loss_told_wrong"] == pytest.approx(4.25, abs=1.0)
    assert found["indicator_effect"] > 10
    with torch.no_grad():
        learner.state._average["b"].zero_()
    assert learner.listening(batches)["indicator_effect"] == pytest.approx(0.0, abs=1e-6)


def test_examples_of_weight_zero_change_nothing() -> None:
    only_last = np.array([0, 0, 0, 1], np.float32)
    config = OptimizerConfig(num_steps=300, batch_size=8, learning_rate=0.05, warmup_steps=5, weight_decay=0.0)
    learner = PolicyLearner(ToyPolicy(), config, seed=0)
    batches = PolicyBatches(
        ToyWindows(),
        ToyPolicy().window_spec,
        StepIndex.build({EPISODE: 4}),
        indicator=np.full(4, -1, np.int8),
        weight=only_last,
        indicator_dropout=0.0,
        batch_size=8,
    )
    for _ in range(300):
        learner.step(learner.draw(batches))
    assert learner.policy.a.item() == pytest.approx(3.0, abs=0.05)


def test_a_loss_that_is_not_finite_keeps_the_weights_and_says_what_to_do(tmp_path: Path) -> None:
    learner = PolicyLearner(ToyPolicy(), CONFIG, seed=0)
    batches = _batches()
    learner.step(learner.draw(batches))
    before = {key: value.clone() for key, value in learner.policy.state_dict().items()}
    batch = learner.draw(batches)
    windows = batch.windows
    windows.action[0, 0, 0] = np.nan
    with pytest.raises(NonFiniteError, match=r"policy learner step 1: loss is nan.*learning_rate \(now 0.05\)"):
        learner.step(batch)
    assert all(torch.equal(before[key], value) for key, value in learner.policy.state_dict().items())
    assert learner.state.step == 1


def test_a_policy_with_nan_weights_is_not_published(tmp_path: Path) -> None:
    learner = PolicyLearner(ToyPolicy(), OptimizerConfig(ema_decay=0.0), seed=0)
    with torch.no_grad():
        learner.policy.a.fill_(float("nan"))
        learner.state._average["a"].fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="'a' holds NaN"):
        learner.publish(tmp_path / "p", version=1, extra={})
    assert not (tmp_path / "p").exists()


def test_a_train_state_of_another_model_is_refused(tmp_path: Path) -> None:
    PolicyLearner(ToyPolicy(), CONFIG, seed=0).state.save(tmp_path / "s", position={})
    other = ToyPolicy()
    other.a = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(CheckpointError, match=r"not a train state of this policy.*weight/a"):
        PolicyLearner(other, CONFIG, seed=0).state.restore(tmp_path / "s")


def test_a_model_without_parameters_is_refused() -> None:
    frozen = ToyPolicy()
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ConfigError, match="no trainable parameter"):
        PolicyLearner(frozen, CONFIG, seed=0)


def test_averaged_weights_lie_between_the_start_and_the_last() -> None:
    learner = PolicyLearner(ToyPolicy(), CONFIG, seed=0)
    batches = _batches()
    for _ in range(10):
        learner.step(learner.draw(batches))
    last = learner.policy.a.item()
    with learner.state.averaged_weights():
        averaged = learner.policy.a.item()
    assert 0 < averaged < last == learner.policy.a.item()


@pytest.mark.parametrize(
    ("decay", "step", "share"), [(0.0, 1, 0.0), (0.5, 3, 4 / 13), (0.5, 8, 0.5), (0.99, 889, 890 / 899), (0.999, 890, 891 / 900)]
)
def test_an_average_forgets_its_start_whatever_its_decay(decay: float, step: int, share: float) -> None:
    average, weights = {"a": torch.tensor([1.0])}, {"other": torch.tensor([9.0]), "a": torch.tensor([0.0])}
    move_average(average, weights, decay=decay, step=step)
    assert average["a"].item() == pytest.approx(share, abs=1e-6)
    assert weights["a"].item() == 0.0


def test_what_is_published_are_the_averaged_weights(tmp_path: Path) -> None:
    learner = PolicyLearner(ToyPolicy(), CONFIG, seed=0)
    batches = _batches()
    for _ in range(10):
        learner.step(learner.draw(batches))
    learner.publish(tmp_path / "p", version=1, extra={})
    published = read_checkpoint(tmp_path / "p")[0]["a"]
    with learner.state.averaged_weights():
        assert torch.equal(published, learner.policy.a)
    assert not torch.equal(published, learner.policy.a)


def test_weighted_mean_of_no_weight_is_zero_with_zero_gradient() -> None:
    loss = torch.tensor([1.0, 3.0], requires_grad=True)
    mean = weighted_mean(loss, torch.zeros(2))
    mean.backward()
    assert mean.item() == 0.0
    assert loss.grad is not None
    assert loss.grad.tolist() == [0.0, 0.0]


def test_effective_examples() -> None:
    assert effective_examples(np.float32([2, 2, 0, 0])) == pytest.approx(2.0)
    assert effective_examples(np.zeros(3, np.float32)) == 0.0


def test_the_learning_rate_rises_then_falls_to_its_floor() -> None:
    ratio = [cosine_with_warmup(step, warmup_steps=4, num_steps=20, final_ratio=0.1) for step in range(25)]
    assert ratio[:4] == [0.25, 0.5, 0.75, 1.0]
    assert all(a >= b for a, b in itertools.pairwise(ratio[4:]))
    assert ratio[-1] == pytest.approx(0.1)


@pytest.mark.parametrize(("key", "value"), [("num_steps", 0), ("learning_rate", 0.0), ("ema_decay", 1.0), ("device", "tpu")])
def test_impossible_optimizer_numbers_are_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=key):
        OptimizerConfig(**{key: value})
