"""Secrets that are planted, and searched for wherever they could have got to."""

import base64
from collections.abc import Callable
from urllib.parse import quote

import grpc
import pytest
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.events.v1 import accounts_pb2 as events
from psycopg import sql

from services.accounts.tests.world import PASSWORD, World
from services.chassis.database import PLATFORM
from services.chassis.sealing import open_sealed


def forms(secret: str) -> dict[str, bytes]:
    """A secret in the forms in which it is most likely to be found."""
    raw = secret.encode()
    shifted = [base64.b64encode(b"\0" * shift + raw)[4:-4] for shift in range(3)]
    return {
        "raw": raw,
        "hex": raw.hex().encode(),
        "url-encoded": quote(secret, safe="").encode(),
        **{f"base64 at offset {shift}": form for shift, form in enumerate(shifted)},
    }


def everything(world: World) -> dict[str, bytes]:
    """All bytes of all tables of the schema: texts as they are, and bytea as its bytes."""
    found: dict[str, bytes] = {}
    with world.database.transaction(PLATFORM) as tx:
        columns = tx.execute(
            """
            select table_name, column_name, data_type from information_schema.columns
            where table_schema = 'accounts' and table_name <> 'chassis_migrations'
            """
        ).fetchall()
        for column in columns:
            kind = "{}" if column["data_type"] == "bytea" else "{}::text"
            query = sql.SQL("select " + kind + " as value from {}").format(
                sql.Identifier(column["column_name"]), sql.Identifier(column["table_name"])
            )
            values = [row["value"] for row in tx.execute(query) if row["value"] is not None]
            found[f"{column['table_name']}.{column['column_name']}"] = b"\n".join(
                value.encode() if isinstance(value, str) else bytes(value) for value in values
            )
    return found


def test_secrets__are_in_no_table_event_log_or_error(logged: Callable[[], str], world: World) -> None:
    """Passwords, client secrets, states, verifiers and tokens, after all that can be done and can go wrong."""
    company, other = world.register(), world.register(email="owner@kunlun.example")
    owner = world.as_(company.owner)
    client = owner.CreateClient(
        pb.CreateClientRequest(
            parent=company.name, display_name="CRM", scopes=["accounts.read"], request_id="client-1"
        )
    )
    started = world.start(company)
    state, code = world.network.agree(started.authorization_url, "brand")
    account = world.complete(company, state, code, request_id="binding-1")
    world.bind(company, "dealer")
    pending = world.start(company)
    told = []
    for wrong in (
        lambda: world.bind(other, "brand"),
        lambda: world.complete(company, state, "canary-code"),
        lambda: world.complete(company, pending.state, "canary-code"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            wrong()
        told.append(repr(refused.value))
    (bound, _) = world.told(events.AccountBound)
    token = open_sealed(world.publishing_key, bound.sealed_token, account.name).decode()
    owner.UnbindAccount(pb.UnbindAccountRequest(name=account.name))

    places = everything(world) | {"logs": logged().encode(), "errors": "\n".join(told).encode()}
    # The search itself works: what may be found is.
    assert b"EMAIL" not in places["members.email"]
    assert forms("owner@tianshan.example")["raw"] in places["members.email"]
    assert b"call.refused" in places["logs"]
    planted = [
        token,
        "canary-token",
        "canary-application-secret",
        client.secret,
        PASSWORD,
        state,
        pending.state,
        "canary-code",
    ]
    hits = [
        f"{secret[:14]}… {form} in {place}"
        for secret in planted
        for form, wanted in forms(secret).items()
        for place, content in places.items()
        if wanted in content
    ]
    assert not hits
