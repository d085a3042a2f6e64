"""The power is cut at every single write, flush, rename, link and folder that a change makes, and the store is opened again.

Each cut happens in a forked child, so that nothing is cleaned up after it. Twice: once the disk keeps everything that was handed
to it, once it loses all that was not flushed (bytes behind the last fsync, names behind the last fsync of their folder).
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_toys import WHO, add_policy, episodes, make_promotion, pass_evaluation, record_episodes, write_policy

from checkpoints.agent_memory import AgentMemory, Running
from checkpoints.gate_record import Binding
from checkpoints.policy import GateKind
from checkpoints.promotion import Promotion

CUT, FAILED = 77, 78


class Power:
    """Counts the steps of the process that it is installed in, and ends it at one of them."""

    def __init__(self, num_steps: int, *, loses: bool) -> None:
        self._steps_left, self._loses = num_steps, loses
        self._flushed_bytes: dict[Path, int] = {}
        self._names: list[tuple[Path, bytes | None]] = []
        self._real = {name: getattr(os, name) for name in ("write", "fsync", "rename", "link", "mkdir", "ftruncate")}

    def install(self) -> None:
        for name in self._real:
            setattr(os, name, getattr(self, name))

    def write(self, descriptor: int, content: bytes) -> int:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        self._flushed_bytes.setdefault(path, path.stat().st_size)
        self._step(lambda: self._real["write"](descriptor, bytes(content)[: len(content) // 2]))
        return self._real["write"](descriptor, content)

    def fsync(self, descriptor: int) -> None:
        self._step()
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        self._flushed_bytes.pop(path, None)
        self._names = [(name, before) for name, before in self._names if name.parent != path]
        self._real["fsync"](descriptor)

    def rename(self, source: Path, path: Path) -> None:
        self._step()
        before = path.read_bytes() if path.is_file() else None
        self._real["rename"](source, path)
        self._names.append((path, before))

    def link(self, source: Path, path: Path) -> None:
        self._step()
        self._real["link"](source, path)

    def mkdir(self, path: Path, mode: int = 0o777) -> None:
        self._step()
        self._real["mkdir"](path, mode)

    def ftruncate(self, descriptor: int, num_bytes: int) -> None:
        self._step()
        self._real["ftruncate"](descriptor, num_bytes)

    def lose(self) -> None:
        """What a disk may forget."""
        if not self._loses:
            return
        for path, before in reversed(self._names):
            if before is not None:
                path.write_bytes(before)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        for path, num_bytes in self._flushed_bytes.items():
            if path.exists():
                os.truncate(path, num_bytes)

    def _step(self, half: Callable[[], object] = lambda: None) -> None:
        self._steps_left -= 1
        if self._steps_left < 0:
            half()
            self.lose()
            os._exit(CUT)


def cut_at(num_steps: int, work: Callable[[], object], *, loses: bool) -> bool:
    """Run ``work`` in a child whose power is cut after so many steps; True if it finished before."""
    process_id = os.fork()
    if process_id == 0:
        code = FAILED
        try:
            power = Power(num_steps, loses=loses)
            power.install()
            work()
            power.lose()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(process_id, 0)[1])
    assert code in (0, CUT), "the change itself failed"
    return code == 0


def every_cut(base: Path, work: Callable[[Path], object], check: Callable[[Path, bool], None], *, loses: bool) -> int:
    """Cut ``work`` on copies of ``base`` after 0, 1, 2, ... steps until it finishes; returns how many cuts there were."""
    for num_steps in range(200):
        copy = base.with_name(f"cut_{num_steps}")
        shutil.copytree(base, copy)
        is_finished = cut_at(num_steps, lambda copy=copy: work(copy), loses=loses)
        check(copy, is_finished)
        shutil.rmtree(copy)
        if is_finished:
            return num_steps
    raise AssertionError("the change never finished")


@pytest.fixture(params=[False, True], ids=["keeps", "loses"])
def loses(request):
    return request.param


@pytest.fixture
def two(tmp_path):
    """A store with the first of two checkpoints in staging, both evaluated."""
    promotion = make_promotion(tmp_path / "base")
    ids = [add_policy(promotion, tmp_path, weight) for weight in (1.0, 2.0)]
    for checkpoint in ids:
        pass_evaluation(promotion, checkpoint)
    promotion.promote(ids[0], "staging", **WHO)
    return promotion, ids


def require_whole(promotion: Promotion) -> None:
    promotion.ledger.verify()
    for checkpoint in promotion.store.ids():
        promotion.store.verify(checkpoint)


def test_a_promotion_is_all_or_nothing(two, loses):
    promotion, (old, new) = two
    before = len(promotion.ledger.history())

    def check(root: Path, is_finished: bool) -> None:
        reopened = make_promotion(root)
        require_whole(reopened)
        now = reopened.channel("staging").checkpoint_id
        assert now in (old, new)
        assert not is_finished or now == new
        assert len(reopened.ledger.history()) == before + (now == new)
        if now == old:
            reopened.promote(new, "staging", **WHO)
        reopened.rollback("staging", **WHO)
        assert reopened.channel("staging").checkpoint_id == old
        require_whole(reopened)

    cuts = every_cut(promotion.ledger.root, lambda root: make_promotion(root).promote(new, "staging", **WHO), check, loses=loses)
    assert cuts >= 7  # staged write, flush; log truncate, write, flush; rename, flush


@pytest.mark.slow
def test_a_process_killed_at_any_moment_leaves_a_whole_store(two):
    promotion, (old, new) = two
    root, rng = promotion.ledger.root, random.Random(0)
    for _ in range(30):
        process_id = os.fork()
        if process_id == 0:
            try:
                while True:
                    make_promotion(root).promote(new, "staging", **WHO)
                    make_promotion(root).rollback("staging", **WHO)
            finally:
                os._exit(FAILED)
        time.sleep(rng.uniform(0.0, 0.1))
        os.kill(process_id, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(process_id, 0)[1]) == -signal.SIGKILL, "a change failed before the kill"
        reopened = make_promotion(root)
        require_whole(reopened)
        if reopened.channel("staging").checkpoint_id == new:
            reopened.rollback("staging", **WHO)
        assert reopened.channel("staging").checkpoint_id == old


@pytest.mark.slow
def test_the_first_change_of_an_empty_store_too(tmp_path, loses):
    (tmp_path / "base").mkdir()

    def swap(root: Path) -> None:
        make_promotion(root).set_pin("arm1", is_pinned=True, **WHO)

    def check(root: Path, is_finished: bool) -> None:
        reopened = make_promotion(root)
        reopened.ledger.verify()
        assert reopened.pin("arm1").is_pinned == (len(reopened.ledger.history()) == 1)
        assert not is_finished or reopened.pin("arm1").is_pinned
        if not reopened.pin("arm1").is_pinned:
            swap(root)
        reopened.ledger.verify()

    assert every_cut(tmp_path / "base", swap, check, loses=loses) >= 9


@pytest.mark.slow
def test_adding_a_checkpoint_is_all_or_nothing(two, tmp_path, loses):
    promotion, ids = two
    directory = write_policy(tmp_path / "third", 3.0)
    third = make_promotion(tmp_path / "elsewhere").store.add(directory)

    def check(root: Path, is_finished: bool) -> None:
        reopened = make_promotion(root)
        require_whole(reopened)
        assert set(reopened.store.ids()) - {third} == set(ids)
        assert not is_finished or third in reopened.store.ids()
        assert reopened.store.add(directory) == third
        require_whole(reopened)

    work = lambda root: make_promotion(root).store.add(directory)  # noqa: E731
    assert every_cut(promotion.ledger.root, work, check, loses=loses) >= 10


@pytest.mark.slow
def test_linking_a_checkpoint_is_all_or_nothing(two, tmp_path, loses):
    promotion, _ = two
    directory = write_policy(tmp_path / "third", 3.0)

    def check(root: Path, is_finished: bool) -> None:
        require_whole(make_promotion(root))
        make_promotion(root).store.verify(make_promotion(root).store.add(directory))

    work = lambda root: make_promotion(root).store.add(directory, is_linked=True)  # noqa: E731
    assert every_cut(promotion.ledger.root, work, check, loses=loses) >= 8


@pytest.mark.slow
def test_an_episode_of_a_gate_is_recorded_once_or_not_at_all(two, loses):
    promotion, (checkpoint, _) = two
    binding = Binding(name="suite", digest="suite2")
    opened = promotion.gates.open(checkpoint, GateKind.EVALUATION, binding, **WHO)
    record_episodes(promotion, opened, episodes("sss"))

    def add(root: Path) -> None:
        reopened = make_promotion(root)
        gate = reopened.gates.latest(checkpoint, GateKind.EVALUATION, "suite2")
        record_episodes(reopened, gate, episodes("f", first=3))

    def check(root: Path, is_finished: bool) -> None:
        reopened = make_promotion(root)
        require_whole(reopened)
        found = len(reopened.gates.latest(checkpoint, GateKind.EVALUATION, "suite2").record.episodes)
        assert found in (3, 4)
        assert not is_finished or found == 4
        if found == 3:
            add(root)

    assert every_cut(promotion.ledger.root, add, check, loses=loses) >= 11


@pytest.mark.slow
def test_a_robot_gets_a_whole_checkpoint_or_none(two, tmp_path, loses):
    promotion, (checkpoint, _) = two
    (tmp_path / "robot").mkdir()

    def check(root: Path, is_finished: bool) -> None:
        target = root / "here"
        assert target.exists() or not is_finished
        if target.exists():
            assert sorted(path.name for path in target.iterdir()) == ["manifest.json", "model.safetensors"]
            assert [(target / file.name).stat().st_size for file in promotion.store.manifest(checkpoint).files] == [
                file.num_bytes for file in promotion.store.manifest(checkpoint).files
            ]

    work = lambda root: promotion.store.materialise(checkpoint, root / "here")  # noqa: E731
    assert every_cut(tmp_path / "robot", work, check, loses=loses) >= 7


@pytest.mark.slow
def test_the_agents_memory_is_the_old_or_the_new(tmp_path, loses):
    base = tmp_path / "base"
    old, new = AgentMemory(settled="a" * 64), AgentMemory(settled="b" * 64, running=Running(generation=2), crash_times_s=(1.5,))
    old.write(base / "agent.json")

    def check(root: Path, is_finished: bool) -> None:
        found = AgentMemory.read(root / "agent.json")
        assert found in (old, new)
        assert not is_finished or found == new

    assert every_cut(base, lambda root: new.write(root / "agent.json"), check, loses=loses) >= 4
