"""What is rendered, before any broker sees it."""

import json
import re
from pathlib import Path

import pytest
from google.protobuf import message_factory
from numerator.events.v1 import (
    accounts_pb2,
    placement_pb2,
    publishing_pb2,
    rollout_pb2,
    targeting_pb2,
)
from typer.testing import CliRunner

from deploy.local.programs import SERVICES
from deploy.rabbitmq import __main__ as command
from deploy.rabbitmq.definitions import hash_passwords, make_definitions, user_names
from deploy.rabbitmq.drift import Drift, differences
from services.chassis.events import event_type
from services.chassis.messaging import topology
from services.chassis.tests.messaging.sample import Worker as SampleWorker

HASHES = dict.fromkeys((*SERVICES, "gateway", "boss", "sample"), "hash")


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The files from which `render` takes passwords."""
    for user in (*SERVICES, "gateway"):
        (tmp_path / f"{user}-amqp-url").write_text(f"amqp://{user}:p%40ss-{user}@broker:5672/%2F\n")
    (tmp_path / "rabbitmq-management-url").write_text("http://boss:hush@broker:15672")
    return tmp_path


def render(secrets: Path) -> str:
    to = secrets / "definitions"
    done = CliRunner().invoke(command.app, ["render", "--secrets", str(secrets), "--to", str(to)])
    assert done.exit_code == 0, done.output
    return to.read_text()


def test_user_names__all_services_and_the_gateway() -> None:
    """Whoever has a worker has a user, without an edit here."""
    assert sorted(user_names()) == sorted([*SERVICES, "gateway"])
    assert user_names([SampleWorker]) == ["sample", "gateway"]


def test_definitions__a_service_more_is_a_class_more() -> None:
    """A new worker brings user, rights, queues and bindings, and changes nothing that the others have."""
    before = make_definitions(HASHES, "boss")
    after = make_definitions(HASHES, "boss", [*topology.worker_classes(), SampleWorker])

    more = differences(after, before)

    assert {each.drift for each in more} == {Drift.MISSING}
    assert {each.name for each in more if each.kind in {"users", "queues"}} == {
        "sample", "sample.on_bound", "sample.on_bound.dead", "sample.on_unbound", "sample.on_unbound.dead",
    }  # fmt: skip


def test_definitions__every_queue_has_its_limits() -> None:
    """Of the policies that fit a queue the strongest is the one that is meant for its kind."""
    limits = {}
    for queue in make_definitions(HASHES, "boss")["queues"]:
        fitting = [each for each in topology.POLICIES if re.search(each.pattern, queue["name"])]
        strongest = max(fitting, key=lambda each: each.priority)
        assert [each.priority for each in fitting].count(strongest.priority) == 1
        limits[queue["name"]] = strongest.name

    assert limits.pop("numerator.unrouted") == "unrouted"
    for name, policy in limits.items():
        kind = (
            "delays"
            if name.startswith("numerator.delay.")
            else "dead-letters"
            if name.endswith(".dead")
            else "handlers"
        )
        assert policy == kind, name


@pytest.mark.parametrize("module", [accounts_pb2, placement_pb2, publishing_pb2, rollout_pb2, targeting_pb2])
def test_events__are_named_by_who_tells_them(module) -> None:
    """A type begins with the name of its service, or the broker would not let the service tell it."""
    service = Path(module.DESCRIPTOR.name).stem
    types = [
        event_type(message_factory.GetMessageClass(descriptor))
        for descriptor in module.DESCRIPTOR.message_types_by_name.values()
        if descriptor.GetOptions().ListFields()
    ]
    assert types
    assert [each for each in types if not each.startswith(f"{service}.")] == []


def test_hash_passwords__keeps_what_is_right() -> None:
    """Rendering again changes no hash, but for the password that was changed; equal passwords look different."""
    first = hash_passwords({"a": "x", "b": "x"}, {})
    users = {"users": [{"name": name, "password_hash": hashed} for name, hashed in first.items()]}

    again = hash_passwords({"a": "x", "b": "y", "c": "z"}, users)

    assert first["a"] != first["b"]
    assert again["a"] == first["a"]
    assert again["b"] != first["b"]
    assert "c" in again


def test_render__twice_is_the_same(secrets: Path) -> None:
    """What was rendered stays byte for byte, and holds no password."""
    rendered = render(secrets)

    assert render(secrets) == rendered
    assert "hush" not in rendered
    assert "p@ss" not in rendered
    users = {user["name"]: user["tags"] for user in json.loads(rendered)["users"]}
    assert users == {"boss": ["administrator"], **{name: [] for name in (*SERVICES, "gateway")}}


def test_render__a_file_is_missing(secrets: Path) -> None:
    """It says which."""
    (secrets / "placement-amqp-url").unlink()

    done = CliRunner().invoke(command.app, ["render", "--secrets", str(secrets), "--to", str(secrets / "x")])

    assert done.exit_code == 1
    assert "placement-amqp-url: No such file" in str(done.exception or done.output)
