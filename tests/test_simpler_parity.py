"""Replays of upstream's recorded runs."""

from __future__ import annotations

import json

import pytest

from core.errors import AssetError, RecapError
from envs.simpler import parity


def _traces():
    try:
        return parity.find_traces()
    except AssetError as error:
        pytest.skip(str(error))


SOLVED = ("carrot_place", "coke_h_grasp", "coke_s_grasp")
"""Recorded runs that end in success; in the others the actions are drawn, and the two asset sets move the same arms."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("upstream", ("*",)), id="upstream"),
        pytest.param(("builtin", SOLVED), id="builtin, solved"),
        pytest.param(("builtin", ("*",)), id="builtin", marks=pytest.mark.slow),
    ],
)
def rows(request, tmp_path_factory):
    traces, chosen = _traces(), tmp_path_factory.mktemp("traces")
    assets, names = request.param
    for path in {path for name in names for path in traces.glob(f"{name}[._]*")}:
        (chosen / path.name).symlink_to(path.absolute())
    try:
        return assets, parity.compare_all(chosen, assets)
    except AssetError as error:
        pytest.skip(str(error))


@pytest.mark.sim
def test_recorded_runs_replay(rows):
    assets, found = rows
    assert len(found) >= len(SOLVED)
    assert {row["status"] for row in found} == {"replayed"}, "every recorded task is offered"
    assert parity.violations(found, require_success=True) == []
    for row in found:
        assert row["assets"] == assets
        assert row["camera_max_abs"] < 1e-5
        assert row["object_mass_rel"] < 0.01
        assert row["link_mass_max_rel"] < 0.05
        assert row["first_success_ours"] == row["first_success_upstream"]
        if assets == "upstream":
            assert row["image_outside_proxies_mean_abs"] < parity.IMAGE_TOLERANCE
            assert row["object_inertia_rel"] < 0.01
            assert row["object_center_m"] < 1e-4
            assert row["tool_max_m"] < 0.01
            assert row["object_max_m"] < 0.01


def _row(**changes):
    row = {"trace": "a", "status": "replayed", "assets": "upstream", "arm_max_rad_first10": 1e-4}
    row |= {"image_outside_proxies_mean_abs": 0.1, "success_upstream": True, "success_ours": True}
    return row | changes


def test_violations_are_named():
    assert parity.violations([_row(), {"trace": "b", "status": parity.NOT_OFFERED}], require_success=True) == []
    (arm,) = parity.violations([_row(arm_max_rad_first10=3e-3)], require_success=True)
    assert "3.00e-03 rad" in arm
    (image,) = parity.violations([_row(image_outside_proxies_mean_abs=0.31)], require_success=True)
    assert "0.31 of 255" in image
    assert parity.violations([_row(image_outside_proxies_mean_abs=30.0, assets="builtin")], require_success=True) == []
    lost = [_row(success_ours=False)]
    assert parity.violations(lost, require_success=True) == ["a: succeeded upstream, fails here"]
    assert parity.violations(lost, require_success=False) == []
    assert parity.violations([_row(arm_max_rad_first10=float("nan"))], require_success=False)


def test_a_missing_folder_is_one_clear_line(tmp_path, capsys):
    assert parity.main(["--traces", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert str(tmp_path) in message
    assert "--traces" in message


def test_an_unknown_task_in_a_trace_is_an_error(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"init": {"task": "google_robot_fly"}}))
    (tmp_path / "x.npz").touch()
    with pytest.raises(RecapError, match="google_robot_fly"):
        parity.compare_all(tmp_path, "upstream")
