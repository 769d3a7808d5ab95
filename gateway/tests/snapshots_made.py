"""Snapshots and admissions as the rollout service makes them."""

import hashlib
import json
import zlib
from uuid import uuid4

from numerator.events.v1 import rollout_pb2 as events
from numerator.rollout.v1 import serving_pb2 as pb

from gateway.serving import NO_ADMISSIONS, Knowledge, unpack
from services.chassis.clock import SystemClock

FLAG = "enterprise-beta"
ROLLOUT = "enterprise-edition"
ACTIVE_ONLY = {"if": [{"==": [{"var": f"admissions.{ROLLOUT}.state"}, "ACTIVE"]}, "on", "off"]}
NEXT_STEPS = {
    "NOT_ON_THE_LIST": "Ask for verification with POST /v1/{enterprise}:requestVerification.",
    "NOT_VERIFIED": "Ask for verification.",
    "EDITION_KILLED": "Nothing to do: the edition is switched off for everybody for the moment.",
}


def flag(targeting=ACTIVE_ONLY, state="ENABLED", **more):
    return {
        "state": state,
        "variants": {"on": True, "off": False},
        "defaultVariant": "off",
        "targeting": targeting,
        **more,
    }


def rollout(name=ROLLOUT, stage="private-beta", *, killed=False, fail_mode="LAST_GOOD", **limits):
    return {
        "rollout": name,
        "stage": stage,
        "state": "RUNNING",
        "killed": killed,
        "failMode": fail_mode,
        "limits": {"requestsPerMinute": 0, "boundAccounts": 0, "livePlacements": 0, **limits},
    }


def document(version=1, *, rule=None, flags=None, rollouts=None, buckets=None):
    """A document with one rollout's flag, and whatever is said otherwise."""
    return {
        "version": version,
        "flags": {
            "$schema": "https://flagd.dev/schema/v0/flags.json",
            "flags": {FLAG: rule or flag(), **(flags or {})},
        },
        "rollouts": {FLAG: rollout()} if rollouts is None else rollouts,
        "buckets": buckets or {},
        "nextSteps": NEXT_STEPS,
    }


def envelope(tree) -> pb.Snapshot:
    text = json.dumps(tree).encode()
    return pb.Snapshot(
        version=int(tree["version"]), sha256=hashlib.sha256(text).hexdigest(), document=zlib.compress(text)
    )


def published(tree) -> events.SnapshotPublished:
    made = envelope(tree)
    return events.SnapshotPublished(version=made.version, sha256=made.sha256, document=made.document)


def record(state, enterprise="enterprises/in", *, flag=FLAG, stage="private-beta", reason="", queue_key=""):
    return pb.AdmissionRecord(
        flag=flag, enterprise=enterprise, state=state, stage=stage, reason=reason, queue_key=queue_key
    )


def enterprise(name, *, verified=True, **attributes):
    return pb.EnterpriseRecord(enterprise=name, verified=verified, attributes=attributes)


class Told:
    """The admissions as the rollout service keeps them: what each version changed, and its token."""

    def __init__(self, *records, enterprises=()):
        self.versions = [("", (), ())]
        if records or enterprises:
            self.change(*records, enterprises=enterprises)

    @property
    def key(self):
        return len(self.versions) - 1, self.versions[-1][0]

    def change(self, *records, enterprises=()) -> events.AdmissionsChanged:
        """Make a version, and the event that tells of it."""
        number, token = self.key
        self.versions.append((uuid4().hex, records, enterprises))
        return events.AdmissionsChanged(
            from_version=number,
            from_token=token,
            version=number + 1,
            token=self.versions[-1][0],
            records=records,
            enterprises=enterprises,
        )

    def restore(self, number):
        """Go back to a version, as from a backup."""
        del self.versions[number + 1 :]

    def answer(self, request, page_size=1000) -> pb.GetAdmissionsResponse:
        """What GetAdmissions answers; pages count in its cursor."""
        known = request.since <= self.key[0] and self.versions[request.since][0] == request.token
        since = self.versions[request.since + 1 :] if known else self.versions
        records = {(each.flag, each.enterprise): each for _, changed, _ in since for each in changed}
        enterprises = {each.enterprise: each for _, _, changed in since for each in changed}
        begin = int(request.cursor or 0)
        end = begin + page_size
        number, token = self.key
        return pb.GetAdmissionsResponse(
            version=number,
            token=token,
            whole=not known and not begin,
            records=list(records.values())[begin:end],
            enterprises=[] if begin else enterprises.values(),
            more=len(records) > end,
            cursor=str(end) if len(records) > end else "",
        )


def knowing(tree, *records, enterprises=(), stale_seconds=60, clock=None) -> Knowledge:
    """Knowledge of a document and of records."""
    knowledge = Knowledge(clock or SystemClock(), stale_seconds)
    table = NO_ADMISSIONS.changed(1, "token", records, enterprises)
    knowledge.take_admissions(table, instead_of=None)
    knowledge.take_snapshot(unpack(envelope(tree)))
    return knowledge
