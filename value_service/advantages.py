"""Advantages, the per-task threshold, the positive indicator, and the example weights of the methods RECAP is compared with.

Hops 5 and 8 of the tour: values and rewards -> advantages (stored in Labels); advantages -> what each training example is
told or how much it counts (decided anew each iteration, never stored). Pure functions of arrays.

Different from the textbook: no discount; past the end there is nothing to bootstrap from after success or failure, and V of
the last observation after truncation; the indicator needs a *strictly* greater advantage than the threshold.

symbol -> name: A_t advantage; N lookahead_steps; epsilon_l threshold; I_t indicator (pi*0.6, arXiv:2511.14759, App. F).
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.errors import ConfigError, NonFiniteError, SpecError
from core.experience import Collection, EpisodeEnd, Source
from core.labels import Indicator


class Estimator(enum.Enum):
    """How advantages are estimated."""

    N_STEP = "n_step"
    GAE = "gae"


class DemonstrationRule(enum.Enum):
    """What the indicator of a demonstration's steps is."""

    COMPUTED = "computed"
    """From the advantage, like any other step: for demonstrations of mixed quality."""
    POSITIVE = "positive"
    """Always positive: RECAP's supervised stage."""


@dataclass(frozen=True, kw_only=True)
class AdvantageConfig:
    """How advantages are estimated; what :func:`estimate_advantage` is given."""

    estimator: Estimator = Estimator.N_STEP
    lookahead_s: float = 1.0
    """N of the N-step estimate, in seconds: RECAP's N = 50 at 50 Hz. ``inf``: to the end of the episode, A_t = R_t - V(o_t)."""
    gae_lambda: float = 0.95

    def __post_init__(self) -> None:
        if not self.lookahead_s > 0:
            raise ConfigError(f"lookahead_s is {self.lookahead_s}; expected a positive number of seconds")
        if not 0 <= self.gae_lambda <= 1:
            raise ConfigError(f"gae_lambda is {self.gae_lambda}; expected a number in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class IndicatorConfig:
    """How advantages become indicators; what whoever calls :func:`threshold` and :func:`indicators` is given."""

    positive_fraction: float = 0.4
    """The share of an iteration's rollout steps that the threshold makes positive: RECAP 0.3 in pre-training, 0.4 in
    fine-tuning, 0.1 where everything succeeds and speed is what is left to gain."""
    demonstrations: DemonstrationRule = DemonstrationRule.COMPUTED

    def __post_init__(self) -> None:
        if not 0 <= self.positive_fraction <= 1:
            raise ConfigError(f"positive_fraction is {self.positive_fraction}; expected a number in [0, 1]")


def estimate_advantage(
    value: NDArray[np.floating],
    reward: NDArray[np.floating],
    end: EpisodeEnd,
    config: AdvantageConfig,
    *,
    control_hz: float,
) -> NDArray[np.float32]:
    """Advantage of each step by the configured estimator; the look-ahead is converted to steps by ``control_hz``.

    Args:
        value: [T+1], V(o_t).
        reward: [T], in the unit of ``value``.
        end: how the episode ended.
        config: which estimator.
        control_hz: environment steps a second.

    Returns:
        [T] float32.
    """
    if config.estimator is Estimator.GAE:
        return gae_advantage(value, reward, end, config.gae_lambda)
    ahead = min(config.lookahead_s * control_hz, len(reward))  # past the end means the same as up to it
    return n_step_advantage(value, reward, end, max(1, round(ahead)))


def n_step_advantage(
    value: NDArray[np.floating], reward: NDArray[np.floating], end: EpisodeEnd, lookahead_steps: int
) -> NDArray[np.float32]:
    """A_t = r_t + ... + r_{t+N-1} + V(o_{t+N}) - V(o_t); pi*0.6, App. F.

    Where t + N reaches or passes the end: the sum stops at the end, and V(o_T) is added only if the episode was truncated
    (after success or failure the last reward already holds the outcome). N >= T gives the pre-training form R_t - V(o_t).

    Args:
        value: [T+1], V(o_t).
        reward: [T], in the unit of ``value``, see :func:`value_service.returns.step_rewards`.
        end: how the episode ended.
        lookahead_steps: N, at least 1.

    Returns:
        [T] float32.

    Raises:
        SpecError: if the lengths do not fit.

    Example:
        >>> v, r = np.array([-0.5, -0.5, -0.25]), np.array([-0.125, -0.125])
        >>> n_step_advantage(v, r, EpisodeEnd.SUCCESS, 1).tolist()
        [-0.125, 0.375]
        >>> n_step_advantage(v, r, EpisodeEnd.TIME_LIMIT, 1).tolist()
        [-0.125, 0.125]
    """
    steps = _num_steps(value, reward)
    if lookahead_steps < 1:
        raise SpecError(f"lookahead_steps is {lookahead_steps}; expected at least 1")
    v, paid = value.astype(np.float64), np.concatenate([[0.0], np.cumsum(reward, dtype=np.float64)])
    t = np.arange(steps)
    ahead = t + min(lookahead_steps, steps)
    stop = np.minimum(ahead, steps)
    is_bootstrapped = (ahead < steps) | end.bootstraps()
    advantage = paid[stop] - paid[t] + np.where(is_bootstrapped, v[stop], 0.0) - v[t]
    return advantage.astype(np.float32)


def gae_advantage(
    value: NDArray[np.floating], reward: NDArray[np.floating], end: EpisodeEnd, gae_lambda: float
) -> NDArray[np.float32]:
    """Generalised advantage estimation without discount; Eq. (16) of Schulman et al. 2016, arXiv:1506.02438, gamma = 1.

    A_t = sum over k of lambda^k delta_{t+k}, delta_t = r_t + V(o_{t+1}) - V(o_t), where V(o_T) counts as 0 after success or
    failure. lambda = 0 is the one-step estimate, lambda = 1 the estimate to the end of the episode.

    Args:
        value: [T+1], V(o_t).
        reward: [T], in the unit of ``value``.
        end: how the episode ended.
        gae_lambda: in [0, 1].

    Returns:
        [T] float32.

    Raises:
        SpecError: if the lengths do not fit.

    Example:
        >>> v, r = np.array([-0.5, -0.5, -0.25]), np.array([-0.125, -0.125])
        >>> gae_advantage(v, r, EpisodeEnd.SUCCESS, 1.0).tolist()
        [0.25, 0.375]
    """
    steps = _num_steps(value, reward)
    following = value[1:].astype(np.float64)
    if not end.bootstraps():
        following[-1] = 0.0
    delta = reward.astype(np.float64) + following - value[:-1].astype(np.float64)
    advantage, carried = np.empty(steps), 0.0
    for t in reversed(range(steps)):
        carried = delta[t] + gae_lambda * carried
        advantage[t] = carried
    return advantage.astype(np.float32)


def is_learnable(source: NDArray[np.int8]) -> NDArray[np.bool_]:
    """Steps that anything may be learned from: all but those where nobody decided (HOLD).

    Args:
        source: [T], values of Source.

    Returns:
        [T].
    """
    return source != Source.HOLD


def threshold(advantage: NDArray[np.floating], positive_fraction: float) -> float:
    """epsilon_l: the threshold above which the top ``positive_fraction`` of these advantages lies; pi*0.6, App. F.

    Give it the advantages of one task: for fine-tuning those of the iteration's rollouts, without HOLD steps and without
    corrections (these are positive anyway). It is one of the numbers given (the largest that stays negative), not an
    interpolation. ``advantage > threshold`` then selects round(fraction * n) of them; fewer where the number on the border
    occurs several times, because equal advantages are never told apart: with all equal, none is positive.

    Args:
        advantage: [n], at least one, finite.
        positive_fraction: in [0, 1]; 1 gives -inf.

    Raises:
        SpecError: if there is no advantage, or the fraction is outside [0, 1].
        NonFiniteError: if an advantage is NaN or infinite.

    Example:
        >>> threshold(np.array([0.1, 0.5, 0.3, 0.2, 0.4]), 0.4)
        0.3
    """
    if advantage.ndim != 1 or len(advantage) == 0:
        raise SpecError(f"threshold of advantages of shape {advantage.shape}; expected one dimension and at least one entry")
    if not 0 <= positive_fraction <= 1:
        raise SpecError(f"positive_fraction is {positive_fraction}; expected a number in [0, 1]")
    _require_finite(advantage)
    num_positive = math.floor(positive_fraction * len(advantage) + 0.5)
    if num_positive == len(advantage):
        return -math.inf
    border = len(advantage) - num_positive - 1
    return float(np.partition(advantage, border)[border])


def indicators(
    advantage: NDArray[np.floating],
    threshold: float,
    source: NDArray[np.int8],
    *,
    collection: Collection,
    demonstrations: DemonstrationRule = DemonstrationRule.COMPUTED,
) -> NDArray[np.int8]:
    """I_t = 1[A_t > epsilon_l] of one episode; pi*0.6, Eq. (3) and App. F.

    A correction (a human's step in anything but a demonstration) is POSITIVE whatever its advantage. Where nobody decided
    (HOLD) it is ABSENT: such a step says nothing of good or bad.

    Args:
        advantage: [T].
        threshold: epsilon_l of the episode's task.
        source: [T], values of Source.
        collection: why the episode was made.
        demonstrations: the rule for an episode that is a demonstration.

    Returns:
        [T] int8, values of Indicator.

    Example:
        >>> source = np.array([Source.POLICY, Source.POLICY, Source.HUMAN, Source.HOLD], np.int8)
        >>> indicators(np.array([0.2, 0.1, -0.3, 0.9]), 0.1, source, collection=Collection.ROLLOUT).tolist()
        [1, 0, 1, -1]
    """
    if advantage.shape != source.shape:
        raise SpecError(f"advantage {advantage.shape} and source {source.shape} differ in shape")
    is_demonstration = collection is Collection.DEMONSTRATION
    is_positive = advantage > threshold
    if is_demonstration and demonstrations is DemonstrationRule.POSITIVE:
        is_positive = np.ones_like(is_positive)
    elif not is_demonstration:
        is_positive = is_positive | (source == Source.HUMAN)
    told = np.where(is_positive, Indicator.POSITIVE, Indicator.NEGATIVE)
    return np.where(is_learnable(source), told, Indicator.ABSENT).astype(np.int8)


def awr_weights(
    advantage: NDArray[np.floating], *, temperature: float = 10.0, clip: float = 2.0, is_standardised: bool = False
) -> NDArray[np.float32]:
    """Weights of advantage-weighted regression: w = min(exp(tau A), delta), then divided by their mean.

    The defaults are WVM's (section on policy extraction: tau = 10, delta = 2, plain advantages). Peng et al. 2019,
    arXiv:1910.00177, standardise first, (A - mean) / (std + 1e-5), with tau = 1, delta = 20. Nothing is dropped: bad examples
    count little. WVM's advantages span [-1, 1]; ours about half of that.

    Args:
        advantage: [n] of learnable steps, finite.
        temperature: tau, which multiplies the advantage.
        clip: delta, above 0.
        is_standardised: whether to standardise over these n first.

    Returns:
        [n] float32 with mean 1.

    Raises:
        SpecError: if there is no advantage or ``clip`` is not positive.
        NonFiniteError: if an advantage is NaN or infinite.

    Example:
        >>> awr_weights(np.array([0.0, 1.0])).tolist() == [np.float32(2 / 3), np.float32(4 / 3)]
        True
    """
    if len(advantage) == 0 or not clip > 0:
        raise SpecError(
            f"awr_weights of {len(advantage)} advantages with clip {clip}; expected at least one, and a positive clip"
        )
    _require_finite(advantage)
    a = advantage.astype(np.float64)
    if is_standardised:
        a = (a - a.mean()) / (a.std() + 1e-5)
    exponent = np.minimum(temperature * a, math.log(clip))  # min before exp: the same number, and exp cannot overflow
    # The mean of the ratios to the largest weight is at least 1/n, so that very negative advantages cannot divide 0 by 0.
    ratio = np.exp(exponent - exponent.max())
    return (ratio / ratio.mean()).astype(np.float32)


def filtered_bc_weights(advantage: NDArray[np.floating], threshold: float) -> NDArray[np.float32]:
    """Weights of filtered behaviour cloning: 1 where A > threshold, else 0.

    WVM writes ``>=``; strict here, so that with the same threshold this keeps exactly the examples that RECAP calls positive.

    Args:
        advantage: [n].
        threshold: a fixed number (WVM: 0), or a quantile from :func:`threshold`.

    Returns:
        [n] float32, zeros and ones.

    Example:
        >>> filtered_bc_weights(np.array([-0.1, 0.2]), 0.0).tolist()
        [0.0, 1.0]
    """
    _require_finite(advantage)
    return (advantage > threshold).astype(np.float32)


def _num_steps(value: NDArray[np.floating], reward: NDArray[np.floating]) -> int:
    if reward.ndim != 1 or len(reward) == 0 or value.shape != (len(reward) + 1,):
        raise SpecError(f"value {value.shape} and reward {reward.shape}; expected (T+1,) and (T,) with T of at least 1")
    return len(reward)


def _require_finite(advantage: NDArray[np.floating]) -> None:
    bad = np.flatnonzero(~np.isfinite(advantage))
    if bad.size:
        raise NonFiniteError(f"advantage[{bad[0]}] is {advantage[bad[0]]}; expected finite numbers. Label the episode again")
