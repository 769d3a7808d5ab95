"""Crypto-shredding: what an enterprise's keys have sealed can never be opened again."""

import grpc
import pytest
from numerator.accounts.v1 import accounts_pb2, vault_pb2_grpc
from numerator.accounts.v1 import vault_pb2 as pb
from numerator.events.v1 import accounts_pb2 as events
from psycopg.errors import CheckViolation

from services.accounts.tests.vault_plants import keep_token, read_token
from services.accounts.tests.world import Company, World, field_reasons_of, reason_of
from services.accounts.usecases.rotation import rotate_data_keys
from services.accounts.usecases.secrets import Vault
from services.chassis.database import PLATFORM
from services.chassis.testing.rpc import operator


def shred(world: World, company: Company, confirmation: str | None = None) -> pb.ShredSecretsResponse:
    """Shred, as an operator."""
    stub = vault_pb2_grpc.VaultServiceStub(world.running.as_(operator()))
    confirmation = company.name if confirmation is None else confirmation
    return stub.ShredSecrets(
        pb.ShredSecretsRequest(name=company.name, confirmation=confirmation, reason="contract ended")
    )


def test_shred__destroys_keys_and_unbinds_accounts(world: World) -> None:
    """Key and tokens are gone, all is told and audited, and another enterprise notices nothing."""
    company, other = world.register(), world.register(email="owner@kunlun.example")
    names = [world.bind(company, handle).name for handle in ("brand", "dealer")]
    spared = world.bind(other, "spared")

    shredded = shred(world, company)

    assert (shredded.shredded_key_count, shredded.unbound_account_count) == (1, 2)
    (key,) = world.rows("data_keys", company.name)
    assert key["wrapped"] is None
    assert key["shred_time"] is not None
    assert not world.rows("tokens", company.name)
    assert {row["state"] for row in world.rows("accounts", company.name)} == {"REVOKED"}
    assert [told.account for told in world.told(events.AccountUnbound)] == sorted(names)
    assert {row["enterprise"] for row in world.rows("outbox") if row["subject"] in names} == {company.name}
    (audited,) = world.audited("enterprise.shredded")
    assert (audited["enterprise"], audited["detail"]["reason"]) == (company.name, "contract ended")
    assert audited["actor"] == operator().subject
    with world.database.transaction(PLATFORM) as tx:
        assert read_token(tx, Vault(world.kms), spared.name).startswith("canary-token-spared")


def test_shred__what_was_sealed_says_so_and_can_be_set_anew(world: World) -> None:
    """A binding under way is refused with the reason; a new one works, under a new version of the key; keys rotate on."""
    company = world.register()
    account = world.bind(company, "brand")
    pending = world.start(company)
    with world.database.transaction(PLATFORM) as tx:
        keep_token(tx, Vault(world.kms), account.name, "canary-kept")
        kept = tx.execute("select * from tokens").fetchall()
    shred(world, company)

    with pytest.raises(grpc.RpcError) as refused:
        world.complete(company, *world.network.agree(pending.authorization_url, "dealer"))
    assert reason_of(refused.value) == "SECRETS_SHREDDED"
    # A token that comes back from a backup, without its key.
    with world.database.transaction(PLATFORM) as tx:
        for row in kept:
            tx.execute(
                "insert into tokens (enterprise, account, client_id, key_version, sealed, update_time) values (%s, %s, %s, %s, %s, %s)",
                [
                    row[name]
                    for name in ("enterprise", "account", "client_id", "key_version", "sealed", "update_time")
                ],
            )
    with pytest.raises(Exception, match="were shredded"), world.database.transaction(PLATFORM) as tx:
        read_token(tx, Vault(world.kms), account.name)

    assert world.bind(company, "brand").state == accounts_pb2.Account.ACTIVE
    assert [row["version"] for row in world.rows("data_keys", company.name)] == [1, 2]
    rotated = rotate_data_keys(world.database, Vault(world.kms))
    assert not rotated.failures
    with world.database.transaction(PLATFORM) as tx:
        assert read_token(tx, Vault(world.kms), account.name).startswith("canary-token-brand")


def test_shred__again_changes_nothing(world: World) -> None:
    """It goes on where it was, which is the end."""
    company = world.register()
    world.bind(company, "brand")
    shred(world, company)
    again = shred(world, company)
    assert (again.shredded_key_count, again.unbound_account_count) == (0, 0)
    assert len(world.told(events.AccountUnbound)) == 1


def test_shred__needs_the_name_twice_and_an_operator(world: World) -> None:
    """Otherwise nothing happens."""
    company = world.register()
    world.bind(company, "brand")
    with pytest.raises(grpc.RpcError) as refused:
        shred(world, company, confirmation="enterprises/other")
    assert field_reasons_of(refused.value) == {"confirmation": "CONFIRMATION_MISMATCH"}
    with pytest.raises(grpc.RpcError) as refused:
        vault_pb2_grpc.VaultServiceStub(world.running.as_(company.owner)).ShredSecrets(
            pb.ShredSecretsRequest(name=company.name, confirmation=company.name, reason="mine")
        )
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert all(row["wrapped"] is not None for row in world.rows("data_keys"))


def test_data_key__is_wrapped_or_shredded(world: World) -> None:
    """The database keeps no key without knowing since when it is none."""
    world.bind(world.register(), "brand")
    with pytest.raises(CheckViolation), world.database.transaction(PLATFORM) as tx:
        tx.execute("update data_keys set wrapped = null")
