"""The lease stream, driven from a thread of its own.

A blocked event loop must not cost a worker its leases, so everything that keeps them alive lives
here: a synchronous channel, the renewals, and the list of what is held.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator

import grpc
from agentmesh.conversation_store.v1 import turn_service_pb2 as turns_pb2
from agentmesh.conversation_store.v1.turn_service_pb2_grpc import TurnServiceStub
from meshkit.identity import INTERNAL_HEADER, SYSTEM, InternalIdentity
from meshkit.settings import ServiceSettings
from meshkit.transport import channel_credentials, channel_options

log = logging.getLogger(__name__)

FIRST_BACK_OFF = 0.05
LONGEST_BACK_OFF = 1.0
DEFAULT_RENEWAL = 1.0
FROZEN_LOOP_SECONDS = 120.0
"""A loop that is blocked for longer is given up: its leases go to others."""

OnGrant = Callable[[turns_pb2.TurnGrant], None]
OnRevoked = Callable[[str, int, str], None]


class LeaseThread:
    """Holds one LeaseTurns stream, again and again.

    `on_grant(grant)` and `on_revoked(run_id, current_fence, reason)` are called in this thread.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        identity: InternalIdentity,
        *,
        worker_id: str,
        capacity: int,
        on_grant: OnGrant,
        on_revoked: OnRevoked,
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._worker_id = worker_id
        self._capacity = capacity
        self._held_up = False
        self._on_grant = on_grant
        self._on_revoked = on_revoked
        self._held: dict[str, int] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._outgoing: queue.SimpleQueue[turns_pb2.LeaseTurnsRequest | None] = queue.SimpleQueue()
        self._renew_every = DEFAULT_RENEWAL
        self._loop_seen_at = time.monotonic()
        self._call: grpc.Call | None = None
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)

    def start(self) -> None:
        """Connects, and goes on connecting."""
        self._thread.start()

    def close(self, within: float = 2.0) -> None:
        """Ends the stream; what is still held ends with it."""
        self._stopping.set()
        self._outgoing.put(None)
        if self._call is not None:
            self._call.cancel()
        self._thread.join(within)

    def loop_is_alive(self) -> None:
        """The event loop calls this now and then."""
        self._loop_seen_at = time.monotonic()

    def set_capacity(self, max_turns: int) -> None:
        """How many turns the worker takes at once; 0 drains."""
        self._capacity = max_turns
        self._tell_capacity()

    def set_held_up(self, held_up: bool) -> None:
        """While the event loop is held up no turns are taken. Any thread may say so."""
        self._held_up = held_up
        self._tell_capacity()

    @property
    def _open_places(self) -> int:
        return 0 if self._held_up else self._capacity

    def _tell_capacity(self) -> None:
        capacity = turns_pb2.LeaseCapacity(max_turns=self._open_places)
        self._outgoing.put(turns_pb2.LeaseTurnsRequest(capacity=capacity))

    def hold(self, run_id: str, fence: int) -> None:
        """Renews this lease from now on."""
        with self._lock:
            self._held[run_id] = max(fence, self._held.get(run_id, 0))

    def let_go(self, run_id: str, fence: int) -> None:
        """Renews this lease no longer, unless a newer one on the run is held."""
        with self._lock:
            if self._held.get(run_id, 0) <= fence:
                self._held.pop(run_id, None)

    def _run(self) -> None:
        wait = FIRST_BACK_OFF
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._stream()
            except grpc.RpcError as error:
                if not self._stopping.is_set():
                    code = error.code().name if isinstance(error, grpc.Call) else str(error)
                    log.warning("the lease stream ended: %s", code)
            except Exception:
                log.exception("the lease stream failed")
            if time.monotonic() - began > LONGEST_BACK_OFF:
                wait = FIRST_BACK_OFF
            self._stopping.wait(wait * random.uniform(0.5, 1.5))  # noqa: S311  jitter
            wait = min(LONGEST_BACK_OFF, 2 * wait)

    def _stream(self) -> None:
        self._outgoing = queue.SimpleQueue()
        with _open(self._settings) as channel:
            metadata = ((INTERNAL_HEADER, self._identity.mint(SYSTEM)),)
            call = TurnServiceStub(channel).LeaseTurns(self._requests(), metadata=metadata)
            self._call = call
            if self._stopping.is_set():
                call.cancel()
            try:
                for response in call:
                    self._take(response)
            finally:
                self._outgoing.put(None)

    def _requests(self) -> Iterator[turns_pb2.LeaseTurnsRequest]:
        """Runs in a thread of gRPC's, which is why it renews even while responses are handled."""
        outgoing = self._outgoing
        hello = turns_pb2.LeaseHello(
            worker_id=self._worker_id, max_turns=self._open_places, held=self._held_now()
        )
        yield turns_pb2.LeaseTurnsRequest(hello=hello)
        while not self._stopping.is_set():
            try:
                request = outgoing.get(timeout=self._renew_every)
            except queue.Empty:
                frozen = time.monotonic() - self._loop_seen_at
                if frozen > FROZEN_LOOP_SECONDS:
                    log.critical("the event loop is blocked for %.0f s; no renewals", frozen)
                    continue
                renewal = turns_pb2.LeaseRenewal(held=self._held_now())
                yield turns_pb2.LeaseTurnsRequest(renewal=renewal)
                continue
            if request is None:
                return
            yield request

    def _take(self, response: turns_pb2.LeaseTurnsResponse) -> None:
        match response.WhichOneof("kind"):
            case "accepted":
                every = response.accepted.renew_every.ToNanoseconds() / 1e9
                self._renew_every = every if every > 0 else DEFAULT_RENEWAL
                log.info("the store takes this worker as %s", self._worker_id)
            case "grant":
                grant = response.grant
                self.hold(grant.run.run_id, grant.fence)
                self._on_grant(grant)
            case "revoked":
                revoked = response.revoked
                self.let_go(revoked.run_id, revoked.current_fence - 1)
                self._on_revoked(revoked.run_id, revoked.current_fence, revoked.reason)

    def _held_now(self) -> list[turns_pb2.RunFence]:
        with self._lock:
            return [turns_pb2.RunFence(run_id=r, fence=f) for r, f in self._held.items()]


def _open(settings: ServiceSettings) -> grpc.Channel:
    address = settings.store_address
    target = address if ":///" in address or address.startswith("unix:") else f"dns:///{address}"
    options = channel_options(settings)
    credentials = channel_credentials(settings)
    if credentials is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, credentials, options)
