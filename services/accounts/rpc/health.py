"""Serves `health.proto`."""

from datetime import UTC, timedelta

import grpc
from numerator.accounts.v1 import health_pb2 as pb
from numerator.accounts.v1 import health_pb2_grpc as pb_grpc

from services.accounts import store
from services.accounts.model.health import MEASURED, Batch, Due, Measured, calendar, measure, plan
from services.accounts.rpc import after, page
from services.accounts.store import health
from services.chassis.database import Database
from services.chassis.names import enterprise_of
from services.chassis.paging import page_size
from services.chassis.rpc.call import current_call
from services.chassis.timestamps import stamp

_CAPACITY = 50
_HORIZON_DAYS = 30
_PLANNED = 5000


class HealthServicer(pb_grpc.HealthServiceServicer):
    """Serves `numerator.accounts.v1.HealthService`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def GetAccountHealth(
        self, request: pb.GetAccountHealthRequest, context: grpc.ServicerContext
    ) -> pb.AccountHealth:
        call = current_call()
        with self._database.transaction(call.scope) as tx:
            account = store.get_account(tx, request.name)
            call.reach.check(account.name, account.path)
            enterprise = enterprise_of(account.name) or ""
            hours = health.hours_of(tx, enterprise, [account.name], tx.now - MEASURED)
            return _health(measure(account, hours[account.name], tx.now))

    def ListAccountHealth(
        self, request: pb.ListAccountHealthRequest, context: grpc.ServicerContext
    ) -> pb.ListAccountHealthResponse:
        call, size = current_call(), page_size(request.page_size)
        with self._database.transaction(call.scope) as tx:
            store.get_enterprise(tx, request.parent)
            found = store.list_accounts(
                tx, request.parent, reach=call.reach.groups, after=after(request), limit=size + 1
            )
            accounts, token = page(found, size, request)
            names = [each.name for each in accounts]
            hours = health.hours_of(tx, request.parent, names, tx.now - MEASURED)
            measured = [measure(each, hours[each.name], tx.now) for each in accounts]
        return pb.ListAccountHealthResponse(account_health=map(_health, measured), next_page_token=token)

    def PlanReauthorizations(
        self, request: pb.PlanReauthorizationsRequest, context: grpc.ServicerContext
    ) -> pb.PlanReauthorizationsResponse:
        horizon = timedelta(days=request.horizon_days or _HORIZON_DAYS)
        with self._database.transaction(current_call().scope) as tx:
            store.get_enterprise(tx, request.parent)
            now = tx.now
            due = health.list_due(tx, request.parent, now + horizon, _PLANNED)
        batches = plan(due, capacity=request.daily_capacity or _CAPACITY, today=now.astimezone(UTC).date())
        return pb.PlanReauthorizationsResponse(
            batches=[
                pb.PlanReauthorizationsResponse.Batch(
                    day=batch.day.isoformat(), accounts=[_item(each, batch) for each in batch.accounts]
                )
                for batch in batches
            ],
            icalendar=calendar(request.parent, batches, now),
        )


def _health(model: Measured) -> pb.AccountHealth:
    health = pb.AccountHealth(
        account=model.account,
        health=pb.AccountHealth.Health.Value(model.health),
        published_count=model.published,
        failed_count=model.failed,
        error_rate=model.error_rate,
        quota_used=model.quota_used,
    )
    if model.expire_time:
        health.token_expire_time.CopyFrom(stamp(model.expire_time))
    if model.quota:
        health.quota_posts = model.quota.posts
        health.quota_window.FromTimedelta(model.quota.window)
    return health


def _item(model: Due, batch: Batch) -> pb.PlanReauthorizationsResponse.Item:
    item = pb.PlanReauthorizationsResponse.Item(
        account=model.account,
        handle=model.handle,
        server=model.server,
        late=model.expire_time is None or model.expire_time.astimezone(UTC).date() <= batch.day,
    )
    if model.expire_time:
        item.token_expire_time.CopyFrom(stamp(model.expire_time))
    return item
