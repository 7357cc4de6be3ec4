"""How the processes of a run learn, within seconds, that one of them has failed, and why.

Collectives cannot tell: where a process is missing they wait (NCCL for minutes), and no Python runs meanwhile.
So every rank holds a connection to a relay in rank 0's process. A rank that fails says why before it leaves;
the connection of one that was killed ends without a word. The first failure is passed on to all; whoever has
not left by itself a few seconds later is ended from a thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from lvgan.errors import MachineError

ANSWER = 5.0  # seconds to wait for news of a failure that shows in another way
GRACE = 2.0  # seconds that a rank has to leave by itself after another's failure
WELCOME = {"welcome": True}  # the relay's first words
LONG_GRACE = 30.0  # the same, while it writes a file; and for the rank that failed itself, which reports


@dataclass(frozen=True)
class Failure:
    """Why training ends: which rank failed, its words, and the exit code of all."""

    rank: int
    message: str
    code: int = 1
    silent: bool = False  # the rank itself could say nothing


class Store(Protocol):
    """The part of ``torch.distributed.Store`` that is used here."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...


class Watch:
    """One rank's connection to the others' fates.

    Attributes:
        failure: the first failure among all ranks, once there is one.
    """

    def __init__(self, rank: int, store: Store, master: str) -> None:
        """`store` is shared by all ranks; `master` is a host that all of them can reach."""
        self.rank = rank
        self.failure: Failure | None = None
        self._known, self._closing, self._saving = threading.Event(), False, False
        self._relay = _Relay(store, master) if rank == 0 else None
        place = json.loads(store.get("lvgan/relay"))
        try:
            self._socket = socket.create_connection((place["host"], place["port"]), timeout=60)
            _send(self._socket, {"rank": rank, "token": place["token"]})
            lines = _lines(self._socket)
            # From here on the relay knows this rank: no failure passes it by, however soon rank 0 leaves.
            if next(lines, None) != WELCOME:
                self._socket.close()
                raise ConnectionError("it does not answer")
        except OSError as error:
            raise MachineError(
                f"rank {rank} cannot reach rank 0 at {place['host']}, port {place['port']} ({error}); "
                "let the machines connect to each other on all ports"
            ) from error
        self._socket.settimeout(None)
        _keep_alive(self._socket)
        threading.Thread(target=self._listen, args=(lines,), name="watch", daemon=True).start()

    def _listen(self, lines: Iterator[dict[str, Any]]) -> None:
        for line in lines:
            self._learn(Failure(**line))
            return
        if not self._closing:
            self._learn(Failure(0, "rank 0 has died without a word (killed, or out of memory)", silent=True))

    def _learn(self, failure: Failure) -> None:
        self.failure = failure
        self._known.set()
        started = time.monotonic()
        while time.monotonic() - started < (LONG_GRACE if self._saving or failure.rank == self.rank else GRACE):
            time.sleep(0.1)
        say_silent(self.rank, failure)
        leave(failure.code)

    def report(self, failure: Failure) -> Failure:
        """Tell the others that this rank has failed; the failure that came first, which may be another's."""
        with contextlib.suppress(OSError):
            _send(self._socket, {"failure": asdict(failure)})
        self._known.wait(ANSWER)
        return self.failure or failure

    def wait(self, seconds: float) -> Failure | None:
        """The failure, if there is one or one becomes known within `seconds`."""
        self._known.wait(seconds)
        return self.failure

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Within, more time to leave: a file is being written."""
        self._saving = True
        try:
            yield
        finally:
            self._saving = False

    def close(self) -> None:
        """Leave in good order; no collective may follow, on any rank."""
        self._closing = True
        with contextlib.suppress(OSError):
            _send(self._socket, {"bye": True})
        if self._relay is not None:
            self._relay.close()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def say_silent(rank: int, failure: Failure) -> None:
    """Print what a rank that died could not print itself, once: a launcher of ours does so, else the first rank."""
    first = 1 if failure.rank == 0 else 0
    if failure.silent and rank == first and "LVGAN_LAUNCHER" not in os.environ:
        with contextlib.suppress(OSError, ValueError):
            print(f"\nlvgan: error: {failure.message}; the others were stopped; run the same command again to go on "
                  "from the newest checkpoint", file=sys.stderr, flush=True)  # fmt: skip


def leave(code: int) -> None:
    """End this process at once."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


class _Relay:
    """Passes the first failure on to everybody; lives in rank 0's process."""

    def __init__(self, store: Store, master: str) -> None:
        local = master in ("127.0.0.1", "localhost")
        self._listener = socket.create_server(("127.0.0.1" if local else "", 0), backlog=1024)
        self._token = secrets.token_hex(16)  # what else connects to the port is not listened to
        self._lock = threading.Lock()
        self._connections: dict[int, socket.socket] = {}
        self._all_left = threading.Event()
        self._failure: dict[str, Any] | None = None
        host = master if local else _own_address(master)
        place = {"host": host, "port": self._listener.getsockname()[1], "token": self._token}
        store.set("lvgan/relay", json.dumps(place))
        threading.Thread(target=self._accept, name="relay", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            _keep_alive(connection)
            threading.Thread(target=self._serve, args=(connection,), name="relay", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            lines = _lines(connection)
            hello = next(lines, {})
            if not secrets.compare_digest(str(hello.get("token")), self._token):
                return
            rank = int(hello["rank"])
            with self._lock:
                self._connections[rank] = connection
                _send_quietly(connection, WELCOME)
                if self._failure is not None:
                    _send_quietly(connection, self._failure)
            for line in lines:
                if "bye" in line:
                    with self._lock:
                        del self._connections[rank]
                        if not self._connections:
                            self._all_left.set()
                    return
                self._pass_on(line["failure"])
            message = f"rank {rank} has died without a word (killed, or out of memory)"
            self._pass_on(asdict(Failure(rank, message, silent=True)))

    def _pass_on(self, failure: dict[str, Any]) -> None:
        with self._lock:
            if self._failure is None:
                self._failure = failure
                for rank in sorted(self._connections, reverse=True):  # rank 0 takes the relay with it: last
                    _send_quietly(self._connections[rank], failure)

    def close(self) -> None:
        """Wait until everybody has left."""
        self._all_left.wait(ANSWER)
        self._listener.close()


def _own_address(master: str) -> str:
    """The address of this machine on the network of `master`, which may be this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # no packet is sent
        probe.connect((master, 9))
        own = str(probe.getsockname()[0])
    return master if own.startswith("127.") else own


def _keep_alive(connection: socket.socket) -> None:
    """Notice within a minute that the other machine is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _send(connection: socket.socket, value: dict[str, Any]) -> None:
    connection.sendall(json.dumps(value).encode() + b"\n")


def _send_quietly(connection: socket.socket, value: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        _send(connection, value)


def _lines(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """The objects that arrive, until the connection ends or says nonsense."""
    with contextlib.suppress(OSError, ValueError), connection.makefile("rb") as file:
        for line in file:
            value = json.loads(line)
            if not isinstance(value, dict):
                return
            yield value
