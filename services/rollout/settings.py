"""Rollout's settings: the only reader of the environment in this service."""

from pathlib import Path

from pydantic_settings import SettingsConfigDict

from services.chassis.settings import ServiceSettings


class Settings(ServiceSettings):
    """`ROLLOUT_*`."""

    model_config = SettingsConfigDict(env_prefix="ROLLOUT_")

    audit_anchors: Path | None = None
    """
    The directory outside the database in which processes anchor the audit trail, each in files of its own; all processes
    and replicas may share it. Best where the database's administrators cannot write. None: nothing is anchored, and
    verifying the trail says so.
    """
