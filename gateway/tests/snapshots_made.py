"""Snapshots as the rollout service makes them."""

import hashlib
import json
import zlib

from numerator.rollout.v1 import rollout_pb2 as rollout

FLAG = "enterprise-beta"
ACTIVE_ONLY = {"if": [{"==": [{"var": "admission.state"}, "ACTIVE"]}, "on", "off"]}


def flag(targeting=ACTIVE_ONLY, state="ENABLED"):
    return {
        "state": state,
        "variants": {"on": True, "off": False},
        "defaultVariant": "off",
        "targeting": targeting,
    }


def record(state, **more):
    return {"state": state, "stage": "private-beta", "reason": "", "position": 0, "nextStep": "", **more}


def document(version=1, *, rule=None, records=None):
    records = {"enterprises/in": record("ACTIVE")} if records is None else records
    return {"version": version, "flags": {"flags": {FLAG: rule or flag()}}, "admissions": {FLAG: records}}


def packed(tree):
    text = json.dumps(tree).encode()
    return tree["version"], hashlib.sha256(text).hexdigest(), zlib.compress(text)


def envelope(tree) -> rollout.Snapshot:
    version, sha256, body = packed(tree)
    return rollout.Snapshot(version=version, sha256=sha256, document=body)
