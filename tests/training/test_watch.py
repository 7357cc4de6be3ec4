"""The relay that tells all ranks of the first failure."""

from __future__ import annotations

import json
import socket
import threading

import pytest

from lvgan.errors import MachineError
from lvgan.training import watch
from lvgan.training.watch import Watch


class MemoryStore(dict):
    """As much of a torch.distributed.Store as is needed."""

    def set(self, key: str, value: str) -> None:
        self[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self[key]


def test_the_relay_knows_a_rank_as_soon_as_it_has_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    # Otherwise a failure right afterwards was told to rank 0 alone, which left and took the relay with it.
    secret = watch.secrets.compare_digest
    slow = threading.Event()

    def slowly(one: str, two: str) -> bool:
        slow.wait(0.2)  # the relay's thread is late, as on a busy machine
        return secret(one, two)

    monkeypatch.setattr(watch.secrets, "compare_digest", slowly)
    store = MemoryStore()
    ranks = []
    for rank in range(3):
        ranks.append(Watch(rank, store, "127.0.0.1"))
        assert sorted(ranks[0]._relay._connections) == list(range(rank + 1))
    for member in reversed(ranks):
        member.close()


def test_a_relay_that_does_not_answer() -> None:
    def accept_and_leave() -> None:
        server.accept()[0].close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        store = MemoryStore()
        store.set("lvgan/relay", json.dumps({"host": "127.0.0.1", "port": server.getsockname()[1], "token": "x"}))
        threading.Thread(target=accept_and_leave).start()
        with pytest.raises(MachineError, match=r"rank 1 cannot reach rank 0 at 127.0.0.1, port \d+"):
            Watch(1, store, "127.0.0.1")
