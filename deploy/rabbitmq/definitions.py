"""
The definitions: everything that the broker must know, in the form in which RabbitMQ imports it.

Exchanges, queues, bindings and policies come from `services.chassis.messaging.topology`, subscriptions from the
worker classes. A user is a service, the gateway, or the administrator:

=============  =========  ============================================================  ===========================
user           configure  write                                                         read
=============  =========  ============================================================  ===========================
<service>                 the events', dead letters' and delays' exchanges, with keys   its handlers' queues
                          that begin with its name
gateway        its own    its own queues (binding needs it)                             its own queues; events by
               queues                                                                   the keys of the two streams
administrator  all        all                                                           all
=============  =========  ============================================================  ===========================
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from gateway.snapshots import ADMISSIONS_KEY, QUEUE_PREFIX, SNAPSHOT_KEY
from services.chassis.messaging import topology

Definitions = dict[str, list[dict[str, Any]]]
"""RabbitMQ's own form: lists of objects under `users`, `queues` and so on."""

VHOST = "/"
GATEWAY = "gateway"

_NOTHING = "^$"
_HASHING = "rabbit_password_hashing_sha256"
_SALT_BYTES = 4


def user_names(workers: Iterable[type] | None = None) -> list[str]:
    """Who connects to the broker, the administrator aside: each service by its name, and the gateway."""
    return [*(_name(worker) for worker in _workers(workers)), GATEWAY]


def make_definitions(
    hashes: Mapping[str, str], administrator: str, workers: Iterable[type] | None = None
) -> Definitions:
    """
    What the broker must know.

    Args:
        hashes: the hashed password of each of `user_names` and of the administrator; see `hash_passwords`.
        administrator: the name of the user who may do everything.
        workers: the worker classes; by default those of all services.

    Raises:
        KeyError: a user has no password.

    """
    subscriptions = {_name(worker): topology.subscriptions(worker) for worker in _workers(workers)}
    needed = topology.needed_for(each for service in subscriptions.values() for each in service)
    rights = [_permission(administrator, ".*", ".*", ".*"), _gateway_permission()]
    served = "|".join(map(re.escape, (SNAPSHOT_KEY, ADMISSIONS_KEY)))
    keys = [_topic_permission(GATEWAY, topology.EVENTS, _NOTHING, f"^({served})$")]
    for service, subscribed in subscriptions.items():
        exchanges = topology.publishes_to(subscribed)
        rights.append(
            _permission(service, _NOTHING, _any_of(exchanges), _any_of(each.queue for each in subscribed))
        )
        # RabbitMQ lets a user publish with any key to a topic exchange for which nothing is said.
        keys += [_topic_permission(service, each, rf"^{service}\.", _NOTHING) for each in exchanges]
    return {
        "vhosts": [{"name": VHOST}],
        "users": [
            {
                "name": name,
                "password_hash": hashes[name],
                "hashing_algorithm": _HASHING,
                "tags": ["administrator"] if name == administrator else [],
            }
            for name in (administrator, GATEWAY, *subscriptions)
        ],
        "permissions": rights,
        "topic_permissions": keys,
        "exchanges": [
            {
                "name": each.name, "vhost": VHOST, "type": each.type, "durable": True, "auto_delete": False,
                "internal": False, "arguments": dict(each.arguments),
            }
            for each in needed.exchanges
        ],
        "queues": [
            {
                "name": each.name, "vhost": VHOST, "durable": True, "auto_delete": False,
                "arguments": dict(each.arguments),
            }
            for each in needed.queues
        ],
        "bindings": [
            {
                "source": each.exchange, "vhost": VHOST, "destination": each.queue, "destination_type": "queue",
                "routing_key": each.routing_key, "arguments": {},
            }
            for each in needed.bindings
        ],
        "policies": [
            {
                "name": each.name, "vhost": VHOST, "pattern": each.pattern, "apply-to": "queues",
                "priority": each.priority, "definition": dict(each.limits),
            }
            for each in topology.POLICIES
        ],
    }  # fmt: skip


def hash_passwords(passwords: Mapping[str, str], before: Mapping[str, Any]) -> dict[str, str]:
    """
    Passwords by user as RabbitMQ keeps them: salted SHA-256, which only long random passwords make safe.

    The hashes in the definitions `before` that are right stay as they are, so that nothing changes without reason.
    """
    known = {user["name"]: user["password_hash"] for user in before.get("users", [])}
    return {
        name: known[name] if name in known and _matches(password, known[name]) else _hash(password)
        for name, password in passwords.items()
    }


def _hash(password: str, salt: bytes | None = None) -> str:
    salt = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _matches(password: str, hashed: str) -> bool:
    return secrets.compare_digest(_hash(password, base64.b64decode(hashed)[:_SALT_BYTES]), hashed)


def _workers(given: Iterable[type] | None) -> list[type]:
    return topology.worker_classes() if given is None else list(given)


def _name(worker: type) -> str:
    name: str = getattr(worker, "name")  # noqa: B009 -- a class attribute that `type` does not declare
    return name


def _gateway_permission() -> dict[str, str]:
    own = f"^{re.escape(QUEUE_PREFIX)}"
    return _permission(GATEWAY, own, own, f"{own}|{_any_of([topology.EVENTS])}")


def _permission(user: str, configure: str, write: str, read: str) -> dict[str, str]:
    return {"user": user, "vhost": VHOST, "configure": configure, "write": write, "read": read}


def _topic_permission(user: str, exchange: str, write: str, read: str) -> dict[str, str]:
    return {"user": user, "vhost": VHOST, "exchange": exchange, "write": write, "read": read}


def _any_of(names: Iterable[str]) -> str:
    """A pattern for these names and no others."""
    escaped = "|".join(re.escape(name) for name in names)
    return f"^({escaped})$" if escaped else _NOTHING
