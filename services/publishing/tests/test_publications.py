"""Plans, scheduling and cancelling, by the rules alone."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import Kind, ServiceError
from services.publishing.model.accounts import AccountState, NetworkClass
from services.publishing.model.deliveries import DeliveryState, Policy, Rule
from services.publishing.model.publications import (
    PublicationState,
    Variant,
    cancel,
    check_draft,
    new_delivery,
    plan,
    publication_state,
    schedule,
)
from services.publishing.tests.fakes import ENTERPRISE, NOON, make_account, make_publication

BRAND, DEALER, JOBS, CARE = (f"{ENTERPRISE}/accounts/a{number}" for number in range(1, 5))
FOUR = [make_account(number) for number in range(1, 5)]


def test_plan__all_rules__names_which_decided() -> None:
    """Same text by default, variants where named, exclusion before all."""
    publication = make_publication(
        variants=(Variant((DEALER, JOBS), "Come and drive it"),), exclude_accounts=(JOBS,)
    )

    entries = plan(publication, FOUR)

    assert [(each.account, each.rule, each.text) for each in entries] == [
        (BRAND, Rule.SAME, publication.text),
        (DEALER, Rule.VARIANT, "Come and drive it"),
        (JOBS, Rule.EXCLUDED, ""),
        (CARE, Rule.SAME, publication.text),
    ]


def test_plan__accounts_named__leaves_the_others_out() -> None:
    """A publication for some accounts is for these only; a variant alone includes nobody."""
    publication = make_publication(accounts=(BRAND,), variants=(Variant((CARE,), "We help"),))

    rules = {entry.account: entry.rule for entry in plan(publication, FOUR)}

    assert rules == {
        BRAND: Rule.SAME,
        DEALER: Rule.NOT_INCLUDED,
        JOBS: Rule.NOT_INCLUDED,
        CARE: Rule.NOT_INCLUDED,
    }


def test_plan__problems__are_told_per_account() -> None:
    """A text that is too long, an account that lost its authorisation, one that is not there, a network not spoken."""
    accounts = [
        make_account(1, max_characters=10),
        make_account(2, state=AccountState.REAUTH_REQUIRED),
        make_account(4, network="weibo"),
    ]
    publication = make_publication(accounts=(BRAND, DEALER, JOBS, CARE))

    problems = {
        entry.account: [each.reason for each in entry.problems] for entry in plan(publication, accounts)
    }

    assert problems == {
        BRAND: ["TEXT_TOO_LONG"],
        DEALER: ["REAUTH_REQUIRED"],
        JOBS: ["ACCOUNT_NOT_BOUND"],
        CARE: ["NETWORK_UNSUPPORTED"],
    }


@given(
    accounts=st.sets(st.integers(1, 4)),
    excluded=st.sets(st.integers(1, 4)),
    variant=st.sets(st.integers(1, 4), min_size=1),
)
def test_plan__any_draft__each_account_once_and_excluded_ones_silent(
    accounts: set[int], excluded: set[int], variant: set[int]
) -> None:
    """Whatever the draft says, each account has one entry, and an excluded one has no text."""
    names = {number: f"{ENTERPRISE}/accounts/a{number}" for number in range(1, 5)}
    publication = make_publication(
        accounts=tuple(names[each] for each in accounts),
        exclude_accounts=tuple(names[each] for each in excluded),
        variants=(Variant(tuple(names[each] for each in variant), "Other"),),
    )

    entries = plan(publication, FOUR)

    assert [entry.account for entry in entries] == sorted(names.values())
    assert {entry.account for entry in entries if entry.text} == {
        name
        for number, name in names.items()
        if number not in excluded and (not accounts or number in accounts)
    }


def test_check_draft__wrong_fields__are_told_all_at_once() -> None:
    """The caller mends everything in one go."""
    publication = make_publication(
        text=" ",
        variants=(Variant((), "x"), Variant((BRAND,), ""), Variant((BRAND,), "y")),
        accounts=("enterprises/other/accounts/a1",),
    )

    with pytest.raises(ServiceError) as raised:
        check_draft(publication)

    assert [each.field for each in raised.value.violations] == [
        "publication.text",
        "publication.variants[0].accounts",
        "publication.variants[1].text",
        "publication.variants[2].accounts",
        "publication.accounts",
    ]


def test_schedule__draft__freezes_only_what_appears() -> None:
    """The frozen plan holds the posts, and the time is now when none is given."""
    publication = make_publication(exclude_accounts=(JOBS,))

    scheduled = schedule(publication, plan(publication, FOUR), None, NOON)

    assert scheduled.state is PublicationState.SCHEDULED
    assert scheduled.schedule_time == NOON
    assert [entry.account for entry in scheduled.plan] == [BRAND, DEALER, CARE]


@pytest.mark.parametrize(
    ("changes", "accounts", "at", "reason"),
    [
        ({"state": PublicationState.CANCELLED}, FOUR, None, "PUBLICATION_NOT_DRAFT"),
        ({}, [], None, "PLAN_EMPTY"),
        ({"text": "x" * 501}, FOUR, None, "PLAN_HAS_PROBLEMS"),
        ({}, FOUR, NOON - timedelta(seconds=1), "INVALID_ARGUMENT"),
        ({"schedule_time": NOON - timedelta(days=1)}, FOUR, None, "INVALID_ARGUMENT"),
    ],
)
def test_schedule__impossible__is_refused(changes, accounts, at, reason) -> None:
    """Nothing is scheduled that cannot go out as it was planned."""
    publication = make_publication(**changes)

    with pytest.raises(ServiceError) as raised:
        schedule(publication, plan(publication, accounts), at, NOON)

    assert raised.value.reason == reason


@pytest.mark.parametrize(
    ("counts", "state"),
    [
        ({}, PublicationState.SCHEDULED),
        ({DeliveryState.QUEUED: 4}, PublicationState.SCHEDULED),
        ({DeliveryState.QUEUED: 3, DeliveryState.SENDING: 1}, PublicationState.PUBLISHING),
        ({DeliveryState.PUBLISHED: 3, DeliveryState.UNCONFIRMED: 1}, PublicationState.PUBLISHING),
        ({DeliveryState.PUBLISHED: 3, DeliveryState.FAILED: 1}, PublicationState.DONE),
    ],
)
def test_publication_state__deliveries__move_it_on(counts, state) -> None:
    """From SCHEDULED on, the state follows from the deliveries."""
    publication = make_publication(state=PublicationState.SCHEDULED, schedule_time=NOON, counts=counts)

    assert publication_state(publication) is state


def test_cancel__done__is_refused() -> None:
    """What has ended cannot be cancelled."""
    done = make_publication(
        state=PublicationState.SCHEDULED, schedule_time=NOON, counts={DeliveryState.PUBLISHED: 4}
    )

    with pytest.raises(ServiceError) as raised:
        cancel(done, NOON)

    assert (raised.value.kind, raised.value.reason) == (Kind.FAILED_PRECONDITION, "PUBLICATION_DONE")


def test_new_delivery__made_twice__is_the_same() -> None:
    """Name and key follow from publication and account, so that a repetition is no second post."""
    publication = make_publication()
    scheduled = schedule(publication, plan(publication, FOUR), None, NOON)

    first, other = (new_delivery(scheduled, scheduled.plan[0], NOON, traceparent=each) for each in ("", "x"))
    neighbour = new_delivery(scheduled, scheduled.plan[1], NOON, traceparent="")

    assert (first.name, first.key) == (other.name, other.key)
    assert {first.name, first.key}.isdisjoint({neighbour.name, neighbour.key})


@pytest.mark.parametrize(
    ("software", "network_class"),
    [("mastodon", NetworkClass.A), ("gotosocial", NetworkClass.B), ("", NetworkClass.B)],
)
def test_network_class__software__trusted_only_if_known(software, network_class) -> None:
    """A server that we do not know is taken for one that ignores keys."""
    assert make_account(software=software).network_class is network_class


def test_policy__delay__doubles_up_to_a_bound() -> None:
    """Waits grow, and never beyond the longest."""
    policy = Policy()

    assert [policy.delay(tries).total_seconds() for tries in (0, 1, 2, 5, 9, 10, 1000)] == [
        1,
        1,
        2,
        16,
        256,
        300,
        300,
    ]
