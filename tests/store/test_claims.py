"""Processes that need the same artifact at the same time: one makes it, the others wait."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tda_dagster.store import ArtifactStore, Recipe, claims
from tda_dagster.store.collection import collect, plan_collection

# Says what it does, line by line, and appends a line to a file for every time that it produces.
WORKER = """
import json, os, sys, time
from pathlib import Path
from tda_dagster.store import ArtifactStore, Recipe, claims

job = json.loads(sys.argv[1])
claims.BEAT_S, claims.STALE_S = job["beat_s"], job["stale_s"]
if job["elsewhere"]:
    claims.this_machine = lambda: job["elsewhere"]

def produce(folder):
    with open(job["made"], "a") as made:
        made.write(f"{os.getpid()}\\n")
    print("producing", flush=True)
    time.sleep(job["seconds"])
    if job["fails"]:
        raise RuntimeError("it failed")
    (folder / "weights").write_bytes(b"weights")

store = ArtifactStore(job["root"], cache_dir=Path(job["cache"]))
recipe = Recipe("base/checkpoint", code_version="1", config={"number": 0})
print("ready", flush=True)
sys.stdin.readline()
done = store.materialize(recipe, produce, run_id=job["run_id"])
print("cached" if done.cached else "made", done.ref.digest, flush=True)
"""


def recipe(number: int = 0) -> Recipe:
    return Recipe("base/checkpoint", code_version="1", config={"number": number})


class Workers:
    """Processes that materialize the same recipe in one store."""

    def __init__(self, ground: Any, folder: Path) -> None:
        self.ground = ground
        self._folder = folder
        self._made = folder / "made"
        self._processes: list[subprocess.Popen[str]] = []

    def start(
        self,
        *,
        seconds: float = 0.0,
        fails: bool = False,
        elsewhere: str = "",
        beat_s: float = 15.0,
        stale_s: float = 60.0,
        run_id: str = "",
    ) -> "subprocess.Popen[str]":
        """A process that is ready to begin; `elsewhere` makes it one of another machine."""
        job = {
            "root": self.ground.root,
            "cache": str(self._folder / f"cache{len(self._processes)}"),
            "made": str(self._made),
            "seconds": seconds,
            "fails": fails,
            "elsewhere": elsewhere,
            "beat_s": beat_s,
            "stale_s": stale_s,
            "run_id": run_id,
        }
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        assert said(process) == "ready"
        return process

    def produced(self) -> list[int]:
        """The process ids of those who produced, one for every time."""
        return [int(pid) for pid in self._made.read_text().split()]

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


def go(*processes: "subprocess.Popen[str]") -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()


def said(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def answer(process: "subprocess.Popen[str]") -> list[str]:
    """What a process ends with: "made" or "cached", and the digest; nothing if it failed."""
    for line in iter(lambda: said(process), ""):
        if line.startswith(("made", "cached")):
            return line.split()
    return []


@pytest.fixture
def workers(ground: Any, tmp_path: Path) -> Iterator[Workers]:
    workers = Workers(ground, tmp_path)
    yield workers
    workers.stop()


# Every process needs a place that it can reach: memory is not one.
between_processes = pytest.mark.parametrize("ground", ["local", "s3"], indirect=True)


@between_processes
def test_of_two_processes_one_computes_and_both_have_it(workers: Workers) -> None:
    both = workers.start(seconds=1.0), workers.start(seconds=1.0)
    go(*both)
    answers = [answer(process) for process in both]
    assert sorted(word for word, _ in answers) == ["cached", "made"]
    assert len({digest for _, digest in answers}) == 1
    assert len(workers.produced()) == 1
    assert workers.ground.files(claims.FOLDER) == {}


@between_processes
def test_who_waits_takes_over_from_a_killed_process_at_once(workers: Workers) -> None:
    holder, waiter = workers.start(seconds=60.0), workers.start()
    go(holder)
    assert said(holder) == "producing"
    go(waiter)
    time.sleep(1.0)
    assert workers.produced() == [holder.pid]
    holder.send_signal(signal.SIGKILL)  # it stays a zombie: nobody has asked for its end
    start = time.monotonic()
    assert answer(waiter)[0] == "made"
    assert time.monotonic() - start < 10
    assert workers.produced() == [holder.pid, waiter.pid]
    assert workers.ground.files(claims.FOLDER) == {}


@between_processes
def test_who_waits_computes_when_the_holder_fails(workers: Workers) -> None:
    holder, waiter = workers.start(seconds=1.0, fails=True), workers.start()
    go(holder)
    assert said(holder) == "producing"
    go(waiter)
    assert answer(holder) == []
    assert answer(waiter)[0] == "made"
    assert workers.produced() == [holder.pid, waiter.pid]
    assert workers.ground.files(claims.FOLDER) == {}


@between_processes
def test_of_three_who_wait_for_an_abandoned_claim_one_takes_it(workers: Workers) -> None:
    """The holder is of another machine, so only that its claim stays the same tells its end."""
    options: dict[str, Any] = {"beat_s": 0.2, "stale_s": 1.0}
    holder = workers.start(seconds=60.0, elsewhere="another machine", **options)
    waiters = [workers.start(seconds=1.0, **options) for _ in range(3)]
    go(holder)
    assert said(holder) == "producing"
    go(*waiters)
    time.sleep(2.0)  # twice what would make it stale, but it is renewed
    assert workers.produced() == [holder.pid]
    holder.send_signal(signal.SIGSTOP)
    answers = [answer(waiter) for waiter in waiters]
    assert sorted(word for word, _ in answers) == ["cached", "cached", "made"]
    assert len(workers.produced()) == 2
    assert workers.ground.files(claims.FOLDER) == {}
    # The one that was stopped goes on: it has been succeeded, and that harms nothing.
    holder.send_signal(signal.SIGCONT)
    time.sleep(1.0)
    assert workers.ground.files(claims.FOLDER) == {}


@between_processes
def test_who_waits_says_once_for_whom(workers: Workers) -> None:
    holder, waiter = workers.start(seconds=2.0, run_id="run-7"), workers.start()
    go(holder)
    assert said(holder) == "producing"
    go(waiter)
    assert answer(waiter)[0] == "cached"
    assert waiter.stderr is not None
    waiter.wait()
    told = waiter.stderr.read().splitlines()
    assert len(told) == 1
    for word in ("base/checkpoint", f"process {holder.pid}", os.uname().nodename, "run run-7"):
        assert word in told[0]


def test_threads_wait_for_each_other(ground: Any, writes: Callable[..., Any]) -> None:
    produce = writes(weights="weights")

    def slowly(folder: Path) -> None:
        time.sleep(0.2)
        produce(folder)

    stores = [ground.open(), ground.open()]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: stores[n % 2].materialize(recipe(), slowly), range(8)))
    assert produce.calls == 1
    assert sum(not one.cached for one in made) == 1
    assert len({one.ref for one in made}) == 1


def test_a_failing_thread_gives_way_to_the_next(store: ArtifactStore) -> None:
    first = threading.Event()

    def fails(folder: Path) -> None:
        first.set()
        time.sleep(0.2)
        raise RuntimeError("it failed")

    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(store.materialize, recipe(), fails)
        first.wait()
        made = store.materialize(recipe(), lambda folder: (folder / "w").write_text("w"))  # type: ignore[arg-type]
        assert not made.cached
        with pytest.raises(RuntimeError, match="it failed"):
            failing.result()


class Counted:
    """A place that notes what is written and removed."""

    def __init__(self, place: Any) -> None:
        self._place = place
        self.calls: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._place, name)
        if name not in {"create", "write", "remove", "read_many", "read", "size"}:
            return found

        def counted(what: Any, *rest: Any) -> Any:
            self.calls += [(name, n) for n in (what if isinstance(what, list) else [what])]
            return found(what, *rest)

        return counted


def test_a_claim_costs_one_creation_and_one_removal(
    store: ArtifactStore, writes: Callable[..., Any]
) -> None:
    place = Counted(store._place)
    store._claims = claims.Claims(place)  # type: ignore[arg-type]
    store.materialize(recipe(), writes(weights="weights"))
    name = f"claims/{recipe().key}.json"
    assert place.calls == [("create", name), ("remove", name)]
    store.materialize(recipe(), writes(weights="weights"))
    assert len(place.calls) == 2  # what is there needs no claim


@pytest.mark.parametrize("ground", ["local", "memory"], indirect=True)
def test_what_is_there_can_be_had_from_a_store_where_nothing_can_be_claimed(
    store: ArtifactStore, writes: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = store.materialize(recipe(), writes(weights="weights"))

    def refuse(*_: Any) -> bool:
        raise PermissionError

    monkeypatch.setattr(type(store._place), "create", refuse)
    assert store.materialize(recipe(), writes(weights="other")).ref == made.ref


def test_a_claim_that_cannot_be_given_up_keeps_nobody_from_the_result(
    store: ArtifactStore,
    writes: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError("not here")

    monkeypatch.setattr(type(store._place), "remove", refuse)
    with caplog.at_level(logging.WARNING):
        made = store.materialize(recipe(), writes(weights="weights"))
    assert "not here" in caplog.text
    assert store.materialize(recipe(), writes(weights="other")).ref == made.ref


# A name that a claim must not lead to.
WITH_PATH = json.dumps(
    {"token": "../heads/a", "host": "", "machine": "", "pid": 1, "started": "", "run_id": ""}
    | {"beat": 0, "beat_at": ""}
).encode()


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"\xff", b'{"token": "a"}', WITH_PATH])
def test_a_damaged_claim_holds_nobody_up_for_long(
    store: ArtifactStore,
    ground: Any,
    writes: Callable[..., Any],
    text: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claims, "STALE_S", 0.2)
    store._place.write(f"claims/{recipe().key}.json", text)
    assert not store.materialize(recipe(), writes(weights="weights")).cached
    assert ground.files(claims.FOLDER) == {}


def test_a_process_with_the_number_of_a_dead_one_is_another(
    store: ArtifactStore, ground: Any, writes: Callable[..., Any]
) -> None:
    """The claim names this process, but one that began at another time."""
    ours = claims._Attempt(store._place, recipe().key, "")._claim
    dead = claims.replace(ours, token="d" * 32, started="1")
    store._place.write(f"claims/{recipe().key}.json", dead.data())
    start = time.monotonic()
    assert not store.materialize(recipe(), writes(weights="weights")).cached
    assert time.monotonic() - start < 5
    assert ground.files(claims.FOLDER) == {}


@pytest.mark.parametrize("stirs", [True, False])
def test_who_is_late_for_an_abandoned_claim_steps_back(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, stirs: bool
) -> None:
    """Between the judgement and the take-over the holder stirs, or is through."""
    monkeypatch.setattr(claims, "STALE_S", -1.0)
    place, create = store._place, store._place.create
    name = f"claims/{recipe().key}.json"
    late = claims._Attempt(place, recipe().key, "")
    holder = claims.replace(late._claim, token="a" * 32, machine="another")
    place.write(name, holder.data())

    def meanwhile(target: str, data: bytes) -> bool:
        if target == name:
            return False
        if stirs:
            place.write(name, claims.replace(holder, beat=1).data())
        else:
            place.remove(name)
        return create(target, data)

    monkeypatch.setattr(place, "create", meanwhile)
    assert not late.take()
    assert place.names(claims.FOLDER) == ([name] if stirs else [])


@pytest.mark.parametrize("ground", ["local"], indirect=True)
def test_claims_are_no_part_of_what_is_kept(
    store: ArtifactStore, ground: Any, writes: Callable[..., Any]
) -> None:
    store.materialize(recipe(), writes(weights="weights"))
    attempts = [claims._Attempt(store._place, recipe(n).key, "") for n in (1, 2)]
    assert all(attempt.take() for attempt in attempts)
    assert store.verify() == []
    assert len(list(store.refs())) == len(store.heads()) == 1
    old, young = (f"claims/{recipe(n).key}.json" for n in (1, 2))
    yesterday = time.time() - 86_400
    os.utime(Path(ground.root) / old, (yesterday, yesterday))
    plan = plan_collection(store)
    assert plan.claims == (old,)
    collect(store, plan)
    assert list(ground.files(claims.FOLDER)) == [young]
