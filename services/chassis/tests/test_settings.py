"""Settings and where they come from."""

import pytest
from pydantic import ValidationError

from services.chassis.settings import ServiceSettings
from services.chassis.testing.rpc import new_keys


class PublishingSettings(ServiceSettings, env_prefix="PUBLISHING_"):
    """A service's settings."""

    batch: int = 10


@pytest.fixture
def environment(monkeypatch):
    """The least that a service needs."""
    monkeypatch.setenv("PUBLISHING_DATABASE_URL", "postgresql://app:s3cret@db/numerator")
    monkeypatch.setenv("AMQP_URL", "amqp://u:p@mq//")
    monkeypatch.setenv("PRINCIPAL_PUBLIC_KEY", new_keys().public)
    return monkeypatch


def test_settings__read_prefixed_and_shared_variables(environment):
    """Own fields need the prefix; shared ones are found without it, and with it when both are there."""
    environment.setenv("AMQP_URL", "amqp://shared/")
    assert PublishingSettings().amqp_url.get_secret_value() == "amqp://shared/"

    environment.setenv("PUBLISHING_AMQP_URL", "amqp://own/")
    environment.setenv("PUBLISHING_BATCH", "7")
    settings = PublishingSettings()

    assert settings.amqp_url.get_secret_value() == "amqp://own/"
    assert settings.batch == 7
    assert settings.grpc_address == "127.0.0.1:50051"


def test_settings__do_not_find_own_fields_without_prefix(environment):
    """A DATABASE_URL without prefix is not this service's: its role would be another's."""
    environment.delenv("PUBLISHING_DATABASE_URL")
    environment.setenv("DATABASE_URL", "postgresql://other@db/x")

    with pytest.raises(ValidationError):
        PublishingSettings()


def test_settings__read_secrets_from_files(environment, tmp_path):
    """`*_FILE` names a file that holds the value, for own and shared fields."""
    (tmp_path / "db").write_text("postgresql://from-file@db/x\n")
    (tmp_path / "key").write_text(new_keys().public)
    for name in ("PUBLISHING_DATABASE_URL", "PRINCIPAL_PUBLIC_KEY"):
        environment.delenv(name)
    environment.setenv("PUBLISHING_DATABASE_URL_FILE", str(tmp_path / "db"))
    environment.setenv("PRINCIPAL_PUBLIC_KEY_FILE", str(tmp_path / "key"))

    settings = PublishingSettings()

    assert settings.database_url.get_secret_value() == "postgresql://from-file@db/x"
    assert "BEGIN PUBLIC KEY" in settings.principal_public_key


def test_settings__take_a_path_as_the_key(environment, tmp_path):
    """The public key may be a path."""
    (tmp_path / "key").write_text(new_keys().public)
    environment.setenv("PRINCIPAL_PUBLIC_KEY", str(tmp_path / "key"))

    assert "BEGIN PUBLIC KEY" in PublishingSettings().principal_public_key


def test_settings__name_the_variable_and_the_fix_but_no_value(environment):
    """A wrong environment ends the process with one line per variable, and shows no value."""
    environment.setenv("PUBLISHING_DATABASE_URL", "mysql://u:hunter2@db")
    environment.setenv("PUBLISHING_GRPC_ADDRESS", "7411")
    environment.setenv("PUBLISHING_METRICS_PORT", "99999")

    with pytest.raises(SystemExit) as ended:
        PublishingSettings.load()

    text = str(ended.value)
    assert "PUBLISHING_DATABASE_URL: Value error, must begin with postgresql://" in text
    assert "PUBLISHING_GRPC_ADDRESS: Value error, must be host:port" in text
    assert "PUBLISHING_METRICS_PORT" in text
    assert "hunter2" not in text


def test_settings__name_a_file_that_cannot_be_read(environment):
    """A secret's file that is missing ends the process and is named."""
    environment.delenv("PUBLISHING_DATABASE_URL")
    environment.setenv("PUBLISHING_DATABASE_URL_FILE", "/nowhere/db")

    with pytest.raises(SystemExit, match="PUBLISHING_DATABASE_URL_FILE: cannot read /nowhere/db"):
        PublishingSettings.load()


def test_settings__are_frozen_and_hide_secrets(environment):
    """Settings cannot be changed, and their text shows no secret."""
    settings = PublishingSettings()

    assert "s3cret" not in repr(settings)
    with pytest.raises(ValidationError):
        settings.batch = 3


def test_settings__turn_the_tenant_check_off_for_tests_but_not_in_production(environment):
    """The check of tenants is on unless it is turned off, which production refuses, naming what is wrong."""
    assert PublishingSettings().tenant_check

    environment.setenv("PUBLISHING_TENANT_CHECK", "false")
    assert not PublishingSettings().tenant_check

    environment.setenv("ENVIRONMENT", "production")
    with pytest.raises(SystemExit, match="tenant_check must be true in production"):
        PublishingSettings.load()
