"""
A service's own PostgreSQL schema: transactions under row-level security, outbox and inbox, idempotent
requests, migrations, and following what another process of the same service wrote.

Works on threads (api processes), on eventlet's green threads (workers; their launcher sets
`PSYCOPG_WAIT_FUNC=wait_selector`) and from asyncio by `asyncio.to_thread`. Imports neither grpc nor nameko.

Rules for those who write SQL:
- A tenant table has `enterprise text not null` in every unique key, and its migration calls
  `select chassis_tenant_table('<table>')`. A view over one is made `with (security_invoker = true)`, or it
  shows all tenants' rows.
- Row-level security is the second lock, not the first: queries still say `where enterprise = …`, which also
  lets PostgreSQL use the index.
- Save first, then `emit`: the lock on the saved row is what orders the events of one aggregate.
"""

from services.chassis.database.follow import Follower, Listener, Subscription
from services.chassis.database.migration import MigrationError, migrate
from services.chassis.database.pool import Database
from services.chassis.database.retention import purge, purge_changes, retell
from services.chassis.database.scope import PLATFORM, PUBLIC, Scope, Tenant
from services.chassis.database.transaction import CALLER, Change, Telling, Transaction

__all__ = [
    "CALLER",
    "PLATFORM",
    "PUBLIC",
    "Change",
    "Database",
    "Follower",
    "Listener",
    "MigrationError",
    "Scope",
    "Subscription",
    "Telling",
    "Tenant",
    "Transaction",
    "migrate",
    "purge",
    "purge_changes",
    "retell",
]
