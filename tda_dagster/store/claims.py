"""Claims: who is making what just now, so that nobody else makes it at the same time.

What belongs here: taking, keeping alive, waiting for, taking over and giving up the claim on a
recipe. Claims save work and guard nothing: what is stored is right without them.

A claim lies at `claims/<recipe key>.json`, made by create-if-absent, so that one of several has it.
Its holder rewrites it every `BEAT_S` seconds. Whoever sees it unchanged for `STALE_S` seconds of
their own monotonic clock takes it for abandoned; no two machines' clocks are compared. If the
holder's process ended on the same machine, it is abandoned at once.

An abandoned claim is not overwritten but succeeded: its successor lies at
`claims/<recipe key>.<token>.json`, where the token, a random one, is that of the claim that it
succeeds. So a take-over is a create-if-absent as well, which every place can do, and one of
several waiters succeeds. The winner then looks whether what it succeeded is still as it was: if
the holder has stirred or is through, it steps back. Who makes the artifact removes the whole chain,
its beginning first, so that nobody can join a chain that is being removed.

A holder that was stopped for longer than `STALE_S` and goes on finds itself succeeded. Then two
make the same artifact, which costs time and no more.
"""

import json
import logging
import platform
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar
from uuid import uuid4
from weakref import WeakValueDictionary

from tda_dagster.errors import TdaError
from tda_dagster.store.canonical import canonical_json, digest_of
from tda_dagster.store.places import Place
from tda_dagster.store.processes import Process, has_ended, this_machine, this_process
from tda_dagster.store.refs import Recipe

FOLDER = "claims"
BEAT_S = 15.0
STALE_S = 60.0

_SILENT_S = 1.0
"""Short waits are not worth a word."""
_FIRST_LOOK_S = 0.05
_LONGEST_LOOK_S = 2.0

_TOKEN = re.compile("[0-9a-f]{32}")

_log = logging.getLogger(__name__)

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Claim:
    """Who makes something: process `pid`, begun at `started` (in ticks since its machine did), on
    `machine`, whose name is `host`. `token` is the claim's own; `beat` and `beat_at` (ISO 8601,
    UTC) change while the holder lives."""

    token: str
    host: str
    machine: str
    pid: int
    started: str
    run_id: str
    beat: int
    beat_at: str

    def __str__(self) -> str:
        run = f" (run {self.run_id})" if self.run_id else ""
        return f"process {self.pid} on {self.host}{run}"

    def data(self) -> bytes:
        """The claim as it is written."""
        return canonical_json(asdict(self))


class Claims:
    """The claims of a store."""

    def __init__(self, place: Place) -> None:
        self._place = place

    @contextmanager
    def turn(
        self, recipe: Recipe, run_id: str, answer: Callable[[], Answer | None]
    ) -> Iterator[Answer | None]:
        """Wait until `recipe` is this thread's to make, or has been made by somebody else.

        `answer` looks for what is to be made. Yields what it found; or None, and then nobody else
        makes it for as long as the block lasts.
        """
        with _alone_in_process(self._place.where(FOLDER), recipe.key) as waited:
            # Those who waited for a thread need no claim to see what it has made.
            if waited and (found := answer()) is not None:
                yield found
                return
            attempt = _Attempt(self._place, recipe.key, run_id)
            if (found := _wait(attempt, recipe, answer)) is not None:
                yield found
                return
            with attempt.kept():
                # It may have been made between the caller's look and the claim.
                yield answer()


def _wait(
    attempt: "_Attempt", recipe: Recipe, answer: Callable[[], Answer | None]
) -> Answer | None:
    """Wait until the attempt has the claim (None), or for the answer."""
    start = time.monotonic()
    told = False
    wait_s = _FIRST_LOOK_S
    while not attempt.take():
        if not told and time.monotonic() - start > _SILENT_S:
            told = True
            where = recipe.asset + (f" [{recipe.partition}]" if recipe.partition else "")
            _log.warning("%s is being made by %s; waiting for it", where, attempt.holder)
        time.sleep(wait_s * random.uniform(0.5, 1.0))
        wait_s = min(1.5 * wait_s, _LONGEST_LOOK_S)
        if (found := answer()) is not None:
            return found
    return None


class _Attempt:
    """One thread's way to the claim on a recipe, and then the claim."""

    def __init__(self, place: Place, key: str, run_id: str) -> None:
        self._place = place
        self._key = key
        process = this_process()
        self._claim = Claim(
            token=uuid4().hex,
            host=platform.node(),
            machine=this_machine(),
            pid=process.pid,
            started=process.started,
            run_id=run_id,
            beat=0,
            beat_at=_now(),
        )
        self._chain: list[str] = []
        self._seen: dict[str, tuple[bytes, float]] = {}
        self.holder: Claim | None = None
        """Who had the claim at the last look."""

    def take(self) -> bool:
        """Try to get the claim; says whether this attempt has it."""
        name, passed = self._name(), list[tuple[str, bytes]]()
        while True:
            # At first nothing is looked at: mostly nobody is there.
            data = self._read(name) if self.holder else None
            if data is None:
                if self._place.create(name, self._claim.data()):
                    return self._holds(name, passed)
                data = self._read(name)
            if data is None:  # somebody was faster, and is through already
                return False
            self.holder = _parse(data)
            if self.holder.token == self._claim.token:  # the answer to its creation was lost
                return self._holds(name, passed)
            if not self._abandoned(self.holder, data):
                return False
            passed.append((name, data))
            name = self._name(self.holder.token)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the claim alive for as long as the block lasts, then give it up."""
        done = threading.Event()
        beating = threading.Thread(target=self._beat, args=(done,), name="claim", daemon=True)
        beating.start()
        try:
            yield
        finally:
            done.set()
            beating.join()
            self._give_up()

    def _holds(self, name: str, passed: list[tuple[str, bytes]]) -> bool:
        """Whether the claim just made at `name` counts: what it succeeds must be unchanged."""
        if passed:
            before, data = passed[-1]
            if self._read(before) != data:
                self._place.remove(name)
                return False
        self._chain = [*(before for before, _ in passed), name]
        return True

    def _abandoned(self, claim: Claim, data: bytes) -> bool:
        process = Process(claim.machine, claim.pid, claim.started)
        if has_ended(process, self._claim.machine):
            return True
        now = time.monotonic()
        known, since = self._seen.get(claim.token, (b"", now))
        if known != data:
            since = now
        self._seen[claim.token] = (data, since)
        return now - since > STALE_S

    def _beat(self, done: threading.Event) -> None:
        name = self._chain[-1]
        claim = self._claim
        while not done.wait(BEAT_S):
            # What cannot be kept alive may be taken over; the work goes on all the same.
            with suppress(TdaError, OSError):
                data = self._read(name)
                if data is None or _parse(data).token != claim.token:
                    return
                claim = replace(claim, beat=claim.beat + 1, beat_at=_now())
                self._place.write(name, claim.data())

    def _give_up(self) -> None:
        try:
            for name in self._chain:
                self._place.remove(name)
        except (TdaError, OSError) as error:
            _log.warning("a claim that is over stays behind: %s", error)

    def _read(self, name: str) -> bytes | None:
        return self._place.read_many([name]).get(name)

    def _name(self, succeeded: str = "") -> str:
        return (
            f"{FOLDER}/{self._key}.{succeeded}.json" if succeeded else f"{FOLDER}/{self._key}.json"
        )


def _parse(data: bytes) -> Claim:
    try:
        claim = Claim(**json.loads(data))
        # Both are put to use: as a part of a name, and to ask the system.
        if not (_TOKEN.fullmatch(claim.token) and isinstance(claim.pid, int)):
            raise ValueError
    except (ValueError, TypeError):  # of another version, or damaged: somebody has it all the same
        return Claim(digest_of(data)[:32], "an unknown machine", "", 0, "", "", 0, "")
    return claim


# A lock goes when nobody holds it any more.
_locks: WeakValueDictionary[tuple[str, str], threading.Lock] = WeakValueDictionary()
_looking = threading.Lock()


@contextmanager
def _alone_in_process(store: str, key: str) -> Iterator[bool]:
    """Inside the block no other thread of this process is there for the same recipe; yields
    whether one was."""
    with _looking:
        lock = _locks.setdefault((store, key), threading.Lock())
    waited = not lock.acquire(blocking=False)
    if waited:
        lock.acquire()
    try:
        yield waited
    finally:
        lock.release()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
