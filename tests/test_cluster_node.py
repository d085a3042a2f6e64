"""What each host of a cluster tells Ray, and that ``ray up`` takes the cluster files as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from cluster.node import Host, find_host, load_hosts, main, ray_start_command
from core.errors import ConfigError
from scripts.namespace_cluster import missing

ROOT = Path(__file__).resolve().parents[1]


def _written(tmp_path, text):
    path = tmp_path / "hosts.yaml"
    path.write_text(text)
    return path


def test_the_hosts_file_and_the_cluster_file_name_the_same_hosts():
    provider = OmegaConf.load(ROOT / "cluster.yaml").provider
    assert {host.address for host in load_hosts()} == {provider.head_ip, *provider.worker_ips}


def test_a_host_tells_ray_what_it_has():
    host = Host(address="192.0.2.20", num_cpus=1, num_gpus=2, resources={"robot_kitchen": 1})
    command = ray_start_command(host, head_address="192.0.2.10", autoscaling_config=None)
    assert command[:3] == ["ray", "start", "--node-ip-address=192.0.2.20"]
    assert {"--address=192.0.2.10:6379", "--num-cpus=1", "--num-gpus=2", '--resources={"robot_kitchen": 1}'} <= set(command)
    assert not any("dashboard" in part or "head" in part for part in command)


def test_the_head_shows_its_dashboard_to_itself_only():
    command = ray_start_command(Host(address="192.0.2.10"), head_address=None, autoscaling_config=Path("x.yaml"))
    assert {"--head", "--dashboard-host=127.0.0.1", "--disable-usage-stats", "--autoscaling-config=x.yaml"} <= set(command)
    assert not any(part.startswith(("--num-", "--resources", "--address")) for part in command), "Ray finds these itself"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hosts: [{address: a, gpus: 1}]", "gpus"),
        ("hosts: [{num_cpus: 1}]", "address"),
        ("hosts: [{address: a, num_cpus: many}]", "num_cpus"),
        ("hosts: [{address: a}, {address: a}]", "2 times"),
    ],
)
def test_a_wrong_hosts_file_is_named(tmp_path, text, message):
    path = _written(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_hosts(path)
    assert str(path) in str(caught.value)


def test_a_missing_hosts_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"hosts\.yaml"):
        load_hosts(tmp_path / "hosts.yaml")


def test_a_host_finds_itself():
    hosts = [Host(address="192.0.2.10"), Host(address="192.0.2.11")]
    assert find_host(hosts, {"10.0.0.3", "192.0.2.11"}) is hosts[1]
    with pytest.raises(ConfigError, match=r"10\.0\.0\.3.*lists none"):
        find_host(hosts, {"10.0.0.3"})
    with pytest.raises(ConfigError, match="exactly one"):
        find_host(hosts, {"192.0.2.10", "192.0.2.11"})


def test_without_a_token_nothing_is_started(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["head", "--hosts", str(_written(tmp_path, "hosts: []"))]) == 2
    assert "ray get-auth-token --generate" in capsys.readouterr().err


def test_a_worker_needs_the_heads_address(monkeypatch, capsys):
    monkeypatch.delenv("RAY_HEAD_IP", raising=False)
    assert main(["worker"]) == 2
    assert "RAY_HEAD_IP" in capsys.readouterr().err


@pytest.mark.ray
@pytest.mark.parametrize("name", ["cluster.yaml", "cluster_cloud.yaml"])
def test_ray_takes_the_cluster_file(name):
    """Ray's own check, in a process of its own: it must not see the tests' cluster."""
    program = (
        "import sys, yaml; from ray.autoscaler._private.util import prepare_config, validate_config; "
        "validate_config(prepare_config(yaml.safe_load(open(sys.argv[1]))))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(ROOT / name)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(2400)
def test_ray_up_and_a_worker_that_is_cut_off():
    """`ray up`, the main job on three hosts, a cut and a return, `ray down`; some 15 minutes on 2 cores."""
    if reason := missing():
        pytest.skip(reason)
    done = subprocess.run([sys.executable, "-m", "scripts.namespace_cluster"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ray down" in done.stdout
