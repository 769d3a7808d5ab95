"""
flagd's sync protocol: any in-process flagd provider that attaches here decides as a gateway does.

Providers send no principal, and so this is a server of its own, for the private network, that can only be read from.
See docs/adr/0009-flagd-sync-on-a-port-of-its-own.md.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

import grpc
from flagd.sync.v1 import sync_pb2 as pb
from flagd.sync.v1 import sync_pb2_grpc as pb_grpc

from services.chassis.database import PLATFORM, Change, Database, Follower, Transaction
from services.chassis.errors import ServiceError
from services.chassis.logs import get_logger
from services.rollout import metrics
from services.rollout.flagd_document import AdmissionRecord, EnterpriseRecord, flagd_document
from services.rollout.serving import CHANGES
from services.rollout.settings import Settings

MOST_CALLS = 64
"""Streams and other calls at the same time; each stream has a thread. More are refused, and come back by themselves."""

_LOOK_SECONDS = 0.5
"""How often a waiting stream looks whether its client is still there."""
_STOP_SECONDS = 2.0

_log = get_logger("services.rollout.flagd")


class Serving(NamedTuple):
    """What gateways serve from: the snapshot's document, all admission records, all enterprises."""

    document: Mapping[str, Any]
    records: Iterable[AdmissionRecord]
    enterprises: Iterable[EnterpriseRecord]


Read = Callable[[Transaction], Serving]


@contextmanager
def serving_flagd(settings: Settings, database: Database, read: Read) -> Iterator[None]:
    """Serve flagd's providers for the length of the block, where the settings give it a port; see FlagdServer."""
    if not settings.flagd_port:
        yield
        return
    host = settings.grpc_address.rpartition(":")[0]
    server = FlagdServer(f"{host}:{settings.flagd_port}", database, read)
    server.start()
    try:
        yield
    finally:
        server.stop()


class FlagdServer:
    """
    Serves `flagd.sync.v1`, without encryption and to everybody who can reach it.

    Args:
        address: where to listen, as host:port; port 0 takes a free one.
        database: the service's.
        read: reads what gateways serve from; called again when the log CHANGES has grown and somebody is attached.
    """

    def __init__(self, address: str, database: Database, read: Read) -> None:
        self._address = address
        self._documents = _Documents(database, read)
        self._follower = Follower(database, CHANGES, self._documents.changed, load=self._documents.load)
        self._threads = ThreadPoolExecutor(MOST_CALLS, thread_name_prefix="flagd")
        self._server = grpc.server(
            self._threads,
            maximum_concurrent_rpcs=MOST_CALLS,
            options=[
                ("grpc.so_reuseport", 0),
                # Finds clients that vanished without a word, and lets clients find out whether we have.
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.keepalive_permit_without_calls", 1),
            ],
        )
        pb_grpc.add_FlagSyncServiceServicer_to_server(_FlagSync(self._documents), self._server)
        self.port = 0
        """The port that the server listens on, once it has started."""

    def start(self) -> None:
        """Listen and serve, from threads. Raises OSError when the address is taken."""
        try:
            self.port = self._server.add_insecure_port(self._address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._address}: is another process there?") from error
        self._follower.start()
        self._server.start()
        _log.info("flagd.started", port=self.port)

    def stop(self) -> None:
        """End the streams of a started server, with UNAVAILABLE so that clients come back, and stop."""
        self._documents.close()
        self._server.stop(_STOP_SECONDS).wait()
        self._follower.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)


class _Documents:
    """The newest document: made when somebody asks for it, once for all who do."""

    def __init__(self, database: Database, read: Read) -> None:
        self._database = database
        self._read = read
        self._changed = threading.Condition()
        self._generation = 1
        self._making = threading.Lock()
        self._made = (0, "")
        self.closed = False

    def load(self) -> int:
        """For the follower: where the log ends now."""
        with self._database.transaction(PLATFORM) as tx:
            sequence = tx.last_change(CHANGES)
        self._grow()
        return sequence

    def changed(self, _changes: Sequence[Change]) -> None:
        """For the follower: what was made is old."""
        self._grow()

    def close(self) -> None:
        """Wake all who wait, for the last time."""
        self.closed = True
        self._grow()

    def newest(self) -> tuple[int, str]:
        """The generation and the document. Raises ServiceError while the database is away."""
        with self._making:
            generation = self._generation
            if self._made[0] != generation:
                with self._database.transaction(PLATFORM) as tx:
                    serving = self._read(tx)
                self._made = generation, flagd_document(*serving)
            return self._made

    def wait(self, generation: int, timeout: float) -> None:
        """Wait until there is something newer than `generation`, at most `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._generation > generation, timeout)

    def _grow(self) -> None:
        with self._changed:
            self._generation += 1
            self._changed.notify_all()


class _FlagSync(pb_grpc.FlagSyncServiceServicer):
    """Serves `flagd.sync.v1.FlagSyncService`."""

    def __init__(self, documents: _Documents) -> None:
        self._documents = documents

    def SyncFlags(
        self, request: pb.SyncFlagsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.SyncFlagsResponse]:
        _log.info("flagd.attached", provider=request.provider_id, peer=context.peer())
        metrics.flagd_streams.add(1)
        told = ""
        try:
            while context.is_active() and not self._documents.closed:
                generation, document = self._newest(context)
                if document != told:
                    yield pb.SyncFlagsResponse(flag_configuration=document)
                    told = document
                self._documents.wait(generation, _LOOK_SECONDS)
        finally:
            metrics.flagd_streams.add(-1)
        # A stream that just ends is not noticed by every provider.
        context.abort(grpc.StatusCode.UNAVAILABLE, "the server stops: attach again")

    def FetchAllFlags(
        self, request: pb.FetchAllFlagsRequest, context: grpc.ServicerContext
    ) -> pb.FetchAllFlagsResponse:
        return pb.FetchAllFlagsResponse(flag_configuration=self._newest(context)[1])

    def GetMetadata(
        self, request: pb.GetMetadataRequest, context: grpc.ServicerContext
    ) -> pb.GetMetadataResponse:
        reply = pb.GetMetadataResponse()
        reply.metadata.SetInParent()  # providers read it without looking whether it is there
        return reply

    def _newest(self, context: grpc.ServicerContext) -> tuple[int, str]:
        try:
            return self._documents.newest()
        except ServiceError as error:
            _refuse(context, error)


def _refuse(context: grpc.ServicerContext, error: ServiceError) -> NoReturn:
    context.abort(grpc.StatusCode.UNAVAILABLE, f"what is served cannot be read ({error.reason}): come back")
