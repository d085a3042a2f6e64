"""The bench from end to end on a square that crosses a picture: training, scores, tables, pictures, resumption."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from bench_toys import LINE_PLAN, line_stage

from core.errors import ConfigError, SpecError
from core.experience import EpisodeEnd
from core.ids import EpisodeId
from learners.display import Display
from models.vlm_value import VlmValueConfig
from replay.episode_store import EpisodeStore
from value_service.bench import prediction, training
from value_service.bench.__main__ import main
from value_service.bench.comparison import ablate, compare, draw
from value_service.bench.generate import generate
from value_service.bench.laboratory import Laboratory, LaboratoryConfig
from value_service.bench.report import cell, estimates, is_clear
from value_service.bench.scoring import METRICS, Estimate, Sums, added, bootstrap, bootstrap_difference, score
from value_service.bench.training import training_target
from value_service.bench.truth import BenchEpisode, Kind, Split, Truth
from value_service.bench.variants import ABLATIONS, WVM_BASE, Variant, main_variants
from value_service.metrics import KeyFrame
from value_service.progress_label import Interval, progress_label


def small(variant: Variant) -> Any:
    """A model for pictures of 32 x 32 px."""
    config = variant.config("tiny")
    if isinstance(config, VlmValueConfig):
        return replace(config, image_px=32, patch_px=16, vision_layers=1, fusion_layers=1)
    sizes = {"image_height_px": 32, "image_width_px": 32, "latent_px": 8, "latent_channels": 16, "num_layers": 1}
    return replace(config, **sizes, num_attention_heads=2, ffn_dim=64)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> EpisodeStore:
    made = EpisodeStore(tmp_path_factory.mktemp("bench"))
    generate(made, LINE_PLAN, line_stage())
    return made


def laboratory(store: EpisodeStore, out: Any, num_steps: int) -> Laboratory:
    config = LaboratoryConfig(num_steps=num_steps, batch_size=8)
    return Laboratory(store, out, config, configure=small, display=Display(quiet=True))


# -- scores -----------------------------------------------------------------------------------------------------------


def bench_episode(kind: Kind, label: np.ndarray | None, interval: Interval | None = None, **truth: Any) -> BenchEpisode:
    known = Truth(kind=kind, split=Split.TEST, label=label, interval=interval, key_frames=truth.get("key_frames", ()))
    return BenchEpisode(episode_id=EpisodeId("e"), robot="line", task="cross", num_steps=20, seed=0, truth=known)


PAUSE, RETREAT = Interval(6, 12), Interval(8, 12)
EPISODES = [
    bench_episode(Kind.EXPERT, np.linspace(0, 1, 21), key_frames=(KeyFrame(t=15),)),
    bench_episode(Kind.HESITATION, progress_label(21, hesitations=[PAUSE]), PAUSE),
    bench_episode(Kind.RETRY, progress_label(21, retries=[RETREAT]), RETREAT, key_frames=(KeyFrame(t=9, is_error=True),)),
    bench_episode(Kind.FAILURE, None, key_frames=(KeyFrame(t=15, is_error=True),)),
]


def means(values: list[np.ndarray]) -> dict[str, float]:
    rng = np.random.default_rng(0)
    return {name: bootstrap(sums, rng).mean for name, sums in score(EPISODES, values).items()}


def test_the_truth_itself_scores_best_and_its_reverse_worst():
    labels = [e.truth.label if e.truth.label is not None else np.zeros(21) for e in EPISODES]
    found = means([label - 1 for label in labels])
    assert set(found) == set(METRICS)
    for name in ("Expert-VOC", "Retry-VOC", "MDR", "ErrDR", "Pearson", "Spearman", "Outcome"):
        assert found[name] == pytest.approx(1.0), name
    assert [found[name] for name in ("Hesitation-RMSE", "Calibration")] == pytest.approx([0, 0])
    assert found["MS"] > 0
    assert found["ES"] > 0
    assert found["ErrDR, misses"] == 0  # at a constant 0
    worst = means([-label for label in labels])
    assert (worst["Expert-VOC"], worst["Retry-VOC"], worst["Outcome"]) == (-1, -1, 0)
    assert worst["Calibration"] > 0.3


def test_a_constant_has_no_order_and_values_of_another_length_are_refused():
    flat = [np.full(21, -0.5)] * 4
    found = means(flat)
    assert np.isnan([found[name] for name in ("Expert-VOC", "Retry-VOC")]).all()
    assert found["Outcome"] == 0.5
    with pytest.raises(SpecError, match="20 values of 21 observations"):
        score(EPISODES, [value[1:] for value in flat])


def test_the_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(1)
    draws = [rng.normal(0.3, 1.0, 40) for _ in range(60)]
    found = [bootstrap(Sums(total=draw, count=np.ones(40)), rng) for draw in draws]
    covered = np.mean([e.low <= 0.3 <= e.high for e in found])
    assert 0.8 <= covered < 1
    assert found[0].mean == pytest.approx(draws[0].mean())


def test_seeds_are_added_by_episode_and_undefined_rows_are_counted():
    one = Sums(total=np.array([1.0, 0.0]), count=np.array([1.0, 0.0]))
    both = added([one, Sums(total=np.array([0.0, 0.0]), count=np.array([1.0, 0.0]))])
    found = bootstrap(both, np.random.default_rng(0))
    assert (found.mean, found.num_episodes, found.num_undefined) == (0.5, 1, 1)
    assert cell(Estimate(mean=np.nan, low=np.nan, high=np.nan, num_episodes=0, num_undefined=2)) == "/"
    with pytest.raises(SpecError, match="differ in shape"):
        bootstrap(Sums(total=np.ones(3), count=np.ones(2)), np.random.default_rng(0))


def test_a_paired_difference_is_narrower_than_its_parts():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 1, 30)
    one, other = (Sums(total=hard + shift + rng.normal(0, 0.01, 30), count=np.ones(30)) for shift in (0.1, 0.0))
    alone, paired = bootstrap(one, rng), bootstrap_difference(one, other, seed=0)
    assert paired.low < 0.1 < paired.high
    assert is_clear(paired)
    assert not is_clear(alone)
    with pytest.raises(SpecError, match="the same ones"):
        bootstrap_difference(one, Sums(total=np.ones(3), count=np.ones(3)), seed=0)


# -- the whole bench --------------------------------------------------------------------------------------------------


def test_targets_are_elapsed_time_for_successes_and_nothing_for_failures():
    assert training_target(4, EpisodeEnd.SUCCESS).tolist() == [-1, -0.75, -0.5, -0.25, 0]
    assert training_target(2, EpisodeEnd.FAILURE).tolist() == [-1, -1, -1]


@pytest.mark.whole
def test_the_whole_bench_writes_its_tables_and_continues(store, tmp_path, monkeypatch):
    lab = laboratory(store, tmp_path, num_steps=2)
    variants = main_variants(["viva", "wvm", "vlm", "value_only"])
    report = compare(lab, variants, tmp_path, robots=["line"], seeds=[0], display=Display(quiet=True))
    assert "| viva | wvm | vlm | value_only | clock |" in report.replace("|  |", "|")
    results = json.loads((tmp_path / "results.json").read_text())["line"]
    assert set(results) == {"viva", "wvm", "vlm", "value_only", "clock"}
    assert results["clock"]["test"]["Expert-VOC"]["mean"] == 1.0  # a clock rises in every episode, whatever happens in it
    assert results["clock"]["test"]["Retry-VOC"]["mean"] == -1.0
    assert results["viva"]["training"][0]["num_episodes"] == 3

    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("what is done was done again")

    monkeypatch.setattr(training, "fit", forbidden)
    monkeypatch.setattr(prediction, "predict_episode", forbidden)
    again = compare(
        laboratory(store, tmp_path, num_steps=2), variants, tmp_path, robots=["line"], seeds=[0], display=Display(quiet=True)
    )
    assert again == report


def test_a_robot_that_the_store_lacks_is_named(store, tmp_path):
    with pytest.raises(SpecError, match="it has robots line"):
        laboratory(store, tmp_path, num_steps=1).tests("mars_rover")


def test_ablations_share_weights_where_only_inference_differs(store, tmp_path):
    lab = laboratory(store, tmp_path, num_steps=2)
    steps = [v for v in ABLATIONS if v.weights_of == WVM_BASE.name][:1]
    report = ablate(lab, [WVM_BASE, *steps], tmp_path, robot="line", most=1, seeds=[0])
    assert "wvm 2 steps" in report
    assert [path.name for path in (tmp_path / "models" / "line").iterdir()] == ["wvm_base_0"]
    assert lab.model(steps[0], "line", 0).config.denoise_steps == 2


@pytest.mark.slow
def test_pictures_of_curves_future_states_and_chunks(store, tmp_path):
    lab = laboratory(store, tmp_path, num_steps=2)
    draw(lab, main_variants(["viva", "wvm"]), tmp_path, robot="line", seed=0)
    pictures = {path.name: cv2.imread(str(path)) for path in tmp_path.glob("*.png")}
    assert set(pictures) == {f"value_{what}_line.png" for what in ("curves", "future", "chunks")}
    assert all(picture.std() > 10 for picture in pictures.values())


@pytest.mark.slow
def test_a_trained_model_sees_the_retreat_that_a_clock_does_not(store, tmp_path):
    lab = laboratory(store, tmp_path, num_steps=300)
    [variant] = main_variants(["value_only"])
    tests = lab.tests("line")
    found = estimates(lab.measure(variant, "line", [0], tests), Split.TEST)
    assert found["Expert-VOC"].mean > 0.8
    assert found["Retry-VOC"].mean > 0.5


def test_every_ablation_is_a_configuration_and_unknown_ones_are_named(tmp_path, capsys):
    for variant in ABLATIONS:
        replace(variant.config("tiny"), **variant.inference)
    with pytest.raises(ConfigError, match="has no key"):
        replace(ABLATIONS[0], changes={"colour": 1}).config("tiny")
    with pytest.raises(ConfigError, match="expected some of"):
        main_variants(["viva", "viva"])
    assert main(["--store", str(tmp_path / "empty"), "--models", "viva"]) == 2
    assert "value_service.bench generate" in capsys.readouterr().err
    assert not (tmp_path / "empty").exists(), "looking must not make a store"
    assert main(["ablate", "--store", str(tmp_path / "empty"), "--only", "nope"]) == 2
    assert "--only ['nope']; known are viva " in capsys.readouterr().err
