"""What a person may set for the platform in containers: the variables that docker-compose.yml asks for."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from deploy.local.stubs import ROOT

Port = Annotated[int, Field(ge=1, le=65535)]


class ComposeSettings(BaseSettings):
    """`NUMERATOR_*`. Any number of projects can run beside each other, on ports of their own."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True)

    numerator_project: str = "numerator"
    """Compose's name for all of it; part of the names of containers, networks and volumes."""
    numerator_image: str = "numerator:dev"
    """What runs. `make image` builds it."""
    numerator_port: Port = 8080
    """Where the gateways answer on this machine."""
    numerator_sandbox_port: Port = 7401
    """Where the sandbox network answers on this machine."""
    numerator_prometheus_port: Port = 9090
    """Where Prometheus answers on this machine."""
    numerator_dashboards_port: Port = 3000
    """Where the dashboards are shown on this machine."""
    numerator_otlp_port: Port = 4318
    """Where traces can be looked at on this machine."""
    numerator_interactions_seconds: Annotated[float, Field(gt=0)] = 1
    """How often each account's notifications are read. The sandbox network bears it; those far away want 30."""
    numerator_window_seconds: Annotated[int, Field(ge=1, le=3600)] = 5
    """The windows in which guardrails' numbers are counted. So short a rollout is stopped in seconds; many companies want 60."""
    numerator_look_seconds: Annotated[float, Field(gt=0)] = 2
    """How often guardrails are looked at. More often than windows end, or some are not seen."""
    numerator_webhook_private_networks: str = '["172.16.0.0/12", "192.168.0.0/16"]'
    """Networks that are not public and to which webhooks go all the same (JSON): those of engines, where the story listens."""
    numerator_webhook_plain_http: bool = True
    """Whether webhooks go to `http` URLs, as the story's is."""
    numerator_webhook_any_port: bool = True
    """Whether webhooks go to other ports than 443 and 80."""
    otel_exporter_otlp_endpoint: str = "http://otlp:4318"
    """Where processes send traces and logs; the stack's own receiver by default."""
    numerator_secrets: Path = ROOT / ".local" / "compose" / "secrets"
    """The folder with the files under `secrets:`."""

    @property
    def sandbox_url(self) -> str:
        """The sandbox network's base URL, the same inside as on this machine."""
        return f"http://sandbox.localhost:{self.numerator_sandbox_port}"

    def own_variables(self) -> dict[str, str]:
        """These settings, and what follows from them, as docker-compose.yml asks for it."""
        return {
            "NUMERATOR_PUBLIC_URL": f"http://localhost:{self.numerator_port}",
            "NUMERATOR_NETWORK_SERVERS": f'["{self.sandbox_url}"]',
            **{name.upper(): str(value) for name, value in self.model_dump().items()},
        }

    def variables(self) -> dict[str, str]:
        """The environment of `docker compose`: the caller's, and these settings."""
        return {**os.environ, **self.own_variables()}  # noqa: TID251 -- where the engine is, and what docker itself reads
