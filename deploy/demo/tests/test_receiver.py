"""The partner's system of the story: what it believes, which is what the standard's own library believes."""

import json
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from standardwebhooks.webhooks import Webhook

from deploy.demo.receiver import Receiver

SECRET, OTHER = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
BODY = json.dumps({"type": "test.ping", "timestamp": "2026-11-24T00:00:00Z", "data": {"endpoint": "e"}})


@pytest.fixture
def receiver():
    """One that believes SECRET."""
    receiver = Receiver("127.0.0.1")
    receiver.secrets.append(SECRET)
    yield receiver
    receiver.close()


def post(receiver, *secrets, body=BODY, sent=BODY, age=timedelta(0)) -> int:
    """Post `sent` with signatures of `body`; the answer's status."""
    time = datetime.now(UTC) - age
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(time.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign("msg_1", time, body) for secret in secrets),
    }
    return httpx.post(receiver.url, content=sent, headers=headers).status_code


def test_signed__is_believed(receiver):
    """What one of several signatures fits is taken, and found again by its type and data."""
    assert post(receiver, OTHER, SECRET) == 204
    found = receiver.first("test.ping", endpoint="e")
    assert found is receiver.believed[0]
    assert [found.signed_by(SECRET), found.signed_by(OTHER), len(found.signatures)] == [True, True, 2]
    assert receiver.first("test.ping", endpoint="another") is None


@pytest.mark.parametrize(
    ("secret", "change"),
    [
        (OTHER, {}),
        (SECRET, {"sent": BODY.replace("ping", "pong")}),
        (SECRET, {"age": timedelta(minutes=6)}),
        (SECRET, {"age": -timedelta(minutes=6)}),
    ],
    ids=["by-another-secret", "changed", "old", "from-the-future"],
)
def test_not_signed__is_refused(receiver, secret, change):
    """Nobody else can tell the partner anything, not even with a copy of what was told before."""
    assert post(receiver, secret, **change) == 401
    assert receiver.believed == []
