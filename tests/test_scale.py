"""The simulation of a fleet agrees with queueing theory where theory has an answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.queueing import (
    Simulation,
    Station,
    Visit,
    finite_source_throughput,
    md1_wait_s,
    mm1_wait_s,
    mmc_wait_s,
)
from benchmarks.scale_model import Costs, Fleet, Prices, balanced, simulate, through_time_s, throughput_bound

COSTS = Costs(
    steps_per_episode=60,
    chunk_steps=6,
    env_step_s=0.03,
    reset_s=0.03,
    policy_call_s=0.02,
    value_observation_s=0.001,
    learner_sample_s=0.001,
    samples_per_step=4,
    episode_mb=4,
    sample_mb=0.1,
    cache_miss=1.0,
    commit_s=0.1,
)
AMPLE = Fleet(workers=10, policy_replicas=50, value_replicas=50, learners=50, store_mb_per_s=1e6)


def open_queue(*, servers, arrivals_per_s, service, num=40_000):
    """Poisson arrivals at one station; gives it and the time that passed."""
    rng = np.random.default_rng(0)
    sim, station = Simulation(), Station("queue", servers)

    def customer():
        yield Visit(station, service(rng))

    arrivals = np.cumsum(rng.exponential(1 / arrivals_per_s, num))
    for at_s in arrivals:
        sim.start(customer(), delay_s=float(at_s))
    sim.run(float(arrivals[-1]) + 1000)
    assert station.num_visits == num
    return station, float(arrivals[-1])


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (1, 0.8), (4, 0.7)])
def test_exponential_service_waits_as_erlang_says(servers, load):
    rate = load * servers
    station, duration_s = open_queue(servers=servers, arrivals_per_s=rate, service=lambda rng: float(rng.exponential(1.0)))
    assert station.mean_wait_s == pytest.approx(mmc_wait_s(rate, 1.0, servers), rel=0.1)
    assert station.utilisation(duration_s) == pytest.approx(load, rel=0.03)


def test_constant_service_waits_half_as_long():
    station, _ = open_queue(servers=1, arrivals_per_s=0.7, service=lambda rng: 1.0)
    assert station.mean_wait_s == pytest.approx(md1_wait_s(0.7, 1.0), rel=0.06)


def test_closed_forms():
    assert mm1_wait_s(0.5, 1.0) == pytest.approx(1.0)  # rho / (mu - lambda)
    assert mmc_wait_s(1.0, 1.0, 2) == pytest.approx(1 / 3)  # Erlang C is 1/3 for a = 1, c = 2
    assert finite_source_throughput(1, 3.0, 1.0) == pytest.approx(0.25)
    assert finite_source_throughput(50, 3.0, 1.0, servers=2) == pytest.approx(2.0, rel=1e-6)
    with pytest.raises(ValueError, match="without end"):
        mmc_wait_s(2.0, 1.0, 2)


@pytest.mark.parametrize(("sources", "servers"), [(3, 1), (8, 1), (12, 3)])
def test_customers_that_come_back_are_served_as_the_repair_model_says(sources, servers):
    rng = np.random.default_rng(1)
    sim, think, station = Simulation(), Station("think", None), Station("queue", servers)

    def customer():
        while True:
            yield Visit(think, float(rng.exponential(4.0)))
            yield Visit(station, float(rng.exponential(1.0)))

    for _ in range(sources):
        sim.start(customer())
    sim.run(15_000)
    assert station.num_visits / 15_000 == pytest.approx(finite_source_throughput(sources, 4.0, 1.0, servers), rel=0.03)


def test_a_parked_process_goes_on_when_it_is_woken():
    sim, station, seen = Simulation(), Station("delay", None), []

    def sleeper():
        yield None
        seen.append(sim.now_s)

    def waker(other):
        yield Visit(station, 5.0)
        sim.wake(other)

    asleep = sleeper()
    sim.start(asleep)
    sim.start(waker(asleep))
    sim.run(100)
    assert seen == [5.0]


def test_with_ample_replicas_workers_play_at_their_own_speed():
    costs = replace(COSTS, variation=0.0)
    alone_s = costs.alone_s + 10 * 0.02
    found = simulate(costs, AMPLE, episodes_per_worker=40)
    assert found.episodes_per_s == pytest.approx(10 / alone_s, rel=0.04)
    assert found.utilisation["workers"] == pytest.approx(costs.alone_s / alone_s, rel=0.04)
    assert (found.bottleneck, found.limiter_share) == ("workers", 0)
    assert found.age_s == pytest.approx(through_time_s(costs, AMPLE), rel=0.04)


@pytest.mark.parametrize(
    ("fleet", "station"),
    [
        (replace(AMPLE, workers=200, policy_replicas=2), "policy"),
        (replace(AMPLE, workers=200, value_replicas=1), "value"),
        (replace(AMPLE, workers=200, learners=3), "learner"),
        (replace(AMPLE, workers=200, store_mb_per_s=300), "store"),
    ],
)
def test_a_station_that_is_too_small_limits_the_fleet(fleet, station):
    found = simulate(COSTS, fleet, episodes_per_worker=20)
    servers = fleet.servers()[station]
    limit = servers / COSTS.demands(fleet.store_mb_per_s)[station]
    assert found.bottleneck == station
    assert found.utilisation[station] == pytest.approx(1.0, abs=0.03)
    assert found.episodes_per_s == pytest.approx(limit, rel=0.05)
    assert throughput_bound(COSTS, fleet) == pytest.approx(limit)


def test_the_limiter_bounds_how_old_experience_gets():
    fleet = replace(AMPLE, workers=100, learners=2)
    loose, tight = (simulate(COSTS, replace(fleet, max_ahead=ahead), episodes_per_worker=30) for ahead in (8, 2))
    assert tight.episodes_per_s == pytest.approx(loose.episodes_per_s, rel=0.05), "the learners are the limit in both"
    assert tight.age_s < loose.age_s / 2
    assert tight.limiter_share > 0.3
    assert tight.age_s == pytest.approx(2 * 100 / tight.episodes_per_s, rel=0.15), "no more than two episodes a worker under way"


def test_the_same_seed_gives_the_same_outcome():
    assert simulate(COSTS, AMPLE) == simulate(COSTS, AMPLE)
    assert simulate(COSTS, AMPLE) != simulate(COSTS, AMPLE, seed=1)


@pytest.mark.parametrize("workers", [10, 300])
def test_a_balanced_fleet_is_limited_by_its_workers(workers):
    fleet = balanced(COSTS, workers, store_mb_per_s=20_000)
    found = simulate(COSTS, fleet)
    assert found.bottleneck == "workers"
    assert found.episodes_per_s > 0.85 * throughput_bound(COSTS, fleet)


def test_cost_of_a_million_steps():
    prices = Prices(worker_hour=0.1, policy_hour=2, value_hour=2, learner_hour=3, store_hour=1)
    fleet = Fleet(workers=100, policy_replicas=2, value_replicas=1, learners=2)
    # 23 an hour, 1000 steps/s: 1e6 steps take 1000 s.
    assert prices.per_million_steps(fleet, 1000.0) == pytest.approx(23 * 1000 / 3600)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="workers is 0"):
        Fleet(workers=0)
    with pytest.raises(ValueError, match="env_step_s is 0"):
        replace(COSTS, env_step_s=0)
