"""
Where the environment is read. Each service has one subclass of `ServiceSettings`; nothing else reads
variables.

A field `database_url` of a class with the prefix `ACCOUNTS_` is looked for in `ACCOUNTS_DATABASE_URL`, then
in the file named by `ACCOUNTS_DATABASE_URL_FILE`. The fields in `shared` are also looked for without the
prefix.
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict


def _postgres(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(("postgresql://", "postgres://")):
        raise ValueError("must begin with postgresql://, as postgresql://user:password@host:5432/database")
    return url


def _amqp(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(("amqp://", "amqps://")):
        raise ValueError("must begin with amqp:// or amqps://, as amqp://user:password@host:5672/vhost")
    return url


def _pem(text: str) -> str:
    if "-----BEGIN" in text:
        return text
    try:
        return Path(text).read_text()
    except OSError as error:
        raise ValueError(f"must be PEM text or the path of a PEM file ({error.strerror})") from None


PostgresUrl = Annotated[SecretStr, AfterValidator(_postgres)]
AmqpUrl = Annotated[SecretStr, AfterValidator(_amqp)]
Port = Annotated[int, Field(ge=0, le=65535)]


class _Environment(EnvSettingsSource):
    """
    Environment variables, with `*_FILE` for secrets that are mounted as files, and names shared by all
    services.
    """

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value, key, is_complex = super().get_field_value(field, field_name)
        shared: frozenset[str] = getattr(self.settings_cls, "shared", frozenset())
        candidates = [
            f"{self.env_prefix}{field_name}".lower(),
            *([field_name] if field_name in shared else []),
        ]
        for name in candidates:
            if value is None:
                value = self.env_vars.get(name)
            path = self.env_vars.get(f"{name}_file")
            if value is None and path:
                try:
                    value = Path(path).read_text().strip()
                except OSError as error:
                    raise SystemExit(f"{name.upper()}_FILE: cannot read {path}: {error.strerror}") from None
        return value, key, is_complex


class EnvironmentSettings(BaseSettings):
    """Settings from the environment. Frozen; errors never repeat a value, because it may be a secret."""

    model_config = SettingsConfigDict(
        frozen=True, env_nested_delimiter="__", hide_input_in_errors=True, env_ignore_empty=True
    )

    shared: ClassVar[frozenset[str]] = frozenset()
    """The fields that are also found without the prefix."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- pydantic passes these by name
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _Environment(settings_cls)

    @classmethod
    def load(cls) -> Self:
        """Read the environment. Ends the process with one line per wrong variable, instead of a traceback."""
        try:
            return cls()
        except ValidationError as error:
            prefix = str(cls.model_config.get("env_prefix", ""))
            lines = [
                f"  {prefix}{'__'.join(str(part) for part in each['loc'])}".upper() + f": {each['msg']}"
                for each in error.errors(include_input=False, include_url=False)
            ]
            raise SystemExit("\n".join(["the settings are wrong:", *lines])) from None


class ServiceSettings(EnvironmentSettings):
    """What every service's processes need to know. A service subclasses it with `env_prefix="<SERVICE>_"`."""

    shared: ClassVar[frozenset[str]] = frozenset(
        {
            "database_admin_url",
            "amqp_url",
            "principal_public_key",
            "log_level",
            "environment",
            "lame_duck_seconds",
            "connection_age_seconds",
        }
    )

    database_url: PostgresUrl
    """The service's database, under its application role (which owns nothing)."""
    database_admin_url: PostgresUrl | None = None
    """The same database under a role that may create roles and schemas. Only `migrate` needs it."""
    amqp_url: AmqpUrl
    """The broker."""
    grpc_address: str = "127.0.0.1:50051"
    """Where the api process listens, as host:port. Port 0 takes a free one."""
    metrics_port: Port = 9464
    """Where /metrics, /healthz and /readyz are served. 0 takes a free port."""
    lame_duck_seconds: float = Field(default=0.5, ge=0, le=10)
    """How long a stopping api process goes on to take calls after it has told its callers that it closes."""
    connection_age_seconds: float = Field(default=30, ge=0)
    """The age at which a connection is replaced by a new one, so that callers find new replicas; 0: never."""
    principal_public_key: str
    """The gateway's public key or keys (two while they rotate), as PEM text or as a path."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least level that is logged."""
    environment: str = "local"
    """The name of the installation, as `production`; labels telemetry."""
    tenant_check: bool = True
    """
    Whether a call that names another enterprise's resource is refused before its handler runs. False leaves it to
    row-level security alone; for the tests that prove that it would hold.
    """

    _read_key = field_validator("principal_public_key")(_pem)

    @field_validator("grpc_address")
    @classmethod
    def _host_and_port(cls, address: str) -> str:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:  # noqa: PLR2004 -- the last TCP port
            raise ValueError("must be host:port, as 127.0.0.1:7411")
        return address

    @model_validator(mode="after")
    def _checks_tenants_in_production(self) -> Self:
        if not self.tenant_check and self.environment == "production":
            raise ValueError("tenant_check must be true in production")
        return self


class TelemetrySettings(EnvironmentSettings):
    """
    The standard OpenTelemetry variables that decide what we start. The SDK reads the others (`OTEL_*`)
    itself.
    """

    otel_exporter_otlp_endpoint: str | None = None
    """The collector, as http://127.0.0.1:4318. None: nothing is exported, `/metrics` only."""
    environment: str = "local"
    """The name of the installation; the resource attribute deployment.environment.name."""
