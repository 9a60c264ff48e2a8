"""Whatever happens to a writer, nothing acknowledged is lost and nothing is there twice."""

import errno
import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crossdraft.core.errors import CrossdraftError
from crossdraft.data.store import Failure, PairedStates, Store, StoreIdentity, StoreWriter, check, same_content

Make = Callable[..., Any]
Act = Callable[[], None]
# what a commit does, in order: sync the shard, rename it, sync the folder, append to the index, sync it
STEPS = ("fsync", "replace", "fsync", "write", "fsync")


def in_child(action: Act) -> int:
    """Run ``action`` in a forked process, whose modules are loaded already; its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def trip(monkeypatch: pytest.MonkeyPatch, step: int, action: Act, after: bool) -> None:
    """Call ``action`` before or after the ``step``-th of the calls in STEPS."""
    count = iter(range(10**6))

    def patched(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            mine = next(count) == step
            if mine and not after:
                action()
            result = original(*args)
            if mine and after:
                action()
            return result

        return call

    for name in set(STEPS):
        monkeypatch.setattr(os, name, patched(getattr(os, name)))


def full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def samples(make_sample: Make) -> list[PairedStates]:
    return [make_sample(number) for number in range(60)]


@pytest.fixture
def unbroken(tmp_path: Path, write_store: Make) -> Callable[[int], Path]:
    """unbroken(n): a store of the first n samples that nothing happened to."""
    return lambda count: write_store(tmp_path / f"unbroken{count}", range(count), per_shard=1000)


def finish(root: Path, identity: StoreIdentity, samples: list[PairedStates]) -> None:
    with StoreWriter(root, identity) as writer:
        todo = set(writer.remaining(sample.id for sample in samples))
        for sample in samples:
            if sample.id in todo:
                writer.put(sample)


def acknowledgements(pipe: int, last: int | None = None) -> Iterator[str]:
    """Ids that came through the pipe: ``last`` of them, or all until it closes. A line is written at once."""
    with os.fdopen(os.dup(pipe), "rb", buffering=0) as lines:
        for number, line in enumerate(iter(lines.readline, b"")):
            yield line.decode().strip()
            if number + 1 == last:
                return


def test_what_is_synced_in_which_order(
    tmp_path: Path, identity: StoreIdentity, samples: list[PairedStates], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shard before its name, the name before the line, the line before anybody is told."""
    told: list[int] = []
    with StoreWriter(tmp_path / "s", identity) as writer:
        writer.put(samples[0])
        monkeypatch.setattr(os, "fsync", lambda handle: told.append(os.fstat(handle).st_ino))
        assert writer.commit() == ("s000",)
    order = ("w0-000000.safetensors", ".", "index-w0.jsonl")
    assert told == [(tmp_path / "s" / name).stat().st_ino for name in order]


def commit_s(root: Path, identity: StoreIdentity, samples: list[PairedStates]) -> float:
    """What a commit of two samples takes here."""
    times = []
    with StoreWriter(root, identity, max_samples=2) as writer:
        for first, second in zip(samples[0:14:2], samples[1:14:2], strict=True):
            start = time.perf_counter()
            writer.put(first)
            writer.put(second)
            times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def test_twenty_kills(
    tmp_path: Path, identity: StoreIdentity, make_sample: Make, unbroken: Callable[[int], Path]
) -> None:
    """SIGKILL at random moments: after a few acknowledgements, then within the time of some four commits."""
    rng, samples = random.Random(20), [make_sample(number) for number in range(600)]
    root, unit_s = tmp_path / "killed", commit_s(tmp_path / "timed", identity, samples)
    acknowledged: set[str] = set()
    midway = 0

    def work(pipe: int) -> None:
        with StoreWriter(root, identity) as writer:
            todo = set(writer.remaining(sample.id for sample in samples))
            for sample in samples:
                if sample.id in todo:
                    writer.put(sample)
                    for name in writer.commit() if rng.random() < 0.5 else ():
                        os.write(pipe, f"{name}\n".encode())

    for _ in range(20):
        wanted, wait_s = rng.randrange(9), rng.uniform(0, 4 * unit_s)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                work(write)
            finally:
                os._exit(0)
        os.close(write)
        if wanted:
            acknowledged |= set(acknowledgements(read, wanted))
        time.sleep(wait_s)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        acknowledged |= set(acknowledgements(read))
        os.close(read)
        if (root / "store.json").exists():  # the first kill may come before there is a store
            there = [entry.id for entry in Store.open(root).entries]
            assert acknowledged <= set(there) and len(there) == len(set(there))
            midway += len(there) < len(samples)
    assert midway > 10, "the writer was done before it was killed"
    finish(root, identity, samples)
    assert same_content(root, unbroken(len(samples)))
    report = check(root)
    assert report.ok and report.samples == len(samples) and not report.unfinished


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", range(len(STEPS)))
def test_a_death_at_every_step_of_a_commit(
    tmp_path: Path, identity: StoreIdentity, samples: list[PairedStates], unbroken: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch, step: int, after: bool,
) -> None:  # fmt: skip
    root = tmp_path / "s"
    finish(root, identity, samples[:3])

    def die() -> None:
        with StoreWriter(root, identity) as writer:
            for sample in samples[3:6]:
                writer.put(sample)
            trip(monkeypatch, step, lambda: os._exit(9), after)
            writer.commit()

    assert in_child(die) == 9
    there = {entry.id for entry in Store.open(root).entries}
    assert there >= {"s000", "s001", "s002"}
    if STEPS[step] == "fsync" and step == len(STEPS) - 1 and after:
        assert len(there) == 6, "everything was on the disk"
    finish(root, identity, samples[:6])
    assert same_content(root, unbroken(6))
    assert check(root).ok and not check(root).unfinished


@pytest.mark.parametrize("kept", [1, 40, 700])
def test_a_death_within_the_append_to_the_index(
    tmp_path: Path, identity: StoreIdentity, samples: list[PairedStates], unbroken: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch, kept: int,
) -> None:  # fmt: skip
    root = tmp_path / "s"
    finish(root, identity, samples[:3])
    whole = (root / "index-w0.jsonl").stat().st_size
    original = os.write

    def half(handle: int, data: Any) -> int:
        original(handle, data[:kept])
        os._exit(9)

    def die() -> None:
        with StoreWriter(root, identity) as writer:
            for sample in samples[3:6]:
                writer.put(sample)
            monkeypatch.setattr(os, "write", half)
            writer.commit()

    assert in_child(die) == 9
    assert (root / "index-w0.jsonl").stat().st_size == whole + kept
    assert check(root).unfinished
    finish(root, identity, samples[:6])
    assert same_content(root, unbroken(6)) and check(root).ok and not check(root).unfinished


@pytest.mark.parametrize("step", range(len(STEPS)))
def test_a_full_disk_at_every_step_of_a_commit(
    tmp_path: Path, identity: StoreIdentity, samples: list[PairedStates], unbroken: Callable[[int], Path], step: int
) -> None:
    """One line, nothing acknowledged lost, and the same writer goes on once there is space."""
    root = tmp_path / "s"
    with StoreWriter(root, identity) as writer:
        writer.put(samples[0])
        assert writer.commit() == ("s000",)
        writer.put(samples[1])
        writer.fail(Failure(id="gone", recording="r", clip_index=0, question="?", reason="no video"))
        with pytest.MonkeyPatch.context() as patch:
            trip(patch, step, full, after=False)
            with pytest.raises(CrossdraftError, match="cannot write .*No space left on device.*space") as caught:
                writer.commit()
        assert "\n" not in str(caught.value)
        assert writer.done_ids == {"s000"} and not writer.failures
        store = Store.open(root)
        assert [entry.id for entry in store.entries] == ["s000"] and not store.failures
        assert check(root).ok and not check(root).unfinished
        assert writer.commit() == ("s001",)
    store = Store.open(root)
    assert [entry.id for entry in store.entries] == ["s000", "s001"] and list(store.failures) == ["gone"]
    finish(root, identity, samples[:4])
    assert len(Store.open(root)) == 4


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", range(len(STEPS)))
def test_an_interrupt_at_every_step_of_a_commit(
    tmp_path: Path, identity: StoreIdentity, samples: list[PairedStates], unbroken: Callable[[int], Path],
    step: int, after: bool,
) -> None:  # fmt: skip
    """Ctrl-C does not end the process by itself: whoever catches it may commit again, and nothing is doubled."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    root = tmp_path / "s"
    with StoreWriter(root, identity) as writer:
        for sample in samples[:3]:
            writer.put(sample)
        with pytest.MonkeyPatch.context() as patch:
            trip(patch, step, interrupt, after)
            with pytest.raises(KeyboardInterrupt):
                writer.commit()
        assert len(Store.open(root)) == 0
    assert same_content(root, unbroken(3)) and check(root).ok and not check(root).unfinished


def test_a_disk_that_does_not_even_let_us_undo(
    tmp_path: Path, identity: StoreIdentity, samples: list[PairedStates], unbroken: Callable[[int], Path]
) -> None:
    root = tmp_path / "s"
    finish(root, identity, samples[:1])
    writer = StoreWriter(root, identity)
    writer.put(samples[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "ftruncate", lambda *_: full())
        trip(patch, 4, full, after=False)
        with pytest.raises(CrossdraftError, match="No space left"):
            writer.commit()
    with pytest.raises(CrossdraftError, match="open the store again"):
        writer.commit()
    writer.close()
    finish(root, identity, samples[:3])
    assert same_content(root, unbroken(3))


def test_a_file_that_really_cannot_grow(
    tmp_path: Path, identity: StoreIdentity, make_sample: Make, samples: list[PairedStates]
) -> None:
    """The kernel stops the write half way, as a full disk does."""
    root = tmp_path / "s"
    finish(root, identity, samples[:2])
    said = tmp_path / "said"

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with StoreWriter(root, identity) as writer:
            for sample in samples[2:60]:
                writer.put(sample)
            said.write_text("")
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
            try:
                writer.commit()
            except CrossdraftError as error:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                said.write_text(str(error))
            writer.commit()

    assert in_child(work) == 0
    assert "File too large" in said.read_text() and "\n" not in said.read_text()
    assert len(Store.open(root)) == 60 and check(root).ok and not check(root).unfinished


def test_several_processes_write_at_once(
    tmp_path: Path, identity: StoreIdentity, samples: list[PairedStates], unbroken: Callable[[int], Path]
) -> None:
    root, pids = tmp_path / "s", []
    for worker in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                with StoreWriter(root, identity, prefix=f"w{worker}", max_samples=4) as writer:
                    for sample in samples[worker:60:4]:
                        writer.put(sample)
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    assert same_content(root, unbroken(60))
    assert len(list(root.glob("index-*.jsonl"))) == 4


def test_going_on_leaves_other_workers_files_alone(
    tmp_path: Path, identity: StoreIdentity, samples: list[PairedStates]
) -> None:
    """A shard that no line names yet is a commit under way, unless it is one's own."""
    root = tmp_path / "s"
    finish(root, identity, samples[:2])
    foreign = [
        root / "w1-000000.safetensors",
        root / ".w1-000001.safetensors.7.tmp",
        root / "w0_a-000000.safetensors",
    ]
    own = [root / "w0-000009.safetensors", root / ".w0-000010.safetensors.7.tmp"]
    for path in (*foreign, *own):
        path.write_bytes(b"")
    finish(root, identity, samples[:3])
    assert all(path.exists() for path in foreign) and not any(path.exists() for path in own)
    assert len(Store.open(root)) == 3
