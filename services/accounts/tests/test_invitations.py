"""Binding by invitation, by gRPC, on a network that is made up."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, urlsplit

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from numerator.accounts.v1 import accounts_pb2 as accounts
from numerator.accounts.v1 import binding_pb2 as pb
from numerator.accounts.v1 import binding_pb2_grpc as pb_grpc
from numerator.accounts.v1 import groups_pb2, groups_pb2_grpc
from numerator.events.v1 import accounts_pb2 as events

from services.accounts.model.invitations import ROW_STEPS, RowState, RowStep
from services.accounts.networks import network_unavailable
from services.accounts.tests.world import (
    OTHER_SERVER,
    REDIRECT_URI,
    SERVER,
    Company,
    World,
    field_reasons_of,
    reason_of,
)
from services.accounts.usecases import invitations
from services.chassis.database import PLATFORM
from services.chassis.principal import Principal
from services.chassis.testing.rpc import client, gateway, member

INVITED, STARTED, BOUND = pb.BindingRow.INVITED, pb.BindingRow.STARTED, pb.BindingRow.BOUND
REFUSED, CANCELLED, EXPIRED = pb.BindingRow.REFUSED, pb.BindingRow.CANCELLED, pb.BindingRow.EXPIRED


@dataclass
class Campaign:
    """An enterprise that invites, the gateway, and the holders behind it."""

    world: World
    company: Company

    def as_(self, principal: Principal) -> pb_grpc.BindingServiceStub:
        return pb_grpc.BindingServiceStub(self.world.running.as_(principal))

    @property
    def owner(self) -> pb_grpc.BindingServiceStub:
        return self.as_(self.company.owner)

    def invite(self, *rows: dict[str, Any], **fields: Any) -> pb.CreateBindingBatchResponse:
        """A batch; each row is on the usual server, unless it says otherwise."""
        usual = {"network": "mastodon", "server": SERVER}
        return self.owner.CreateBindingBatch(
            pb.CreateBindingBatchRequest(
                parent=self.company.name,
                rows=[pb.CreateBindingBatchRequest.Row(**{**usual, **row}) for row in rows or ({},)],
                **fields,
            )
        )

    def open(self, link: str, browser: str = "browser") -> str:
        """Open a link, as the gateway does; where the holder agrees."""
        _, _, enterprise, token = urlsplit(link).path.split("/")
        opened = self.as_(gateway()).OpenInvitation(
            pb.OpenInvitationRequest(parent=f"enterprises/{enterprise}", token=token, browser=browser)
        )
        return opened.authorization_url

    def complete(
        self, state: str, code: str = "", *, browser: str = "browser", limit: int = 0, **fields: str
    ) -> pb.CompleteInvitationResponse:
        """What the gateway does with the network's redirect."""
        caller = replace(gateway(), limits={"bound_accounts": limit}) if limit else gateway()
        enterprise = f"enterprises/{state.split('.')[1]}"
        request = pb.CompleteInvitationRequest(
            parent=enterprise, state=state, code=code, browser=browser, **fields
        )
        return self.as_(caller).CompleteInvitation(request)

    def bind(self, link: str, handle: str, **more: Any) -> pb.CompleteInvitationResponse:
        """All that a holder does."""
        return self.complete(*self.world.network.agree(self.open(link), handle), **more)

    def row(self, name: str) -> pb.BindingRow:
        batch = name.rpartition("/rows/")[0]
        found = self.owner.ListBindingRows(pb.ListBindingRowsRequest(parent=batch, page_size=500)).rows
        return next(row for row in found if row.name == name)

    def batch(self, name: str) -> pb.BindingBatch:
        return self.owner.GetBindingBatch(pb.GetBindingBatchRequest(name=name))


@pytest.fixture
def campaign(world: World) -> Campaign:
    return Campaign(world, world.register())


def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value.code(), reason_of(refused.value)


def test_invitation__binds_its_account(campaign: Campaign) -> None:
    """From the link to the account: labels and all; the trail says that it was the invitation, and what was done with it."""
    made = campaign.invite(
        {"labels": ["outlet", "west"], "note": "As the outlet in Kashgar", "external_key": "outlet-7"},
        display_name="Outlets",
    )
    (row,) = made.rows
    assert row.invitation_link.startswith(REDIRECT_URI.rpartition("/")[0] + "/invitations/")
    assert (row.state, row.external_key, row.note) == (INVITED, "outlet-7", "As the outlet in Kashgar")
    assert row.expire_time.ToDatetime() - made.batch.create_time.ToDatetime() == timedelta(days=14)
    assert made.batch.progress == pb.BindingBatch.Progress(total=1, invited=1)

    url = campaign.open(row.invitation_link)
    assert campaign.row(row.name).state == STARTED
    state, code = campaign.world.network.agree(url, "kashgar")
    assert state.startswith(f"invitation.{campaign.company.name.rpartition('/')[2]}.")
    bound = campaign.complete(state, code)
    assert (bound.row.state, bound.handle, bound.enterprise_display_name) == (
        BOUND,
        "kashgar",
        "Tianshan Motors",
    )
    owner = campaign.world.as_(campaign.company.owner)
    account = owner.GetAccount(accounts.GetAccountRequest(name=bound.row.account))
    assert list(account.labels) == ["outlet", "west"]
    assert len(campaign.world.told(events.AccountBound)) == 1
    assert campaign.batch(made.batch.name).progress == pb.BindingBatch.Progress(total=1, bound=1)
    by_row = [each["action"] for each in campaign.world.rows("audit") if each["actor"] == row.name]
    assert by_row == ["invitation.opened", "account.bound", "token.handed_over"]


def test_invitation__group_is_where_the_account_will_be(campaign: Campaign) -> None:
    """As with a binding by a member."""
    groups = groups_pb2_grpc.GroupServiceStub(campaign.world.running.as_(campaign.company.owner))
    group = groups.CreateAccountGroup(
        groups_pb2.CreateAccountGroupRequest(parent=campaign.company.name, display_name="West")
    )
    (row,) = campaign.invite({"group": group.name}).rows
    assert row.group == group.name
    account = campaign.bind(row.invitation_link, "kashgar").row.account
    owner = campaign.world.as_(campaign.company.owner)
    assert owner.GetAccount(accounts.GetAccountRequest(name=account)).group == group.name


def test_links__are_shown_once(campaign: Campaign) -> None:
    """Not by a repetition, not in a list, not in a stream; and what is kept of them is a hash."""
    first = campaign.invite({}, {}, request_id="batch-1")
    again = campaign.invite({}, {}, request_id="batch-1")
    assert [row.name for row in first.rows] == [row.name for row in again.rows]
    assert all(row.invitation_link for row in first.rows)
    assert not any(row.invitation_link for row in again.rows)
    assert not campaign.row(first.rows[0].name).invitation_link
    tokens = [row.invitation_link.rpartition("/")[2] for row in first.rows]
    assert len(set(tokens)) == 2
    assert all(len(token) == 43 for token in tokens)  # 256 bits in base64
    kept = repr([campaign.world.rows(table) for table in ("binding_rows", "idempotency", "audit")])
    assert not any(token in kept for token in tokens)


def test_invite__tells_all_that_is_wrong(campaign: Campaign) -> None:
    """Every row, by its number; and nothing is kept."""
    with pytest.raises(grpc.RpcError) as refused:
        campaign.invite(
            {"server": "https://elsewhere.example"},
            {"server": "not a server"},
            {"external_key": "one"},
            {"external_key": "one"},
            {"network": "weibo"},
        )
    assert field_reasons_of(refused.value) == {
        "rows[0].server": "SERVER_NOT_ALLOWED",
        "rows[1].server": "SERVER_MALFORMED",
        "rows[2].external_key": "EXTERNAL_KEY_TWICE",
        "rows[3].external_key": "EXTERNAL_KEY_TWICE",
        "rows[4].server": "SERVER_NOT_ALLOWED",
    }
    assert not campaign.world.rows("binding_batches")


def test_invite__group_must_be_there(campaign: Campaign) -> None:
    """Nobody is invited into a group that does not exist, or is another enterprise's under the own name."""
    other = campaign.world.register(email="other@y.example")
    theirs = groups_pb2_grpc.GroupServiceStub(campaign.world.running.as_(other.owner)).CreateAccountGroup(
        groups_pb2.CreateAccountGroupRequest(parent=other.name, display_name="Theirs")
    )
    for group in ("none", theirs.name.rpartition("/")[2]):
        with pytest.raises(grpc.RpcError) as refused:
            campaign.invite({"group": f"{campaign.company.name}/accountGroups/{group}"})
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert not campaign.world.rows("binding_batches")


@pytest.mark.parametrize("seconds", [59, 90 * 86_400 + 1, -1])
def test_invite__lifetime_has_bounds(campaign: Campaign, seconds: int) -> None:
    """One minute to 90 days."""
    with pytest.raises(grpc.RpcError) as refused:
        campaign.invite(lifetime=Duration(seconds=seconds))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_invite__takes_500_rows_and_no_more(campaign: Campaign) -> None:
    """All of them in one go."""
    assert len(campaign.invite(*[{}] * 500).rows) == 500
    with pytest.raises(grpc.RpcError) as refused:
        campaign.invite(*[{}] * 501)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_invitation__goes_on_by_the_same_link(campaign: Campaign) -> None:
    """After a window that was closed, a refusal, a network that was away, and a process that died with the code in its hands."""
    (row,) = campaign.invite().rows
    campaign.open(row.invitation_link)
    state, _ = campaign.world.network.agree(campaign.open(row.invitation_link), "kashgar")
    assert refusal(lambda: campaign.complete(state, error="access_denied"))[1] == "AUTHORIZATION_DENIED"
    denied = campaign.row(row.name)
    assert (denied.state, denied.reason) == (REFUSED, "AUTHORIZATION_DENIED")

    agreed = campaign.world.network.agree(campaign.open(row.invitation_link), "kashgar")
    campaign.world.network.failure = network_unavailable(SERVER)
    assert refusal(lambda: campaign.complete(*agreed))[1] == "NETWORK_UNAVAILABLE"
    assert campaign.row(row.name).state == STARTED

    state, _ = campaign.world.network.agree(campaign.open(row.invitation_link), "kashgar")
    with campaign.world.database.transaction(PLATFORM) as tx:  # claimed, and then the process was killed
        tx.execute("update bindings set claim_time = %s where claim_time is null", (tx.now,))
    assert refusal(lambda: campaign.complete(state, "code"))[1] == "BINDING_STATE_USED"
    assert campaign.row(row.name).state == STARTED
    assert campaign.bind(row.invitation_link, "kashgar").row.state == BOUND


def test_invitation__completed_twice_is_completed_once(campaign: Campaign) -> None:
    """The holder reloads the page: the same answer, and nothing new. The link is used then."""
    (row,) = campaign.invite().rows
    agreed = campaign.world.network.agree(campaign.open(row.invitation_link), "kashgar")
    assert campaign.complete(*agreed) == campaign.complete(*agreed)
    assert len(campaign.world.told(events.AccountBound)) == 1
    assert refusal(lambda: campaign.open(row.invitation_link)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "INVITATION_USED",
    )


def test_invitation__second_account_of_a_row_is_refused(campaign: Campaign) -> None:
    """Two windows, two accounts: the first is bound, and the other is kept nowhere."""
    (row,) = campaign.invite().rows
    first, second = (
        campaign.world.network.agree(campaign.open(row.invitation_link), handle)
        for handle in ("kashgar", "hotan")
    )
    campaign.complete(*first)
    assert refusal(lambda: campaign.complete(*second))[1] == "INVITATION_USED"
    assert len(campaign.world.rows("accounts")) == len(campaign.world.rows("tokens")) == 1
    assert campaign.row(row.name).state == BOUND


def test_invitation__account_of_another_enterprise_is_refused(campaign: Campaign) -> None:
    """And audited, and the row says why; another account may be bound by the same link."""
    other = campaign.world.register(email="owner@kunlun.example")
    campaign.world.bind(other, "brand")
    (row,) = campaign.invite().rows
    assert refusal(lambda: campaign.bind(row.invitation_link, "brand"))[1] == "ACCOUNT_BOUND_ELSEWHERE"
    assert campaign.row(row.name).reason == "ACCOUNT_BOUND_ELSEWHERE"
    (audited,) = campaign.world.audited("binding.refused")
    assert (audited["enterprise"], audited["actor"]) == (campaign.company.name, row.name)
    assert campaign.bind(row.invitation_link, "kashgar").row.state == BOUND


def test_invitation__keeps_to_the_limit_of_the_stage(campaign: Campaign) -> None:
    """As the gateway says it at the moment of the completion."""
    rows = campaign.invite({}, {}).rows
    campaign.bind(rows[0].invitation_link, "kashgar", limit=1)
    assert (
        refusal(lambda: campaign.bind(rows[1].invitation_link, "hotan", limit=1))[1] == "STAGE_LIMIT_REACHED"
    )
    assert campaign.row(rows[1].name).reason == "STAGE_LIMIT_REACHED"
    assert campaign.bind(rows[1].invitation_link, "hotan", limit=2).row.state == BOUND


def test_renew__ends_the_old_link_and_what_it_started(campaign: Campaign) -> None:
    """Whoever found the old one gets nowhere."""
    (row,) = campaign.invite().rows
    stolen = campaign.world.network.agree(campaign.open(row.invitation_link), "thief")
    renewed = campaign.owner.RenewInvitation(
        pb.RenewInvitationRequest(name=row.name, lifetime=Duration(seconds=3600))
    )
    assert renewed.state == INVITED
    assert renewed.expire_time.ToDatetime() - renewed.update_time.ToDatetime() == timedelta(hours=1)
    assert refusal(lambda: campaign.open(row.invitation_link)) == (
        grpc.StatusCode.NOT_FOUND,
        "INVITATION_UNKNOWN",
    )
    assert refusal(lambda: campaign.complete(*stolen))[1] == "BINDING_STATE_EXPIRED"
    assert campaign.row(row.name).state == INVITED
    stale = pb.RenewInvitationRequest(name=row.name, etag=row.etag)
    assert refusal(lambda: campaign.owner.RenewInvitation(stale))[1] == "ETAG_MISMATCH"
    assert campaign.bind(renewed.invitation_link, "kashgar").row.state == BOUND
    again = pb.RenewInvitationRequest(name=row.name)
    assert refusal(lambda: campaign.owner.RenewInvitation(again))[1] == "INVITATION_CLOSED"


def test_cancel__closes_what_is_not_bound(campaign: Campaign) -> None:
    """Also a holder who is on the network's page. What is bound stays, and to cancel again changes nothing."""
    made = campaign.invite({}, {}, {})
    campaign.bind(made.rows[0].invitation_link, "kashgar")
    agreed = campaign.world.network.agree(campaign.open(made.rows[1].invitation_link), "hotan")
    cancel = pb.CancelBindingBatchRequest(name=made.batch.name)
    cancelled = campaign.owner.CancelBindingBatch(cancel)
    assert cancelled.progress == pb.BindingBatch.Progress(total=3, bound=1, cancelled=2)
    assert cancelled.HasField("cancel_time")
    assert campaign.owner.CancelBindingBatch(cancel) == cancelled
    assert refusal(lambda: campaign.complete(*agreed))[1] == "INVITATION_CANCELLED"
    assert refusal(lambda: campaign.open(made.rows[2].invitation_link))[1] == "INVITATION_CANCELLED"
    renew = pb.RenewInvitationRequest(name=made.rows[2].name)
    assert refusal(lambda: campaign.owner.RenewInvitation(renew))[1] == "INVITATION_CLOSED"
    assert len(campaign.world.audited("binding_batch.cancelled")) == 1


def test_expiry__is_exact_and_told(campaign: Campaign) -> None:
    """The link ends on time, and the worker marks the row; who has begun in time may end; a renewal brings it back."""
    made = campaign.invite({}, {})
    campaign.world.clock.advance(timedelta(days=14) - timedelta(minutes=5))
    agreed = campaign.world.network.agree(campaign.open(made.rows[0].invitation_link), "kashgar")
    campaign.world.clock.advance(timedelta(minutes=5))
    assert refusal(lambda: campaign.open(made.rows[1].invitation_link))[1] == "INVITATION_EXPIRED"
    with campaign.world.database.transaction(PLATFORM) as tx:
        assert invitations.expire(tx) == 2
    assert campaign.batch(made.batch.name).progress == pb.BindingBatch.Progress(total=2, expired=2)
    assert campaign.complete(*agreed).row.state == BOUND
    renewed = campaign.owner.RenewInvitation(pb.RenewInvitationRequest(name=made.rows[1].name))
    assert campaign.bind(renewed.invitation_link, "hotan").row.state == BOUND


def test_rows__are_listed_in_their_order(campaign: Campaign) -> None:
    """Page by page, and by state."""
    made = campaign.invite(*[{"external_key": f"key-{number}"} for number in range(5)])
    campaign.bind(made.rows[3].invitation_link, "kashgar")

    def keys(**query: Any) -> Iterator[str]:
        token = ""
        while True:
            request = pb.ListBindingRowsRequest(
                parent=made.batch.name, page_size=2, page_token=token, **query
            )
            found = campaign.owner.ListBindingRows(request)
            yield from (row.external_key for row in found.rows)
            token = found.next_page_token
            if not token:
                return

    assert list(keys()) == [f"key-{number}" for number in range(5)]
    assert list(keys(state=BOUND)) == ["key-3"]
    assert list(keys(state=INVITED)) == ["key-0", "key-1", "key-2", "key-4"]


def test_batches__are_listed(campaign: Campaign) -> None:
    """Oldest first, with their progress."""
    for name in ("First", "Second", "Third"):
        campaign.invite({}, display_name=name)
        campaign.world.clock.advance(timedelta(seconds=1))
    request = pb.ListBindingBatchesRequest(parent=campaign.company.name, page_size=2)
    first = campaign.owner.ListBindingBatches(request)
    request.page_token = first.next_page_token
    second = campaign.owner.ListBindingBatches(request)
    found = [*first.binding_batches, *second.binding_batches]
    assert [each.display_name for each in found] == ["First", "Second", "Third"]
    assert {each.progress.invited for each in found} == {1}


def test_watch__tells_each_change_without_a_gap(campaign: Campaign) -> None:
    """First every row as it is, then each change with the progress; who comes back misses nothing, and sees no other batch."""
    made = campaign.invite({}, {})
    campaign.invite({}, display_name="Another")
    seen: queue.Queue[pb.WatchBindingBatchResponse] = queue.Queue()
    stream = campaign.owner.WatchBindingBatch(pb.WatchBindingBatchRequest(name=made.batch.name), timeout=30)

    def read() -> None:
        try:
            for told in stream:
                seen.put(told)
        except grpc.RpcError:
            pass  # the test has cancelled it

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    begin = [seen.get(timeout=10) for _ in range(2)]
    assert [each.row.name for each in begin] == [row.name for row in made.rows]
    campaign.bind(made.rows[1].invitation_link, "kashgar")
    changes = [seen.get(timeout=10) for _ in range(2)]
    stream.cancel()
    reader.join(10)
    assert [each.row.state for each in changes][-1] == BOUND
    assert changes[-1].batch.progress.bound == 1
    assert all(before.sequence < after.sequence for before, after in pairwise(changes))

    campaign.bind(made.rows[0].invitation_link, "hotan")
    again = campaign.owner.WatchBindingBatch(
        pb.WatchBindingBatchRequest(name=made.batch.name, after_sequence=changes[-1].sequence), timeout=30
    )
    missed = [next(again), next(again)]
    again.cancel()
    assert {each.row.name for each in missed} == {made.rows[0].name}
    assert missed[-1].batch.progress.bound == 2


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("stranger", grpc.StatusCode.NOT_FOUND),
        ("editor", grpc.StatusCode.PERMISSION_DENIED),
        ("reader", grpc.StatusCode.PERMISSION_DENIED),
    ],
)
def test_rights__are_needed(campaign: Campaign, kind: str, expected: grpc.StatusCode) -> None:
    """Another enterprise finds nothing; the wrong role or scope may read only; and nobody but the gateway opens links."""
    made = campaign.invite()
    callers = {
        "stranger": campaign.world.register(email="owner@kunlun.example").owner,
        "editor": member(campaign.company.name, ["EDITOR"]),
        "reader": client(campaign.company.name, ["accounts.read"]),
    }
    stub = campaign.as_(callers[kind])
    row = pb.CreateBindingBatchRequest.Row(network="mastodon", server=SERVER)
    for call in (
        lambda: stub.CancelBindingBatch(pb.CancelBindingBatchRequest(name=made.batch.name)),
        lambda: stub.RenewInvitation(pb.RenewInvitationRequest(name=made.rows[0].name)),
        lambda: stub.CreateBindingBatch(
            pb.CreateBindingBatchRequest(parent=campaign.company.name, rows=[row])
        ),
    ):
        assert refusal(call)[0] is expected
    opening = pb.OpenInvitationRequest(parent=campaign.company.name, token="x", browser="x")
    assert refusal(lambda: campaign.owner.OpenInvitation(opening))[1] == "CALLER_NOT_ALLOWED"
    get = pb.GetBindingBatchRequest(name=made.batch.name)
    if kind == "stranger":
        assert refusal(lambda: stub.GetBindingBatch(get))[0] is grpc.StatusCode.NOT_FOUND
    else:
        assert stub.GetBindingBatch(get) == made.batch


def test_rows__other_servers(campaign: Campaign) -> None:
    """Each row has its own network and server."""
    rows = campaign.invite({"server": OTHER_SERVER.upper()}, {}).rows
    assert [row.server for row in rows] == [OTHER_SERVER, SERVER]
    assert urlsplit(campaign.open(rows[0].invitation_link)).netloc == urlsplit(OTHER_SERVER).netloc
    assert parse_qs(urlsplit(campaign.open(rows[1].invitation_link)).query)["state"]


def test_steps__lead_out_of_no_end() -> None:
    """What is bound or cancelled stays so, whatever happens; all other states can still get there."""
    for (state, step), after in ROW_STEPS.items():
        assert state not in {RowState.BOUND, RowState.CANCELLED}, step
        assert (after is RowState.BOUND) == (step is RowStep.BIND)
    for state in set(RowState) - {RowState.BOUND, RowState.CANCELLED}:
        assert ROW_STEPS[state, RowStep.CANCEL] is RowState.CANCELLED
