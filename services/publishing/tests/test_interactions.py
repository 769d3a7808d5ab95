"""Interactions and their answers, by the rules alone."""

from dataclasses import replace

import pytest

from services.chassis.errors import ServiceError
from services.publishing.model.accounts import AccountState
from services.publishing.model.interactions import (
    InteractionKind,
    InteractionState,
    Notification,
    answer,
    new_interaction,
)
from services.publishing.tests.fakes import ENTERPRISE, NOON, make_account


def make_notification(**changes: object) -> Notification:
    values: dict[str, object] = {
        "network_id": "n1",
        "kind": InteractionKind.MENTION,
        "acct": "lina",
        "author": "lina@example.social",
        "author_display_name": "Li Na",
        "author_followers": 412,
        "post_id": "s1",
        "answered_post_id": "ours",
        "text": "How much is it?",
        "url": "https://example.social/@lina/s1",
        "time": NOON,
    }
    return Notification(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "kind", "our_post_id"),
    [
        ({}, InteractionKind.COMMENT, "ours"),
        ({"answered_post_id": ""}, InteractionKind.MENTION, ""),
        ({"kind": InteractionKind.REPOST, "answered_post_id": ""}, InteractionKind.REPOST, "s1"),
    ],
)
def test_new_interaction__kinds__say_whose_post(changes, kind, our_post_id) -> None:
    """What answers a post of ours is a comment, else a mention; a repost is of our own post."""
    interaction = new_interaction(make_account(), make_notification(**changes), NOON)

    assert (interaction.kind, interaction.our_post_id) == (kind, our_post_id)


def test_new_interaction__told_again__has_the_same_name() -> None:
    """A text is one interaction under whatever notification; a repost is one per notification and account."""
    account, other = make_account(1), make_account(2)
    told, again = make_notification(), make_notification(network_id="n2")
    repost = make_notification(kind=InteractionKind.REPOST)

    names = [new_interaction(account, each, NOON).name for each in (told, again)]
    apart = {
        new_interaction(account, repost, NOON).name,
        new_interaction(account, replace(repost, network_id="n2"), NOON).name,
        new_interaction(other, told, NOON).name,
    }

    assert names[0] == names[1]
    assert len({names[0], *apart}) == 4


def test_answer__comment__addresses_the_person() -> None:
    """The answer is a publication to one account that names the person in front."""
    account = make_account()
    interaction = new_interaction(account, make_notification(), NOON)

    answering, publication = answer(interaction, f"{ENTERPRISE}/publications/p", "Thanks!", account, NOON)

    assert answering.state is InteractionState.ANSWERING
    assert publication.plan[0].text == "@lina Thanks!"
    assert publication.interaction == interaction.name


@pytest.mark.parametrize(
    ("changes", "account", "text", "reason"),
    [
        ({"kind": InteractionKind.FAVOURITE}, make_account(), "Thanks!", "INTERACTION_NOT_ANSWERABLE"),
        ({"state": InteractionState.ANSWERING}, make_account(), "Thanks!", "INTERACTION_ANSWERED"),
        ({}, make_account(state=AccountState.REAUTH_REQUIRED), "Thanks!", "PLAN_HAS_PROBLEMS"),
        ({}, None, "Thanks!", "PLAN_HAS_PROBLEMS"),
        ({}, make_account(), "x" * 500, "PLAN_HAS_PROBLEMS"),
        ({}, make_account(), " ", "INVALID_ARGUMENT"),
    ],
)
def test_answer__impossible__is_refused(changes, account, text, reason) -> None:
    """Nothing is answered twice, or into the void."""
    interaction = replace(new_interaction(make_account(), make_notification(), NOON), **changes)

    with pytest.raises(ServiceError) as raised:
        answer(interaction, f"{ENTERPRISE}/publications/p", text, account, NOON)

    assert raised.value.reason == reason
