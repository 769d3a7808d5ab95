"""Accounts' settings: the only reader of the environment in this service."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from services.accounts.model import normal_server
from services.accounts.vault import MasterKey, MasterKeys
from services.chassis.errors import ServiceError
from services.chassis.names import NamePattern
from services.chassis.outgoing_rules import OutgoingRules
from services.chassis.sealing import load_public_key
from services.chassis.settings import ServiceSettings

_OPERATOR_NAME = NamePattern("clients/{client}")
_TAKEN = frozenset({"operator", "network"})


class WeiboApp(BaseModel):
    """An app that was registered with Weibo by hand: its App Key and App Secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    client_id: str = Field(min_length=1, max_length=100)
    client_secret: SecretStr = Field(min_length=1)


class Settings(ServiceSettings):
    """`ACCOUNTS_*`. Secrets and keys may be given as `*_FILE`, the path of a file."""

    model_config = SettingsConfigDict(env_prefix="ACCOUNTS_")

    master_key: SecretStr
    """
    Wraps the enterprises' data keys: 32 random bytes in base64 (either alphabet). Lost, all tokens are.

    While it changes there are several, each on a line: the first wraps, the others only open what they have wrapped.
    """
    publishing_public_key: str
    """Publishing's public key, to which tokens are sealed: X25519, PEM."""
    operator_secret: SecretStr = Field(min_length=16)
    """The secret of the platform's staff, OAuth2 client `operator`."""
    operators: Mapping[str, Annotated[SecretStr, Field(min_length=16)]] = Field(default_factory=dict)
    """Further staff, each an OAuth2 client with a secret, as `{"reviewer": "…"}`: nobody approves their own changes."""
    network_secret: SecretStr = Field(min_length=16)
    """The secret of the network's own systems, OAuth2 client `network`."""
    network_servers: frozenset[str]
    """The servers on which accounts can be bound, as `["https://social.example"]`. We talk to no other."""
    weibo_apps: Mapping[str, WeiboApp] = Field(default_factory=dict)
    """
    What each server of Weibo knows us as, by its base URL: `{"https://api.weibo.com": {"client_id": "…", "client_secret": "…"}}`.
    An app is registered there by hand, with `binding_redirect_uri`.
    """
    binding_redirect_uri: str
    """
    Where a network sends the browser of an account's holder back to: the gateway's page `/bound`. Invitation links have its
    origin, and so has where identity providers send browsers back to.
    """

    audit_anchors: Path | None = None
    """
    The directory outside the database in which workers anchor the audit trail, each in files of its own. Best where those who run
    the database cannot write. None: nothing is anchored, and verifying the trail says so.
    """

    webhook_private_networks: tuple[IPvAnyNetwork, ...] = ()
    """Networks that are not public and to which webhooks may go all the same, as `["10.1.0.0/16"]`."""
    webhook_plain_http: bool = False
    """Whether webhooks may go to `http` URLs: for tests and demonstrations on one machine."""
    webhook_any_port: bool = False
    """Whether webhooks may go to other ports than 80 and 443: for tests and demonstrations on one machine."""
    webhook_concurrency: Annotated[int, Field(ge=1, le=5000)] = 400
    """To how many endpoints that do not fail a sender of webhooks posts at once."""

    oidc_private_networks: tuple[IPvAnyNetwork, ...] = ()
    """Networks that are not public and where identity providers may be all the same, as `["10.1.0.0/16"]`."""
    oidc_plain_http: bool = False
    """Whether identity providers may have `http` URLs: for tests and demonstrations on one machine."""
    oidc_any_port: bool = False
    """Whether identity providers may have other ports than 80 and 443."""

    @field_validator("master_key")
    @classmethod
    def _is_key(cls, key: SecretStr) -> SecretStr:
        _master_keys(key)
        return key

    @field_validator("publishing_public_key")
    @classmethod
    def _is_public_key(cls, pem: str) -> str:
        load_public_key(pem)
        return pem

    @field_validator("operators")
    @classmethod
    def _are_names(cls, operators: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
        for name in operators:
            if name in _TAKEN or not _OPERATOR_NAME.matches(f"clients/{name}"):
                raise ValueError("names are of a-z, 0-9 and hyphen, and neither `operator` nor `network`")
        return operators

    @field_validator("network_servers")
    @classmethod
    def _are_servers(cls, servers: frozenset[str]) -> frozenset[str]:
        try:
            return frozenset(normal_server(server) for server in servers)
        except ServiceError as error:
            raise ValueError(error.message) from None

    @field_validator("weibo_apps")
    @classmethod
    def _are_apps(cls, apps: Mapping[str, WeiboApp]) -> Mapping[str, WeiboApp]:
        try:
            return {normal_server(server): app for server, app in apps.items()}
        except ServiceError as error:
            raise ValueError(error.message) from None

    @property
    def webhook_rules(self) -> OutgoingRules:
        """Where webhooks may go."""
        return OutgoingRules(
            private_networks=self.webhook_private_networks,
            plain_http=self.webhook_plain_http,
            any_port=self.webhook_any_port,
        )

    @property
    def oidc_rules(self) -> OutgoingRules:
        """Where identity providers may be."""
        return OutgoingRules(
            private_networks=self.oidc_private_networks,
            plain_http=self.oidc_plain_http,
            any_port=self.oidc_any_port,
        )

    def open_master_keys(self) -> MasterKeys:
        """The master keys, ready for use."""
        return _master_keys(self.master_key)


def _master_keys(lines: SecretStr) -> MasterKeys:
    texts = lines.get_secret_value().translate(str.maketrans("+/", "-_")).split()
    try:
        return MasterKeys(
            *(MasterKey(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))) for text in texts)
        )
    # TypeError: there is none.
    except (ValueError, TypeError):
        raise ValueError(
            "must be 32 random bytes in base64, as `openssl rand -base64 32` makes them; several on lines of their own"
        ) from None
