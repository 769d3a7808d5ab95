"""The gateway's settings, `GATEWAY_*`: the only place where it reads the environment."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import AmqpUrl, EnvironmentSettings, Port


class GatewaySettings(EnvironmentSettings):
    """What the gateway needs to know. Rates and counts are per process: with N processes divide by N."""

    model_config = SettingsConfigDict(env_prefix="GATEWAY_")
    shared: ClassVar[frozenset[str]] = frozenset(
        {"amqp_url", "log_level", "environment", "lame_duck_seconds"}
    )

    listen: str = "127.0.0.1:7400"
    """Where HTTP is served, as host:port."""
    public_url: str = "http://127.0.0.1:7400"
    """The URL under which clients reach the gateway; the issuer of its tokens. No slash at the end."""
    private_key: SecretStr
    """The Ed25519 key (PEM) that signs principals and access tokens. Mostly given as GATEWAY_PRIVATE_KEY_FILE."""
    public_keys: str = ""
    """Ed25519 public keys (PEM, one after another) that are accepted, and told to others, besides that of the private key: the
    one that signs next, and those that signed before. Mostly given as GATEWAY_PUBLIC_KEYS_FILE, the file that the services
    have as PRINCIPAL_PUBLIC_KEY_FILE. See docs/runbook.md."""
    amqp_url: AmqpUrl
    """The broker, from which snapshots and admissions come."""
    services: dict[str, str]
    """The services' gRPC addresses by name: GATEWAY_SERVICES='{"accounts": "127.0.0.1:7411", …}' or
    GATEWAY_SERVICES__ACCOUNTS=127.0.0.1:7411."""
    snapshot_file: Path | None = None
    """Where the last snapshot of flags is kept, and in a second file beside it the admissions: for a start without broker
    and rollout service."""
    stale_seconds: float = Field(default=60, gt=0)
    """How old knowledge may be before it is called stale, and before flags that say so (`failMode: CLOSED`) let nobody in."""
    metrics_port: Port = 7420
    """Where /metrics, /healthz and /readyz are served for operators. 0 takes a free port."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least level that is logged."""
    environment: str = "local"
    """The name of the installation, as `production`."""
    trusted_proxies: str = ""
    """The addresses of proxies whose X-Forwarded-For is believed, with commas between; `*` for any."""

    credential_rate: float = Field(default=500, gt=0)
    """Requests a second of one member, client or, without credentials, one address; bursts of twice that."""
    tenant_rate: float = Field(default=1000, gt=0)
    """Requests a second of one enterprise, over all of its members and clients; bursts of twice that."""
    tenant_concurrency: int = Field(default=256, gt=0)
    """Requests of one enterprise, or one address, that are in progress at the same time; streams count."""
    login_rate: float = Field(default=0.5, gt=0)
    """Tries a second to log in to one account or client, after a burst of 20."""
    login_address_rate: float = Field(default=5, gt=0)
    """Tries a second to log in from one address, after a burst of 200."""
    header_bytes: int = Field(default=32 * 1024, ge=1024)
    """The largest request line with headers."""

    usage_seconds: float = Field(default=5, gt=0)
    """How often is reported to analytics what enterprises have asked."""
    upload_seconds: float = Field(default=600, gt=0)
    """How long an upload may take where the method does not say."""
    stream_seconds: float = Field(default=300, gt=0)
    """The age at which a server stream ends where the method does not say."""
    heartbeat_seconds: float = Field(default=15, gt=0)
    """How often a silent server stream says that it is alive."""
    lame_duck_seconds: float = Field(default=0, ge=0, le=60)
    """
    How long the gateway goes on to take requests after SIGTERM while /readyz and /openz say 503 already: the time in
    which a balancer notices. Then it drains.
    """
    drain_seconds: int = Field(default=20, ge=0)
    """How long requests in progress may go on when the gateway takes no more."""

    @field_validator("public_url")
    @classmethod
    def _url(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")) or url.endswith("/"):
            raise ValueError("must be http(s)://host, without a slash at the end")
        return url

    @field_validator("listen")
    @classmethod
    def _host_and_port(cls, address: str) -> str:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 -- the last TCP port
            raise ValueError("must be host:port, as 127.0.0.1:7400")
        return address

    @property
    def host(self) -> str:
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])
