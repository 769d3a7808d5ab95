"""Rollout's settings: the only reader of the environment in this service."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import Port, ServiceSettings


class Settings(ServiceSettings):
    """`ROLLOUT_*`."""

    model_config = SettingsConfigDict(env_prefix="ROLLOUT_")

    look_seconds: float = Field(default=15, gt=0)
    """How often the guardrails of a stage are looked at, in seconds. They may be looked at as often as one likes."""
    audit_anchors: Path | None = None
    """
    The directory outside the database in which processes anchor the audit trail, each in files of its own; all processes
    and replicas may share it. Best where the database's administrators cannot write. None: nothing is anchored, and
    verifying the trail says so.
    """
    flagd_port: Port = 0
    """
    Where flagd's sync protocol is served, on the same host as gRPC, to everybody who can reach it: keep it on the private
    network. 0: not at all.
    """
