"""The lease thread against a real gRPC server in another thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from agentmesh.conversation_store.v1 import turn_service_pb2 as turns_pb2
from agentmesh.conversation_store.v1 import turn_service_pb2_grpc as turns_grpc
from agentmesh_agent_runtime.worker import leases as lease_module
from agentmesh_agent_runtime.worker.leases import LeaseThread
from meshkit.identity import InternalIdentity
from meshkit.testkit import test_settings


class Store(turns_grpc.TurnServiceServicer):
    """Grants one turn per stream and notes what it is told."""

    def __init__(self) -> None:
        self.heard: list[turns_pb2.LeaseTurnsRequest] = []
        self.break_stream = threading.Event()
        self.revoke = threading.Event()
        self.streams = 0

    def LeaseTurns(  # noqa: N802  the generated name
        self, request_iterator: Iterator[turns_pb2.LeaseTurnsRequest], context: object
    ) -> Iterator[turns_pb2.LeaseTurnsResponse]:
        self.streams += 1
        stream = self.streams
        threading.Thread(target=lambda: self.heard.extend(_each(request_iterator))).start()
        accepted = turns_pb2.LeaseTurnsResponse()
        accepted.accepted.renew_every.FromMilliseconds(50)
        yield accepted
        grant = turns_pb2.LeaseTurnsResponse()
        grant.grant.run.run_id = f"run_{stream}"
        grant.grant.fence = 7
        yield grant
        while not self.break_stream.wait(0.02):
            if self.revoke.is_set():
                self.revoke.clear()
                gone = turns_pb2.LeaseRevoked(run_id="run_1", current_fence=8, reason="cancelled")
                yield turns_pb2.LeaseTurnsResponse(revoked=gone)
        self.break_stream.clear()

    def renewals(self) -> int:
        return sum(r.HasField("renewal") for r in self.heard)


def _each(
    requests: Iterator[turns_pb2.LeaseTurnsRequest],
) -> Iterator[turns_pb2.LeaseTurnsRequest]:
    try:
        yield from requests
    except Exception:
        return


@pytest.fixture
def store() -> Iterator[tuple[Store, str]]:
    servicer = Store()  # type: ignore[abstract]  # only LeaseTurns is asked for here
    server = grpc.server(futures.ThreadPoolExecutor(4))
    turns_grpc.add_TurnServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    servicer.break_stream.set()
    server.stop(0)


def wait_for(condition: object) -> None:
    end = time.monotonic() + 20
    while not condition():  # type: ignore[operator]  # a callable
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def lease_thread(address: str, folder: Path, grants: list[str], gone: list[str]) -> LeaseThread:
    settings = test_settings(folder, store_address=address)
    return LeaseThread(
        settings,
        InternalIdentity("agent_runtime", settings),
        worker_id="wrk_1",
        capacity=3,
        on_grant=lambda grant: grants.append(grant.run.run_id),
        on_revoked=lambda run_id, fence, reason: gone.append(f"{run_id}:{fence}:{reason}"),
    )


async def test_leases_are_renewed_while_the_event_loop_is_blocked(
    store: tuple[Store, str], tmp_path: Path
) -> None:
    servicer, address = store
    grants: list[str] = []
    leases = lease_thread(address, tmp_path, grants, [])
    leases.start()
    wait_for(lambda: grants)
    before = servicer.renewals()
    # This test is the event loop's own task: until `wait_for` returns, the loop is blocked.
    wait_for(lambda: servicer.renewals() >= before + 3)
    held = [f.run_id for r in servicer.heard if r.HasField("renewal") for f in r.renewal.held]
    assert held
    assert set(held) == {"run_1"}
    leases.close()


def test_a_worker_that_stops_warns_of_nothing(
    store: tuple[Store, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    grants: list[str] = []
    leases = lease_thread(store[1], tmp_path, grants, [])
    leases.start()
    wait_for(lambda: grants)
    leases.close(within=20)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_leases_of_a_loop_that_is_blocked_for_good_go_to_others(
    store: tuple[Store, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servicer, address = store
    grants: list[str] = []
    leases = lease_thread(address, tmp_path, grants, [])
    leases.start()
    wait_for(lambda: grants)
    wait_for(lambda: servicer.renewals() > 0)
    monkeypatch.setattr(lease_module, "FROZEN_LOOP_SECONDS", 0.0)
    time.sleep(0.5)  # one may be on its way
    seen = servicer.renewals()
    time.sleep(0.5)
    assert servicer.renewals() == seen, "renewals go on, ten times as often"
    monkeypatch.setattr(lease_module, "FROZEN_LOOP_SECONDS", 3600.0)
    leases.loop_is_alive()
    wait_for(lambda: servicer.renewals() > seen)
    leases.close()


def test_a_loop_that_is_held_up_takes_no_turns(store: tuple[Store, str], tmp_path: Path) -> None:
    servicer, address = store
    grants: list[str] = []
    leases = lease_thread(address, tmp_path, grants, [])
    leases.start()
    wait_for(lambda: grants)

    def capacities() -> list[int]:
        return [r.capacity.max_turns for r in servicer.heard if r.HasField("capacity")]

    leases.set_held_up(True)
    wait_for(lambda: capacities() == [0])
    leases.set_capacity(5)  # as the end of a drain says, for which there is a place later
    servicer.break_stream.set()
    wait_for(lambda: len(grants) == 2)
    wait_for(lambda: [r.hello.max_turns for r in servicer.heard if r.HasField("hello")] == [3, 0])
    leases.set_held_up(False)
    wait_for(lambda: capacities()[-1] == 5)
    leases.close()


def test_a_broken_stream_comes_back_with_what_is_held(
    store: tuple[Store, str], tmp_path: Path
) -> None:
    servicer, address = store
    grants: list[str] = []
    leases = lease_thread(address, tmp_path, grants, [])
    leases.start()
    wait_for(lambda: grants == ["run_1"])
    servicer.break_stream.set()
    wait_for(lambda: len(grants) == 2)
    hellos = [r.hello for r in servicer.heard if r.HasField("hello")]
    assert [h.worker_id for h in hellos] == ["wrk_1", "wrk_1"]
    assert [[f.run_id for f in h.held] for h in hellos] == [[], ["run_1"]]
    leases.set_capacity(0)
    wait_for(lambda: any(r.HasField("capacity") for r in servicer.heard))
    assert [r.capacity.max_turns for r in servicer.heard if r.HasField("capacity")] == [0]
    leases.close()


def test_a_revoked_lease_is_renewed_no_longer(store: tuple[Store, str], tmp_path: Path) -> None:
    servicer, address = store
    grants: list[str] = []
    gone: list[str] = []
    leases = lease_thread(address, tmp_path, grants, gone)
    leases.start()
    wait_for(lambda: grants)
    servicer.revoke.set()
    wait_for(lambda: gone)
    assert gone == ["run_1:8:cancelled"]
    seen = servicer.renewals()
    wait_for(lambda: servicer.renewals() > seen + 2)
    assert not servicer.heard[-1].renewal.held
    leases.close()
