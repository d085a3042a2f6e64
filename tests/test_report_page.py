"""A run's report: everything in one file, nothing loaded from elsewhere, also of a run that is going on."""

from __future__ import annotations

import base64
import html.parser
import json
import shutil
import subprocess

import pytest
from replay_episodes import random_episode

from core.errors import ConfigError, CorruptDataError
from learners.report_page import losses_by_phase, main, write_report_page
from replay.episode_store import EpisodeStore


def row(iteration, success, **more):
    return {
        "iteration": iteration,
        "wall_s": {"collect": 30.0, "evaluate": 60.0},
        "success": success,
        "success_low": success - 0.1,
        "success_high": success + 0.1,
        "success_text": f"{success:.0%} of <40>",
        **more,
    }


@pytest.fixture
def run(tmp_path):
    rows = [row(0, 0.3), row(1, 0.5, num_collected=40, policy_age_max=2, policy_age_mean=0.5, value_return_correlation=0.7)]
    (tmp_path / "summary.json").write_text(json.dumps({"run": "a <b>run</b>", "iterations": rows}))
    measured = [{"phase": "001/fit_value", "step": s, "loss": 1 / s} for s in (1, 2)]
    measured += [{"phase": "001/update_policy", "step": s, "loss": 2 / s} for s in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in measured))
    (tmp_path / "config.yaml").write_text("recap:\n  note: </pre><script>alert(1)</script>\n")
    (tmp_path / "videos").mkdir()
    for name in ("iteration_000_0_success", "iteration_001_1_failure"):
        (tmp_path / f"videos/{name}.mp4").write_bytes(name.encode())
    store = EpisodeStore(tmp_path / "replay")
    store.append(random_episode(1, steps=6))
    store.close()
    return tmp_path


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.links = [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href") and value]

    def handle_data(self, data):
        self.text += data


def test_the_report_holds_curves_tables_and_videos(run):
    path = write_report_page(run)
    page = Page(path.read_text())
    assert path == run / "report.html"
    assert "a <b>run</b>" in page.text
    assert "30% of <40>" in page.text
    assert "50% of <40>" in page.text
    assert "fake/task_1, none, rollout" in page.text
    assert page.tags.count("svg") == 2
    videos = [link for link in page.links if link.startswith("data:video/mp4;base64,")]
    assert [base64.b64decode(v.split(",")[1]) for v in videos] == [b"iteration_000_0_success", b"iteration_001_1_failure"]
    assert page.text.index("iteration 0: success") < page.text.index("iteration 1: failure")


def test_nothing_is_loaded_and_nothing_from_the_run_is_run(run):
    page = Page(write_report_page(run).read_text())
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert [link for link in page.links if not link.startswith(("data:", "#"))] == []
    assert "</pre><script>alert(1)</script>" in page.text


def test_a_run_that_is_being_written_is_read_and_left_alone(run):
    metrics = run / "metrics.jsonl"
    before = metrics.read_bytes() + b'{"phase": "001/fit_va'
    metrics.write_bytes(before)
    assert losses_by_phase(metrics) == {"value 1": [(1, 1.0), (2, 0.5)], "policy 1": [(1, 2.0), (2, 1.0)]}
    write_report_page(run)
    assert metrics.read_bytes() == before


def test_a_start_alone_can_be_reported(run):
    (run / "summary.json").write_text(json.dumps({"run": "x", "iterations": [row(0, 0.3)]}))
    for name in ("videos", "replay"):
        shutil.rmtree(run / name)
    (run / "metrics.jsonl").unlink()
    assert "30% of <40>" in Page(write_report_page(run).read_text()).text


def test_what_cannot_be_reported_is_named(run, tmp_path, capsys):
    assert main([str(tmp_path / "nothing")]) == 2
    assert "summary.json is missing" in capsys.readouterr().err
    (run / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(CorruptDataError, match="line 1"):
        write_report_page(run)
    (run / "summary.json").write_text('{"run": "x", "iterations": []}')
    with pytest.raises(ConfigError, match="no iteration yet"):
        write_report_page(run)
    (run / "summary.json").write_text("{")
    with pytest.raises(CorruptDataError, match="cannot be read"):
        write_report_page(run)
    assert not list(run.glob(".report*"))


def test_the_command_writes_the_file(run, capsys):
    assert main([str(run)]) == 0
    assert "report.html: 0." in capsys.readouterr().out


@pytest.mark.browser
def test_a_browser_shows_it(run, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no Chromium")
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", write_report_page(run).as_uri()]
    done = subprocess.run([chromium, *arguments], capture_output=True, text=True, timeout=120)
    page = Page(done.stdout)
    assert page.tags.count("video") == 2
    assert page.tags.count("svg") == 2
