"""Every value model in the whole loop: pretrained and refitted by the one learner, it drives every way to extract a policy."""

from __future__ import annotations

import contextlib

import pytest
from value_toys import KINDS, fake_config, fresh_model, refit

from configs import build
from configs.load import load_config
from learners import report
from learners.display import Display
from learners.extraction import Extraction
from learners.pretrain import pretrain
from learners.recap import run_recap

pytestmark = pytest.mark.whole

QUIET = Display(quiet=True)
FEW = (
    *("pretrain.num_demonstrations=4", "pretrain.codec_frames=40", "pretrain.policy.num_steps=2", "pretrain.value.num_steps=2"),
    *("evaluation.num_episodes=1", "tracking.num_videos=0", "recap.policy.num_steps=2", "recap.value.num_steps=2"),
    *("recap.episodes_per_iteration=2", "recap.iterations=1", "recap.is_start_evaluated=false"),
    *("policy.num_layers=1", "value.viva.num_layers=1", "value.wvm.num_layers=1"),
)


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch):
    """Pages and figures are most of a short run's time, and have tests of their own."""
    for name in ("learning_curve", "write_report_page"):
        monkeypatch.setattr(report, name, lambda *arguments: None)


def practise(kind, policy, value, demonstrations, run, method, *changes):
    """One iteration of the loop from these checkpoints; its last row."""
    parts = (f"recap.policy_checkpoint={policy}", f"recap.value_checkpoint={value}", f"recap.demonstrations={demonstrations}")
    arguments = [*FEW, *parts, f"value.model={kind}", f"extraction={method.value}", *changes]
    return run_recap(load_config("smoke", arguments), run, display=QUIET)[-1]


def require_refitted(kind, run):
    """The loop published a value model of that kind, one version on."""
    model = build.load_value_model(run / "checkpoints" / "value_001")
    assert (model.model, model.version) == ("viva" if kind == "value_only" else kind, 1)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A run of pretraining that all share: its policy and its demonstrations."""
    path = tmp_path_factory.mktemp("loop") / "pretrained"
    pretrain(load_config("smoke", list(FEW)), path, display=QUIET)
    return path


@pytest.mark.parametrize(
    ("kind", "method"), [*zip(KINDS, (Extraction.RECAP, Extraction.AWR, Extraction.FILTERED_BC, Extraction.RECAP), strict=True)]
)
def test_it_is_refitted_labels_and_drives_the_policy(kind, method, pretrained, tmp_path):
    with contextlib.closing(build.open_store(fake_config(), pretrained / "replay", "reader")) as store:
        refit(fresh_model(kind, store), store, tmp_path / "value", version=0, num_steps=1)
    policy, demonstrations, run = pretrained / "checkpoints" / "policy", pretrained / "replay", tmp_path / "run"
    row = practise(kind, policy, tmp_path / "value", demonstrations, run, method)
    assert row["iteration"] == 1
    assert 0 <= row["positive_fraction"] <= 1
    require_refitted(kind, run)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_pretrained_and_drives_every_method_on_the_same_rollouts(kind, tmp_path):
    start = tmp_path / "pretrained"
    pretrain(load_config("smoke", [*FEW, f"value.model={kind}"]), start, display=QUIET)
    policy, value = (start / "checkpoints" / part for part in ("policy", "value"))
    for method in Extraction:
        shared = [] if method is Extraction.RECAP else [f"recap.rollouts_from={tmp_path / 'recap'}"]
        row = practise(kind, policy, value, start / "replay", tmp_path / method.value, method, *shared)
        assert row["iteration"] == 1
    require_refitted(kind, tmp_path / "recap")
