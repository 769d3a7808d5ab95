"""Services that the gateway's tests stand before: real gRPC servers of the chassis, with made-up insides."""

import threading
import time
from collections.abc import Iterator

from google.api import httpbody_pb2
from google.protobuf import any_pb2, wrappers_pb2
from numerator.accounts.v1 import accounts_pb2 as accounts
from numerator.accounts.v1 import accounts_pb2_grpc as accounts_grpc
from numerator.accounts.v1 import apps_pb2, apps_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from numerator.analytics.v1 import analytics_pb2 as analytics
from numerator.analytics.v1 import analytics_pb2_grpc as analytics_grpc
from numerator.options.v1 import options_pb2
from numerator.rollout.v1 import serving_pb2 as serving
from numerator.rollout.v1 import serving_pb2_grpc as serving_grpc

from gateway.tests.snapshots_made import Told
from gateway.tests.testapi import compiled
from services.chassis.errors import Kind, ServiceError, etag_mismatch, invalid, not_found
from services.chassis.rpc.call import current_call

api = compiled()
pb = api.pb


class Boxes(api.grpc.BoxServiceServicer):
    """Answers what the test says, and remembers what came."""

    def __init__(self) -> None:
        self.error: ServiceError | None = None
        self.requests: list = []
        self.principals: list = []
        self.changes: list = []
        self.watch_until: threading.Event = threading.Event()
        self.cancelled = threading.Event()
        self.slow = threading.Event()

    def _note(self, request):
        self.requests.append(request)
        self.principals.append(current_call().principal)
        if self.error is not None:
            raise self.error

    def CreateBox(self, request, context):
        self._note(request)
        return request.box

    def GetBox(self, request, context):
        self._note(request)
        return pb.Box(name=request.name, weight=5)

    def ListBoxes(self, request, context):
        self._note(request)
        return pb.ListBoxesResponse(boxes=[pb.Box(name="a")], next_page_token="n")

    def OpenBox(self, request, context):
        self._note(request)
        if request.key == "wait":
            context.add_callback(self.cancelled.set)
            self.slow.wait(5)
        if request.etag == "old":
            raise etag_mismatch()
        if request.key == "crash":
            raise RuntimeError("secret detail")
        return pb.Box(contents=[pb.Content(what="saw", count=2)])

    def WatchBoxes(self, request, context) -> Iterator:
        self._note(request)
        context.add_callback(self.cancelled.set)
        for sequence in range(request.after_sequence + 1, request.after_sequence + 4):
            yield pb.WatchBoxesResponse(sequence=sequence, box=pb.Box(name=f"b{sequence}"))
        while not self.watch_until.wait(0.05):
            if not current_call().remaining():
                return
        raise ServiceError(Kind.UNAVAILABLE, "TORN_DOWN", "the stream was torn down")

    def FillBoxes(self, requests, context):
        reply = pb.FillBoxesResponse()
        for request in requests:
            if not reply.piece_count:
                self._note(request)
                reply.parent, reply.strictness = request.parent, request.strictness
                reply.content_type = request.file.content_type
            reply.piece_count += 1
            reply.byte_count += len(request.file.data)
            if b"STOP" in request.file.data:
                raise invalid("file", "says STOP")
        return reply

    def UnpackBox(self, request, context) -> Iterator:
        self._note(request)
        if request.trouble == "none":
            raise not_found(request.name)
        length = any_pb2.Any()
        length.Pack(wrappers_pb2.Int64Value(value=9))
        yield httpbody_pb2.HttpBody(content_type="image/png", data=b"<htm", extensions=[length])
        if request.trouble == "fail":
            raise ServiceError(Kind.UNAVAILABLE, "TORN_DOWN", "the stream was torn down")
        if request.trouble != "short":
            yield httpbody_pb2.HttpBody(data=b"l>bye")

    def ShowBox(self, request, context):
        self._note(request)
        if request.box == "none":
            raise not_found("boxes/none")
        return httpbody_pb2.HttpBody(content_type="text/html; charset=utf-8", data=b"<h1>Kiste</h1>")


class Accounts(accounts_grpc.AccountsServiceServicer):
    """Knows one client and one operator."""

    def AuthenticateClient(self, request, context):
        known = {
            ("app", "s3:cr et"): accounts.Identity(
                kind=options_pb2.CLIENT,
                subject="enterprises/x/clients/app",
                enterprise="enterprises/x",
                scopes=["boxes.write", "boxes.read"],
            ),
            ("branch", "secret"): accounts.Identity(
                kind=options_pb2.CLIENT,
                subject="enterprises/x/clients/branch",
                enterprise="enterprises/x",
                scopes=["boxes.read"],
                grants=[accounts.Identity.Grant(right="boxes.write", groups=["g"])],
            ),
            ("ops", "secret"): accounts.Identity(kind=options_pb2.OPERATOR, subject="clients/ops"),
        }
        identity = known.get((request.client_id, request.client_secret))
        if identity is None:
            raise ServiceError(Kind.UNAUTHENTICATED, "CREDENTIALS_INVALID", "unknown client or wrong secret")
        return identity


class Sessions(sessions_pb2_grpc.SessionServiceServicer):
    """Knows one member, whose refresh tokens count up, and remembers what gateways ask."""

    def __init__(self) -> None:
        self.requests: list = []
        self.refreshed = 0

    def OpenSession(self, request, context):
        self.requests.append(request)
        if (request.email, request.password) != ("a@b.c", "pässword"):
            raise ServiceError(
                Kind.UNAUTHENTICATED, "CREDENTIALS_INVALID", "unknown address or wrong password"
            )
        return self._opened()

    def RefreshSession(self, request, context):
        self.requests.append(request)
        if request.refresh_token != f"refresh-{self.refreshed}":
            raise ServiceError(Kind.UNAUTHENTICATED, "SESSION_ENDED", "the session has ended: log in again")
        self.refreshed += 1
        return self._opened()

    def _opened(self):
        identity = accounts.Identity(
            kind=options_pb2.MEMBER,
            subject="enterprises/x/members/m",
            enterprise="enterprises/x",
            roles=[options_pb2.OWNER],
            session="s1",
        )
        session = sessions_pb2.Session(name="enterprises/x/members/m/sessions/s1")
        session.expire_time.FromSeconds(int(time.time()) + 3600)
        return sessions_pb2.OpenedSession(
            session=session, identity=identity, refresh_token=f"refresh-{self.refreshed}"
        )


class Apps(apps_pb2_grpc.AppServiceServicer):
    """Tells the revocations that the test has set."""

    def __init__(self) -> None:
        self.revocations: list[apps_pb2.Revocation] = []
        self.page_size = 1_000
        self.error: ServiceError | None = None

    def revoke(self, subject: str, when: float, *, life: float = 3600) -> None:
        """Refuse tokens of identities that were read up to `when`, in seconds since 1970."""
        revocation = apps_pb2.Revocation(subject=subject, sequence=len(self.revocations) + 1)
        revocation.revoke_time.FromMicroseconds(round(when * 1_000_000))
        revocation.expire_time.FromMicroseconds(round((when + life) * 1_000_000))
        self.revocations.append(revocation)

    def ListRevocations(self, request, context):
        if self.error is not None:
            raise self.error
        found = [each for each in self.revocations if each.sequence > request.since]
        return apps_pb2.ListRevocationsResponse(
            revocations=found[: self.page_size], more=len(found) > self.page_size
        )


class Rollouts(serving_grpc.ServingServiceServicer):
    """Serves the snapshot and the admissions that the test has set, and remembers what gateways report."""

    def __init__(self) -> None:
        self.snapshot = serving.Snapshot()
        self.told = Told()
        self.asked: list[int] = []
        self.reports: list[serving.ReportReplicaRequest] = []
        self.replica_count = 1

    def GetSnapshot(self, request, context):
        self.asked.append(request.if_newer)
        if (request.if_newer, request.sha256) == (self.snapshot.version, self.snapshot.sha256):
            return serving.Snapshot(version=self.snapshot.version, sha256=self.snapshot.sha256)
        return self.snapshot

    def GetAdmissions(self, request, context):
        return self.told.answer(request)

    def ReportReplica(self, request, context):
        self.reports.append(request)
        return serving.ReportReplicaResponse(replica_count=self.replica_count)


class Analytics(analytics_grpc.AnalyticsServiceServicer):
    """Takes every report of usage, and loses its answer as often as the test says."""

    def __init__(self) -> None:
        self.reports: list[analytics.RecordUsageRequest] = []
        self.lost = 0

    def RecordUsage(self, request, context):
        self.reports.append(request)
        if self.lost:
            self.lost -= 1
            raise ServiceError(Kind.ABORTED, "ANSWER_LOST", "the report was taken, but who knows")
        return analytics.RecordUsageResponse()

    def counted(self) -> dict[str, tuple[int, int, int]]:
        """What an analytics service that counts each report once has: requests, server errors, slow ones."""
        counted = {}
        for report in {(each.replica, each.request_id): each for each in self.reports}.values():
            for usage in report.usages:
                told = usage.requests, usage.server_errors, usage.slow
                known = counted.get(usage.enterprise, (0, 0, 0))
                counted[usage.enterprise] = tuple(map(sum, zip(known, told, strict=True)))
        return counted
