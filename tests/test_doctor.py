"""The doctor: each check's pass, and what it says when something is wrong."""

from __future__ import annotations

import json
import socket

import pytest

from envs import doctor
from envs.doctor import Finding, Outcome


def only(findings):
    (finding,) = findings
    return finding


def write_project(tmp_path, dependencies, constraints):
    pyproject, pins = tmp_path / "pyproject.toml", tmp_path / "constraints.txt"
    pyproject.write_text(f"[project]\ndependencies = {json.dumps(dependencies)}\n")
    pins.write_text("# comment\n" + "\n".join(constraints))
    return pyproject, pins


def test_another_python_fails_with_the_fix():
    finding = only(doctor.check_python((3, 10, 2)))
    assert (finding.outcome, finding.found) == (Outcome.FAIL, "3.10.2")
    assert "Python 3.11" in finding.fix


def test_packages_as_pinned_pass(tmp_path):
    version = doctor.importlib.metadata.version("numpy")
    finding = only(doctor.check_packages(*write_project(tmp_path, ["numpy>=2"], [f"numpy=={version}"])))
    assert (finding.outcome, finding.found) == (Outcome.PASS, "all 1 as pinned")


def test_a_local_build_of_a_pinned_version_passes(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda _: "2.13.0+cpu")
    assert only(doctor.check_packages(*write_project(tmp_path, ["torch"], ["torch==2.13.0"]))).outcome is Outcome.PASS


def test_wrong_and_missing_packages_fail_if_required_and_warn_otherwise(tmp_path):
    files = write_project(tmp_path, ["numpy", "No_such.Package[extra]"], ["numpy==1.0", "no-such-package==1", "rich==0.1"])
    failed, warned = doctor.check_packages(*files)
    assert (failed.outcome, warned.outcome) == (Outcome.FAIL, Outcome.WARN)
    assert "numpy is " in failed.found
    assert "pinned ==1.0" in failed.found
    assert "no-such-package is missing" in failed.found
    assert warned.found.startswith("rich is ")
    assert failed.fix == warned.fix == "run `make setup`"


def test_an_import_that_breaks_names_module_and_reason():
    assert only(doctor.check_imports(["json"])).outcome is Outcome.PASS
    finding = only(doctor.check_imports(["json", "no_such_module"]))
    assert finding.outcome is Outcome.FAIL
    assert finding.found == "no_such_module: ModuleNotFoundError: No module named 'no_such_module'"


def test_a_missing_driver_file_fails(monkeypatch):
    monkeypatch.setenv("VK_DRIVER_FILES", "/nonexistent/icd.json")
    finding = only(doctor.check_vulkan())
    assert finding.outcome is Outcome.FAIL
    assert "/nonexistent/icd.json, which does not exist" in finding.found
    assert "make setup" in finding.fix


@pytest.mark.sim
def test_this_machine_renders():
    assert only(doctor.check_vulkan()).outcome is Outcome.PASS


def test_upstream_assets_are_optional_but_a_wrong_path_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("SIMPLER_ASSETS", str(tmp_path / "absent"))
    builtin, upstream = doctor.check_assets()
    assert (builtin.outcome, upstream.outcome) == (Outcome.PASS, Outcome.WARN)
    assert str(tmp_path / "absent") in upstream.found
    (tmp_path / "file").touch()
    monkeypatch.setenv("SIMPLER_ASSETS", str(tmp_path))
    assert doctor.check_assets()[1] == Finding(check="assets: upstream", outcome=Outcome.PASS, found=str(tmp_path))
    monkeypatch.delenv("SIMPLER_ASSETS")
    monkeypatch.setattr(doctor, "ROOT", tmp_path / "elsewhere" / "root")
    upstream = doctor.check_assets()[1]
    assert (upstream.outcome, upstream.found) == (Outcome.PASS, "absent (optional)")


def test_a_port_in_use_is_named():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        finding = only(doctor.check_ray_ports({port: "testing"}))
        assert (finding.outcome, finding.found) == (Outcome.WARN, f"in use: {port} (testing)")
    assert only(doctor.check_ray_ports({port: "testing"})).outcome is Outcome.PASS


def test_little_memory_or_disk_warns(tmp_path, monkeypatch):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       8000000 kB\nMemAvailable:    2097152 kB\n")
    finding = only(doctor.check_memory(meminfo))
    assert (finding.outcome, finding.found) == (Outcome.WARN, "2.0 GiB available")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: doctor.shutil._ntuple_diskusage(0, 0, 2**30))
    finding = only(doctor.check_disk(tmp_path))
    assert (finding.outcome, finding.found) == (Outcome.WARN, f"1.0 GiB free at {tmp_path}")


@pytest.mark.parametrize(("outcome", "code"), [(Outcome.PASS, 0), (Outcome.WARN, 0), (Outcome.FAIL, 1)])
def test_the_exit_code_and_the_json_report(outcome, code, monkeypatch, capsys):
    findings = [Finding(check="thing", outcome=outcome, found="[brackets] stay", fix="do it")]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert doctor.main(["--json"]) == code
    assert json.loads(capsys.readouterr().out) == [
        {"check": "thing", "outcome": outcome.value, "found": "[brackets] stay", "fix": "do it"}
    ]
    assert doctor.main([]) == code
    text = capsys.readouterr().out
    assert "[brackets] stay" in text
    assert ("thing: do it" in text) == (outcome is not Outcome.PASS)
