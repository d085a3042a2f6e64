"""Several hosts on one machine, and ``cluster.yaml`` tried on them: ``sudo .venv/bin/python -m scripts.namespace_cluster``.

Each host is a network namespace with its own address, processes, home, /tmp and sshd; they meet on a bridge in a namespace of
its own, from which ``ray up`` is called: nothing of this machine's network changes. Then the main job runs across them, a worker
is cut off and comes back, and ``ray down`` ends it. All is removed afterwards, also after an error. Needs root, sshd, ssh,
rsync, ip, unshare.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from core.command import exit_on_sigterm, run_command
from core.errors import ConfigError, RecapError

ROOT = Path(__file__).resolve().parent.parent
_PROGRAMS = ("ip", "unshare", "sshd", "ssh", "ssh-keygen", "rsync")
_HIDDEN = (Path("/tmp"), Path("/run"), Path("/dev/shm"))
"""Each host has its own; the project must lie elsewhere to be seen by them."""
_NETWORK = "192.0.2"
"""TEST-NET-1 (RFC 5737): belongs to nobody, and exists inside the namespaces only."""
_SMALL = ("pretrain.num_demonstrations=6", "pretrain.codec_frames=40", "pretrain.is_policy_on_successes_only=false",
          *(f"{part}.{model}.num_steps=10" for part in ("pretrain", "recap") for model in ("policy", "value")),
          "evaluation.num_episodes=4", "tracking.num_videos=0")  # fmt: skip
"""What is tried is the cluster, not the learning."""
_PATIENCE_S = 900.0
"""Of every wait for Ray: long enough for a computer with other work to do, short enough to say what does not come."""
_TELL_S = 30.0
"""How often whoever waits says for what."""
_ADDRESSES = {"head": f"{_NETWORK}.10", "simulation": f"{_NETWORK}.11", "robot": f"{_NETWORK}.20"}


class NamespaceError(RecapError, RuntimeError):
    """Something that was tried did not work; the message says what."""


class NamespaceCluster:
    """Three hosts behind one bridge; a context manager that removes them all.

    Args:
        folder: for keys and logs, and ``shared/``, which every host sees: the cluster's shared file system.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.shared = self.folder / "shared"
        self._prefix = f"vr{os.getpid() % 10000}"
        self._hosts: dict[str, subprocess.Popen[bytes]] = {}
        self._operator = f"{self._prefix}op"

    def __enter__(self) -> NamespaceCluster:
        self.shared.mkdir(parents=True, exist_ok=True)
        try:
            for name in ("user", "host"):
                _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / f"{name}_key"))
            self._make_operator()
            for name, address in _ADDRESSES.items():
                self._make_host(name, address)
            for name in _ADDRESSES:
                _wait(lambda name=name: self.ssh(name, "true").returncode == 0, f"sshd of {name}", timeout_s=120)  # type: ignore[misc]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._hosts.values():
            process.kill()  # --kill-child: all of the host's processes go with it
            process.wait()
        listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.split()
        for name in (name for name in listed if name.startswith(self._prefix)):
            subprocess.run(["ip", "netns", "del", name])

    def operate(self, *command: str, timeout_s: float = 1800) -> str:
        """Run a command where the operator is; returns its output.

        Raises:
            NamespaceError: with the end of its output, if it fails.
        """
        env = os.environ | {
            "HOME": str(self.folder / "operator_home"),
            "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "TERM": "dumb",
        }
        return _run("ip", "netns", "exec", self._operator, *command, env=env, timeout_s=timeout_s)

    def ssh(self, name: str, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command on a host, as Ray does."""
        options = ["-i", str(self.folder / "user_key"), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        options += ["-o", "ConnectTimeout=3", "-o", "LogLevel=ERROR"]
        return subprocess.run(
            ["ip", "netns", "exec", self._operator, "ssh", *options, f"root@{_ADDRESSES[name]}", command],
            capture_output=True,
            text=True,
        )

    def set_link(self, name: str, state: str) -> None:
        """Cut a host off (``"down"``), or join it again (``"up"``)."""
        _run("ip", "-n", self._operator, "link", "set", f"{self._prefix}{name[:4]}", state)

    def cluster_yaml(self) -> Path:
        """The project's own file with these hosts' login; set-up takes this machine's packages, because there is no internet."""
        home = self.folder / "operator_home"
        text = (ROOT / "cluster.yaml").read_text()
        for old, new in {
            "ssh_user: robot": "ssh_user: root",
            "~/.ssh/id_ed25519": str(self.folder / "user_key"),
            "  ~/viva-recap: .\n": f"  ~/viva-recap: {ROOT}\n",
            "make -C ~/viva-recap setup": f"ln -sfn {(ROOT / '.venv').resolve()} ~/viva-recap/.venv",
            "~/.ray/auth_token: ~/.ray/auth_token": f"~/.ray/auth_token: {home}/.ray/auth_token",
        }.items():
            if text.count(old) != 1:
                raise NamespaceError(f"cluster.yaml has {old!r} {text.count(old)} times; expected once. Adapt this script to it")
            text = text.replace(old, new)
        path = self.folder / "cluster.yaml"
        path.write_text(text)
        return path

    def _make_operator(self) -> None:
        (self.folder / "operator_home").mkdir()
        _run("ip", "netns", "add", self._operator)
        for command in (
            "link set lo up",
            "link add bridge type bridge",
            f"addr add {_NETWORK}.1/24 dev bridge",
            "link set bridge up",
        ):
            _run("ip", "-n", self._operator, *command.split())

    def _make_host(self, name: str, address: str) -> None:
        space, port = f"{self._prefix}{name}", f"{self._prefix}{name[:4]}"
        _run("ip", "netns", "add", space)
        _run("ip", "link", "add", port, "netns", self._operator, "type", "veth", "peer", "name", "eth0", "netns", space)
        for where, command in (
            (self._operator, f"link set {port} master bridge"),
            (self._operator, f"link set {port} up"),
            (space, "link set lo up"),
            (space, f"addr add {address}/24 dev eth0"),
            (space, "link set eth0 up"),
        ):
            _run("ip", "-n", where, *command.split())
        home = self.folder / "home" / name
        (home / ".ssh").mkdir(parents=True)
        shutil.copy(self.folder / "user_key.pub", home / ".ssh" / "authorized_keys")
        for file, mode in ((home, 0o700), (home / ".ssh", 0o700), (home / ".ssh" / "authorized_keys", 0o600)):
            file.chmod(mode)
        shutil.copytree("/etc/skel", home, dirs_exist_ok=True)  # as for a new user: what a login finds depends on it
        logs = self.folder / "tmp" / name  # Ray writes its logs to /tmp
        logs.mkdir(parents=True)
        users = self.folder / f"{name}.passwd"  # a home of its own, while Python may live in the real one
        users.write_text(re.sub(r"(?m)^(root:.*):[^:]*:([^:]*)$", rf"\1:{home}:\2", Path("/etc/passwd").read_text()))
        script = f"""set -e
            mount --bind {users} /etc/passwd
            for folder in /run /dev/shm; do mount -t tmpfs none $folder; done
            mount --bind {logs} /tmp
            mkdir -p /run/sshd
            exec "$(command -v sshd)" -D -e -f /dev/null -h {self.folder}/host_key \\
                -o PermitRootLogin=yes -o PasswordAuthentication=no -o UsePAM=no -o PidFile=none"""
        with (self.folder / f"{name}.log").open("wb") as log:
            self._hosts[name] = subprocess.Popen(
                ["ip", "netns", "exec", space, "unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child",
                 "bash", "-c", script],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip


def try_cluster(cluster: NamespaceCluster, report: Callable[[str, float], None]) -> None:
    """``ray up``, the main job, a cut and a return, the main job again, ``ray down``.

    Args:
        cluster: hosts without Ray.
        report: is told each step and its seconds.

    Raises:
        NamespaceError: at the first step that does not end as it should.
    """
    token = cluster.folder / "operator_home" / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text(os.urandom(32).hex())
    token.chmod(0o600)
    yaml = str(cluster.cluster_yaml())

    def alive() -> int:
        # With the head's token, by Ray's own list: a node counts while the head hears from it.
        program = "import ray; ray.init(address='auto', logging_level=50); print('ALIVE', sum(n['Alive'] for n in ray.nodes()))"
        done = cluster.ssh("head", f'cd ~/viva-recap && timeout 120 .venv/bin/python -c "{program}"')
        found = re.search(r"ALIVE (\d+)", done.stdout)
        return int(found.group(1)) if found else 0

    project, pretrained = "cd ~/viva-recap && .venv/bin/python -m", cluster.shared / "pretrained"

    def job(name: str, *nodes: str) -> None:
        checkpoints = [f"recap.{kind}_checkpoint={pretrained}/checkpoints/{kind}" for kind in ("policy", "value")]
        arguments = ["execution=ray", "execution.ray_address=auto", "execution.is_spread=true", f"workers={len(nodes)}"]
        arguments += [*checkpoints, f"recap.demonstrations={pretrained}/replay", "recap.iterations=1", *_SMALL]
        arguments += ["recap.episodes_per_iteration=24", "recap.is_start_evaluated=false"]
        command = f"{project} learners.recap --config smoke --run {cluster.shared / name} {' '.join(arguments)}"
        cluster.operate("ray", "exec", yaml, command)
        writers = " ".join(file.name for file in (cluster.shared / name / "replay").rglob("*") if file.is_file())
        unheard = [node for node in nodes if _ADDRESSES[node].replace(".", "-") not in writers]
        if unheard:
            raise NamespaceError(f"no episode was played on: {', '.join(unheard)}; writers: {writers[:600]}")

    @contextlib.contextmanager
    def step(what: str) -> Iterator[None]:
        started_s = time.monotonic()
        yield
        report(what, time.monotonic() - started_s)

    with step("ray up: head answers"):
        cluster.operate("ray", "up", "-y", "--no-config-cache", yaml)
    with step("all three hosts joined"):
        _wait(lambda: alive() == len(_ADDRESSES), "all hosts to join", timeout_s=_PATIENCE_S)
    with step("without the token: refused"):
        program = "import ray; ray.init(address='auto', logging_level=50)"
        command = f'cd ~/viva-recap && RAY_AUTH_MODE=disabled timeout 60 .venv/bin/python -c "{program}"'
        if cluster.ssh("head", command).returncode == 0:
            raise NamespaceError("Ray let somebody in who has no token")
    with step("pretraining, on the head"):
        cluster.operate("ray", "exec", yaml, f"{project} learners.pretrain --config smoke --run {pretrained} {' '.join(_SMALL)}")
    with step("main job, episodes from all three"):
        job("first", *_ADDRESSES)
    with step("worker cut off: noticed"):
        cluster.set_link("simulation", "down")
        _wait(lambda: alive() == len(_ADDRESSES) - 1, "the head to miss the worker", timeout_s=_PATIENCE_S)
    with step("main job without it"):
        job("without_one", "head", "robot")
    with step("link back: rejoined by itself"):
        cluster.set_link("simulation", "up")
        _wait(lambda: alive() == len(_ADDRESSES), "the worker to come back", timeout_s=_PATIENCE_S)
    with step("main job with it again"):
        job("again", *_ADDRESSES)
    with step("ray down"):
        cluster.operate("ray", "down", "-y", yaml)
        if cluster.ssh("head", "pgrep -x 'raylet|gcs_server'").returncode == 0:
            raise NamespaceError("after `ray down` Ray still runs on the head")
    with step("workers end without their head"):
        # `ray down` stops Ray on the head; on-premise workers end by themselves when they have missed it for a minute.
        workers = [name for name in _ADDRESSES if name != "head"]
        _wait(
            lambda: all(cluster.ssh(name, "pgrep -x raylet").returncode == 1 for name in workers),
            "Ray to end on the workers",
            timeout_s=_PATIENCE_S,
        )


def missing() -> str:
    """Why this cannot run here; empty if it can."""
    absent = [program for program in _PROGRAMS if shutil.which(program) is None]
    if os.geteuid() != 0:
        return "it needs root, for network namespaces"
    if absent:
        return f"missing programs: {', '.join(absent)} (Debian: apt-get install iproute2 openssh-server openssh-client rsync)"
    hiding = [str(hidden) for hidden in _HIDDEN if (ROOT / ".venv").resolve().is_relative_to(hidden)]
    if hiding:
        return f"the project lies in {hiding[0]}, which every host has of its own; check it out elsewhere"
    made = subprocess.run(["ip", "netns", "add", f"vr{os.getpid()}"], capture_output=True, text=True)
    if made.returncode != 0:
        return f"network namespaces cannot be made here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", f"vr{os.getpid()}"])
    return ""


def main() -> int:
    """Command line: tries everything, prints what took how long; 0 if all went well."""
    parser = argparse.ArgumentParser(prog="python -m scripts.namespace_cluster", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--folder", type=Path, help="keep keys, logs and runs there; default: a temporary one, removed")
    options = parser.parse_args()
    return run_command(lambda: _try(options.folder))


def _try(kept: Path | None) -> None:
    if reason := missing():
        raise ConfigError(f"this cannot run here: {reason}")
    exit_on_sigterm()  # so that the hosts are removed
    # Not in /tmp: each host has its own.
    folder = kept or Path(tempfile.mkdtemp(prefix="viva_recap_hosts_", dir="/var/tmp"))
    try:
        with NamespaceCluster(folder) as cluster:
            try_cluster(cluster, lambda what, took_s: print(f"{what:<40} {took_s:7.1f} s", flush=True))
    finally:
        if kept is None:
            shutil.rmtree(folder, ignore_errors=True)


def _wait(is_done: Callable[[], bool], what: str, *, timeout_s: float) -> None:
    started_s = told_s = time.monotonic()
    while not is_done():
        now_s = time.monotonic()
        if now_s - started_s > timeout_s:
            raise NamespaceError(f"waited {timeout_s:.0f} s for {what}")
        if now_s - told_s > _TELL_S:
            told_s = now_s
            _tell(what, now_s - started_s)
        time.sleep(1.0)


def _run(*command: str, env: dict[str, str] | None = None, timeout_s: float = 60) -> str:
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )
    started_s = time.monotonic()
    try:
        while True:
            try:
                output, _ = process.communicate(timeout=_TELL_S)
                break
            except subprocess.TimeoutExpired as running:
                waited_s = time.monotonic() - started_s
                lines = _lines(running.output)
                if waited_s > timeout_s:
                    raise NamespaceError(_failure(command, f"did not end within {timeout_s:.0f} s", lines)) from None
                _tell(f"`{' '.join(command)[-60:]}`" + (f", at: {lines[-1][:120]}" if lines else ""), waited_s)
    finally:
        process.kill()  # nothing where it has ended
        process.wait()
    if process.returncode != 0:
        raise NamespaceError(_failure(command, f"failed with {process.returncode}", _lines(output)))
    return output


def _lines(output: str | bytes | None) -> list[str]:
    """What a command printed; of one still running it comes as bytes."""
    text = output.decode(errors="replace") if isinstance(output, bytes) else output or ""
    return text.strip().splitlines()


def _failure(command: tuple[str, ...], how: str, lines: list[str]) -> str:
    return "\n".join([f"`{' '.join(command)}` {how}:", *lines[-30:]])


def _tell(what: str, waited_s: float) -> None:
    print(f"  {waited_s:.0f} s, waiting for {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
