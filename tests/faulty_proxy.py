"""An HTTP proxy in front of a real server that does to chosen requests what networks do."""

import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass
class Fault:
    """What happens to requests with `method` whose path contains `path` (any, if empty).

    `kind` is one of: "status" (answer `status` without asking the server), "after" (let the server
    do it, then answer `status`), "delay" (by `seconds`), "reset" (break the connection instead of
    answering), "truncate" (break it after half of the body), "flip" (change a byte of the answer's
    body), "flip request" (change a byte of the request's body). It strikes `times` times.
    """

    kind: str
    method: str = ""
    path: str = ""
    times: int = 1
    status: int = 500
    seconds: float = 0.0
    struck: int = field(default=0, init=False)


class FaultyProxy:
    """Listens on a port of its own and forwards to 127.0.0.1:`port`. The signature of an S3
    request covers the Host header, so that one is passed on as it came."""

    def __init__(self, port: int) -> None:
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self._target = port
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def add(self, kind: str, method: str = "", path: str = "", **how: float) -> Fault:
        fault = Fault(kind, method, path, **how)  # type: ignore[arg-type]
        self.faults.append(fault)
        return fault

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def count(self, method: str, path: str = "") -> int:
        """How many requests of that kind have come."""
        return sum(m == method and path in p for m, p in self.requests)

    def strikes(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.requests.append((method, path))
            for fault in self.faults:
                chosen = fault.method in ("", method) and fault.path in path
                if chosen and fault.struck < fault.times:
                    fault.struck += 1
                    return fault
        return None

    def ask(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[HTTPResponse, bytes]:
        connection = HTTPConnection("127.0.0.1", self._target, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()


class _Handler(BaseHTTPRequestHandler):
    proxy: FaultyProxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _forward(self) -> None:
        body = self._body()
        fault = self.proxy.strikes(self.command, self.path)
        kind = fault.kind if fault else ""
        if fault and kind == "delay":
            time.sleep(fault.seconds)
        if kind == "reset":
            self._break()
            return
        if fault and kind == "status":
            self._answer(fault.status, {}, b"")
            return
        if kind == "flip request":
            body = _flipped(body)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        response, content = self.proxy.ask(self.command, self.path, headers, body)
        if fault and kind == "after":
            self._answer(fault.status, {}, b"")
            return
        kept = {n: v for n, v in response.getheaders() if n.lower() not in _HOP}
        length = response.getheader("Content-Length") if self.command == "HEAD" else None
        if kind == "flip":
            content = _flipped(content)
        self._answer(response.status, kept, content, length, broken=kind == "truncate")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            raise NotImplementedError("chunked request")
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(
        self,
        status: int,
        headers: dict[str, str],
        content: bytes,
        length: str | None = None,
        *,
        broken: bool = False,
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if broken else content)
        if broken:
            self._break()

    def _break(self) -> None:
        self.wfile.flush()
        # Lingering for no time makes the system send RST instead of a polite end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.shutdown(socket.SHUT_RD)
        self.close_connection = True


def _flipped(data: bytes) -> bytes:
    changed = bytearray(data)
    if changed:
        changed[len(changed) // 2] ^= 1
    return bytes(changed)
