"""Lists of accounts by all filters at once, held to a plain reference."""

import random
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.accounts.v1 import health_pb2

from services.accounts import store
from services.accounts.model import Account, AccountState, Profile
from services.accounts.model.health import EXPIRES_SOON, MEASURED, Health, measure
from services.accounts.store import health as health_rows
from services.accounts.tests.world import Company, World
from services.chassis.database import PLATFORM, Transaction

HOUR = timedelta(hours=1)
LABELS = ("brand", "dealer")


def plant(tx: Transaction, company: Company, made: random.Random, number: int) -> None:
    """An account in some state, with some token's end, some labels and some deliveries; often on the edge of what counts."""
    name = f"{company.name}/accounts/a{number}"
    network = made.choice(("mastodon", "weibo"))
    expires = made.choice((None, tx.now - HOUR, tx.now, tx.now + EXPIRES_SOON, tx.now + EXPIRES_SOON + HOUR))
    # Several in one moment, so that pages are cut between equal times, too.
    bound = tx.now - timedelta(days=made.randrange(5))
    account = Account(
        name,
        network,
        f"https://{network}.example",
        Profile(f"id-{number}", f"h{number}", "Name", network, "1"),
        tuple(sorted(made.sample(LABELS, made.randrange(3)))),
        create_time=bound,
        update_time=bound,
        authorize_time=bound,
        state=made.choice(tuple(AccountState)),
        token_expire_time=expires,
    )
    store.save_account(tx, account)
    for ago in made.sample((timedelta(0), HOUR, MEASURED - HOUR, MEASURED, MEASURED + HOUR), 3):
        for _ in range(made.randrange(4)):
            health_rows.count_delivery(tx, name, tx.now - ago, failed=made.random() < 0.6)


def expected(tx: Transaction, company: Company, wanted: dict[str, Any], now: datetime) -> list[str]:
    """The names that all filters let through, in the order of a list."""
    found = store.list_accounts(tx, company.name, after=store.BEGINNING, limit=500)
    hours = health_rows.hours_of(tx, company.name, [each.name for each in found], now - MEASURED)

    def fits(account: Account) -> bool:
        seen = {
            "state": account.state,
            "network": account.network,
            "health": measure(account, hours[account.name], now).health,
            "label": wanted["label"] if wanted.get("label") in account.labels else None,
        }
        return all(seen[key] == value for key, value in wanted.items())

    return [each.name for each in found if fits(each)]


@pytest.mark.parametrize("seed", range(3))
def test_list_accounts__by_any_filters_and_pages(world: World, seed: int) -> None:
    """What the database finds is what the model says, by any filters together, in pages of any size, each account once."""
    made = random.Random(seed)
    company = world.register()
    with world.database.transaction(PLATFORM) as tx:
        for number in range(80):
            plant(tx, company, made, number)
        nonempty = 0
        for health in (None, *Health):
            for _ in range(12):
                chosen = {
                    "state": made.choice((None, None, *AccountState)),
                    "network": made.choice((None, None, "mastodon", "weibo")),
                    "label": made.choice((None, None, *LABELS)),
                    "health": health,
                }
                wanted = {key: value for key, value in chosen.items() if value is not None}
                size, after, found = made.randint(1, 30), store.BEGINNING, list[Account]()
                while page := store.list_accounts(tx, company.name, **wanted, after=after, limit=size):
                    found += page
                    after = (page[-1].create_time, page[-1].name)
                assert [each.name for each in found] == expected(tx, company, wanted, tx.now), wanted
                nonempty += bool(found) and health is not None
        assert nonempty > 20


def test_list_accounts__by_health_pages(world: World) -> None:
    """Over gRPC: the pages of a filtered list are full but the last, and a token holds for its own filter only."""
    company = world.register()
    bound = [world.bind(company, f"h{number}") for number in range(6)]
    with world.database.transaction(PLATFORM) as tx:
        for account in bound[::2] + bound[1:2]:
            for _ in range(4):
                health_rows.count_delivery(tx, account.name, tx.now, failed=True)
    owner, sizes, seen, token = world.as_(company.owner), list[int](), list[str](), ""
    while True:
        page = owner.ListAccounts(
            pb.ListAccountsRequest(
                parent=company.name, health=health_pb2.AccountHealth.FAILING, page_size=3, page_token=token
            )
        )
        sizes.append(len(page.accounts))
        seen += [each.handle for each in page.accounts]
        if not (token := page.next_page_token):
            break
    assert sizes == [3, 1]
    assert sorted(seen) == ["h0", "h1", "h2", "h4"]
    assert len(set(seen)) == len(seen)
    fine = owner.ListAccounts(
        pb.ListAccountsRequest(parent=company.name, health=health_pb2.AccountHealth.OK)
    ).accounts
    assert {each.handle for each in fine} == {"h3", "h5"}
    assert all(
        (first.create_time.ToNanoseconds(), first.name) < (second.create_time.ToNanoseconds(), second.name)
        for first, second in pairwise(fine)
    )
