"""flagd's sync protocol on its own port: what is told, when, and what happens when either side goes away."""

import json
import socket
import threading
from types import SimpleNamespace

import grpc
import pytest
from flagd.sync.v1 import sync_pb2 as pb
from flagd.sync.v1 import sync_pb2_grpc as pb_grpc

from services.chassis.database import PLATFORM
from services.rollout import serving
from services.rollout.flagd import MOST_CALLS, FlagdServer, Serving, serving_flagd
from services.rollout.serving import CHANGES
from services.rollout.settings import Settings
from services.rollout.tests.world import FLAG, enterprise

ON = {"if": [{"==": [{"var": "admissions.edition.state"}, "ACTIVE"]}, "on", "off"]}


class Sync:
    """A server, its database, and what it serves."""

    def __init__(self, database):
        self.database = database
        self.admitted = ["enterprises/a"]
        self.reads = 0
        self.server = FlagdServer("127.0.0.1:0", database, self._read)
        self.server.start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.server.port}")
        self.client = pb_grpc.FlagSyncServiceStub(self.channel)

    def _read(self, tx):
        assert tx.scope == PLATFORM
        self.reads += 1
        document = {
            "version": 3,
            "flags": {
                "flags": {
                    "edition": {"state": "ENABLED", "variants": {"on": True, "off": False}, "targeting": ON}
                }
            },
            "rollouts": {"edition": {"rollout": "edition"}},
            "buckets": {},
        }
        records = [
            SimpleNamespace(flag="edition", enterprise=name, state="ACTIVE", stage="beta")
            for name in self.admitted
        ]
        return Serving(document, records, [])

    def admit(self, name):
        self.admitted = [*self.admitted, name]
        self.tell()

    def tell(self):
        """As use cases do when what gateways serve from changes."""
        with self.database.transaction(PLATFORM) as tx:
            tx.append_change(CHANGES, "admissions", {})

    def attach(self, **options):
        return self.client.SyncFlags(pb.SyncFlagsRequest(provider_id="test"), timeout=20, **options)

    def close(self):
        self.server.stop()
        self.channel.close()


def names(reply):
    """Who is admitted, by a reply."""
    lists = json.loads(reply.flag_configuration)["$evaluators"]
    return lists["list-1"]["in"][1]


@pytest.fixture
def database(make_database, tmp_path):
    return make_database("rollout", tmp_path)


@pytest.fixture
def sync(database):
    sync = Sync(database)
    yield sync
    sync.close()


def test_flagd__tells_at_once_and_with_each_change(sync):
    """Who attaches has the document, and gets the next one when an admission is decided."""
    stream = sync.attach()

    assert names(next(stream)) == ["enterprises/a"]
    sync.admit("enterprises/b")
    assert names(next(stream)) == ["enterprises/a", "enterprises/b"]


def test_flagd__a_change_that_says_nothing_new_is_not_told(sync, eventually):
    """A stage's new name at the gateway, say, is no other document: the stream waits for one that is."""
    stream = sync.attach()
    next(stream)

    before = sync.reads
    sync.tell()
    eventually(lambda: sync.reads > before)
    sync.admit("enterprises/b")

    assert names(next(stream)) == ["enterprises/a", "enterprises/b"]


def test_flagd__fetches_once_and_has_no_metadata(sync):
    """The unary methods that providers use answer without a principal."""
    assert names(sync.client.FetchAllFlags(pb.FetchAllFlagsRequest(), timeout=10)) == ["enterprises/a"]
    reply = sync.client.GetMetadata(pb.GetMetadataRequest(), timeout=10)
    assert reply.HasField("metadata")
    assert not reply.metadata


def test_flagd__makes_a_document_once_for_all_and_only_when_asked(sync, eventually):
    """Changes cost nothing while nobody is attached; and many clients cost what one does."""
    with sync.database.transaction(PLATFORM) as tx:
        before = tx.last_change(CHANGES)
    for number in range(5):
        sync.admit(f"enterprises/n{number}")
    eventually(lambda: sync.server._follower.position > before)
    assert sync.reads == 0

    streams = [sync.attach() for _ in range(10)]
    for stream in streams:
        assert len(names(next(stream))) == 6

    assert sync.reads <= 2  # a change may have been noticed between the first client and the last


def test_flagd__the_stop_of_the_server_is_an_error_to_streams(sync):
    """A stream that merely ended would be waited on for ever by some providers."""
    stream = sync.attach()
    next(stream)
    stopping = threading.Thread(target=sync.server.stop)
    stopping.start()

    with pytest.raises(grpc.RpcError) as raised:
        next(stream)

    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    stopping.join()


def test_flagd__a_client_that_goes_gives_its_place_back(sync, eventually):
    """More streams than there are places are refused, until one of them ends."""
    streams = [sync.attach() for _ in range(MOST_CALLS)]
    for stream in streams:
        next(stream)
    with pytest.raises(grpc.RpcError) as raised:
        next(sync.attach())
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    streams.pop().cancel()

    def attached():
        try:
            return names(next(sync.attach()))
        except grpc.RpcError:
            return None

    assert eventually(attached) == ["enterprises/a"]


def test_flagd__without_the_database_clients_are_told_to_come_back(sync, make_database, tmp_path):
    """A document that cannot be read is UNAVAILABLE, never an empty one."""
    nowhere = make_database("rollout", tmp_path)
    nowhere._conninfo = nowhere._conninfo.replace("port=", "port=1")
    broken = Sync(nowhere)
    try:
        with pytest.raises(grpc.RpcError) as raised:
            broken.client.FetchAllFlags(pb.FetchAllFlagsRequest(), timeout=10)
    finally:
        broken.close()

    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_flagd__tells_what_the_service_decides(serve):
    """A rollout that starts, an enterprise that is verified, a kill: each is in the next document."""
    service = serve()
    server = FlagdServer("127.0.0.1:0", service.database, lambda tx: Serving(*serving.everything(tx)))
    server.start()
    channel = grpc.insecure_channel(f"127.0.0.1:{server.port}")
    try:
        documents = (
            json.loads(reply.flag_configuration)
            for reply in pb_grpc.FlagSyncServiceStub(channel).SyncFlags(pb.SyncFlagsRequest(), timeout=20)
        )
        assert next(documents)["flags"] == {}

        def until(see):
            return next(document for document in documents if see(document))

        service.create()
        service.do("Start")
        service.verify(1)
        told = until(lambda document: enterprise(1) in json.dumps(document))
        assert told["flags"][FLAG]["targeting"] == {"if": [{"$ref": "list-1"}, "on", "off"]}
        assert told["$evaluators"]["list-1"] == {"in": [{"var": ["targetingKey", ""]}, [enterprise(1)]]}
        service.do("Kill")
        killed = until(lambda document: document["flags"][FLAG]["state"] == "DISABLED")
        assert enterprise(1) not in json.dumps(killed)
    finally:
        server.stop()
        channel.close()


def test_flagd__is_off_without_a_port_and_refuses_one_that_is_taken(database):
    """Nothing listens unless the settings say so; a second server on a port is a mistake that shows."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        def settings(flagd_port):
            return Settings.model_construct(grpc_address="127.0.0.1:0", flagd_port=flagd_port)

        with serving_flagd(settings(0), database, lambda _: None):
            pass
        with (
            pytest.raises(OSError, match="is another process there"),
            serving_flagd(settings(port), database, lambda _: None),
        ):
            pass
