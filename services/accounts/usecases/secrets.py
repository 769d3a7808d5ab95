"""The enterprises' secrets: how they are sealed and opened. All that opens an account's token goes through here."""

from pydantic import SecretStr

from services.accounts import metrics, store
from services.accounts.store import secrets
from services.accounts.vault import DataKey, Kms
from services.chassis.database import Transaction
from services.chassis.errors import Kind, ServiceError
from services.chassis.names import enterprise_of

TOKENS = frozenset({"access_token", "refresh_token"})
"""The fields that are an account's tokens."""


class Vault:
    """Seals and opens secrets of enterprises, each by its enterprise's data key. One instance serves all threads."""

    def __init__(self, kms: Kms) -> None:
        self.kms = kms

    def seal(self, tx: Transaction, secret: SecretStr, resource: str, field: str) -> secrets.Sealed:
        """
        `secret`, sealed for one field of one resource, to be kept in this transaction.

        Keep it in a table of `store.secrets.SEALED_TABLES`, or it will be lost when keys rotate. Secrets of one row are sealed
        in one transaction, and so with one version of the key.
        """
        key = self.newest_key(tx, enterprise_of(resource) or "")
        return secrets.Sealed(key.version, key.seal(secret, resource, field))

    def open(self, tx: Transaction, sealed: secrets.Sealed, resource: str, field: str) -> SecretStr:
        """
        What was sealed for this field of this resource.

        The row must have been read with a lock (`for share` will do), or a rotation may delete the key in between. For tokens
        there is `open_token`. Raises VaultError, or FAILED_PRECONDITION (`SECRETS_SHREDDED`).
        """
        if field in TOKENS:
            raise ValueError("tokens are opened by open_token, which writes down who read them, and why")
        return self._open(tx, sealed, resource, field)

    def open_token(
        self,
        tx: Transaction,
        sealed: secrets.Sealed,
        account: str,
        field: str = "access_token",
        *,
        actor: str,
        purpose: str,
    ) -> SecretStr:
        """
        An account's token, for a purpose such as `revocation`; who opened it is written to the audit trail.

        Needs the row's lock and raises as `open` does.
        """
        store.audit(
            tx,
            enterprise=enterprise_of(account) or "",
            actor=actor,
            action="token.read",
            subject=account,
            field=field,
            purpose=purpose,
        )
        metrics.token_read(tx, purpose)
        return self._open(tx, sealed, account, field)

    def _open(self, tx: Transaction, sealed: secrets.Sealed, resource: str, field: str) -> SecretStr:
        enterprise = enterprise_of(resource) or ""
        kept = secrets.get_data_key(tx, enterprise, sealed.key_version)
        return self.unwrap(enterprise, kept).open(sealed.sealed, resource, field)

    def unwrap(self, enterprise: str, kept: secrets.WrappedKey) -> DataKey:
        """A data key, ready for use. Raises VaultError, or FAILED_PRECONDITION (`SECRETS_SHREDDED`)."""
        if kept.wrapped is None:
            raise ServiceError(
                Kind.FAILED_PRECONDITION,
                "SECRETS_SHREDDED",
                f"the secrets of {enterprise} were shredded: set them anew",
                metadata={"enterprise": enterprise},
            )
        return DataKey.unwrap(self.kms, kept.master_key, kept.wrapped, enterprise, kept.version)

    def new_key(self, tx: Transaction, enterprise: str, version: int) -> DataKey | None:
        """The enterprise's data key of this version, made and kept; None when another transaction was first."""
        key, wrapped = DataKey.new(self.kms, enterprise, version)
        kept = secrets.WrappedKey(version, self.kms.key_id, wrapped)
        return key if secrets.insert_data_key(tx, enterprise, kept) else None

    def newest_key(self, tx: Transaction, enterprise: str) -> DataKey:
        """
        The enterprise's key for new secrets, until this transaction ends; made when it has none yet, or its last was shredded.

        For what has many parts, or is no text; `seal` is for the rest, and says where such things are to be kept.
        """
        kept = secrets.newest_data_key(tx, enterprise)
        if kept is not None and kept.wrapped is not None:
            return self.unwrap(enterprise, kept)
        version = kept.version + 1 if kept else 1
        fresh = self.new_key(tx, enterprise, version)
        return fresh or self.unwrap(enterprise, secrets.get_data_key(tx, enterprise, version))
