"""The gRPC face of placement: proto to model and back, nothing else."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import grpc
from google.api.httpbody_pb2 import HttpBody
from google.protobuf.timestamp_pb2 import Timestamp
from numerator.placement.v1 import placement_pb2 as pb
from numerator.placement.v1 import placement_pb2_grpc as pb_grpc

from services.chassis.clock import Clock
from services.chassis.database import Database, Tenant
from services.chassis.errors import not_found
from services.chassis.ids import new_id
from services.chassis.metrics import timed
from services.chassis.names import enterprise_of
from services.chassis.paging import decode_token, encode_token, page_size
from services.chassis.rpc.call import current_call
from services.chassis.timestamps import stamp
from services.placement import metrics, pages, usecases
from services.placement.engine import Engine
from services.placement.model import ENTERPRISE_NAME, Campaign, Creative, Module, Placement, Registration
from services.placement.tokens import Token, Tokens


class PlacementServicer(pb_grpc.PlacementServiceServicer):
    """Serves `numerator.placement.v1.PlacementService`."""

    def __init__(
        self, database: Database, engine: Engine, tokens: Tokens, token_life: timedelta, clock: Clock
    ) -> None:
        self._database = database
        self._engine = engine
        self._tokens = tokens
        self._life = token_life
        self._clock = clock

    # Pages

    def CreateModule(self, request: pb.CreateModuleRequest, context: grpc.ServicerContext) -> pb.Module:
        given = request.module
        with self._database.transaction(current_call().scope) as tx:
            return tx.once(
                request,
                lambda: _module(
                    usecases.create_module(
                        tx,
                        request.parent,
                        title=given.title,
                        body=given.body,
                        link_url=given.link_url,
                        start=_moment(given.start_time),
                        end=_moment(given.end_time),
                        position=given.position,
                    )
                ),
            )

    def GetModule(self, request: pb.GetModuleRequest, context: grpc.ServicerContext) -> pb.Module:
        with self._database.transaction(current_call().scope) as tx:
            return _module(usecases.get_module(tx, request.name))

    def ListModules(
        self, request: pb.ListModulesRequest, context: grpc.ServicerContext
    ) -> pb.ListModulesResponse:
        size = page_size(request.page_size)
        token = decode_token(request.page_token, (int, datetime, str), query=request)
        after = (int(token[0]), str(token[1]), str(token[2])) if token else None
        with self._database.transaction(current_call().scope) as tx:
            found = usecases.list_modules(tx, request.parent, limit=size + 1, after=after)
        more = ""
        if len(found) > size:
            last = found[size - 1]
            more = encode_token((last.position, last.create_time.isoformat(), last.name), query=request)
        return pb.ListModulesResponse(modules=[_module(each) for each in found[:size]], next_page_token=more)

    def DeleteModule(self, request: pb.DeleteModuleRequest, context: grpc.ServicerContext) -> pb.Module:
        with self._database.transaction(current_call().scope) as tx:
            return _module(usecases.delete_module(tx, request.name))

    def ShowPage(self, request: pb.ShowPageRequest, context: grpc.ServicerContext) -> HttpBody:
        enterprise = f"enterprises/{request.enterprise}"
        if not ENTERPRISE_NAME.matches(enterprise):
            raise not_found(f"pages/{request.enterprise}")
        with self._database.transaction(Tenant(enterprise)) as tx:
            page = usecases.page_of(tx, enterprise)
        return HttpBody(content_type="text/html; charset=utf-8", data=pages.render(page).encode())

    # Campaigns

    def CreateCampaign(self, request: pb.CreateCampaignRequest, context: grpc.ServicerContext) -> pb.Campaign:
        given = request.campaign
        with self._database.transaction(current_call().scope) as tx:
            return tx.once(
                request,
                lambda: _campaign(
                    usecases.create_campaign(
                        tx,
                        request.parent,
                        display_name=given.display_name,
                        start=_moment(given.start_time),
                        end=_moment(given.end_time),
                        capacity=given.capacity,
                    )
                ),
            )

    def GetCampaign(self, request: pb.GetCampaignRequest, context: grpc.ServicerContext) -> pb.Campaign:
        with self._database.transaction(current_call().scope) as tx:
            return _campaign(usecases.get_campaign(tx, request.name))

    def ListCampaigns(
        self, request: pb.ListCampaignsRequest, context: grpc.ServicerContext
    ) -> pb.ListCampaignsResponse:
        size = page_size(request.page_size)
        token = decode_token(request.page_token, (datetime, str), query=request)
        with self._database.transaction(current_call().scope) as tx:
            found = usecases.list_campaigns(tx, request.parent, limit=size + 1, before=_time_and_name(token))
        more = encode_token(_key(found[size - 1]), query=request) if len(found) > size else ""
        return pb.ListCampaignsResponse(
            campaigns=[_campaign(each) for each in found[:size]], next_page_token=more
        )

    def StartCampaign(self, request: pb.StartCampaignRequest, context: grpc.ServicerContext) -> pb.Campaign:
        call = current_call()
        with self._database.transaction(call.scope) as tx:
            return tx.once(
                request, lambda: _campaign(usecases.start_campaign(tx, call.principal, request.name))
            )

    def EndCampaign(self, request: pb.EndCampaignRequest, context: grpc.ServicerContext) -> pb.Campaign:
        with self._database.transaction(current_call().scope) as tx:
            return tx.once(request, lambda: _campaign(usecases.end_campaign(tx, request.name)))

    def CreatePlacement(
        self, request: pb.CreatePlacementRequest, context: grpc.ServicerContext
    ) -> pb.Placement:
        given = request.placement
        with self._database.transaction(current_call().scope) as tx:
            return tx.once(
                request,
                lambda: _placement(
                    usecases.create_placement(
                        tx,
                        request.parent,
                        touchpoint=pb.Touchpoint.Name(given.touchpoint),
                        look=pb.Format.Name(given.format),
                        audience=given.audience,
                        floor=given.relevance_floor,
                        cap=given.daily_cap,
                        creative=_creative_of(given.creative),
                    )
                ),
            )

    def ListPlacements(
        self, request: pb.ListPlacementsRequest, context: grpc.ServicerContext
    ) -> pb.ListPlacementsResponse:
        size = page_size(request.page_size)
        token = decode_token(request.page_token, (datetime, str), query=request)
        with self._database.transaction(current_call().scope) as tx:
            found = usecases.list_placements(tx, request.parent, limit=size + 1, after=_time_and_name(token))
        more = encode_token(_key(found[size - 1]), query=request) if len(found) > size else ""
        return pb.ListPlacementsResponse(
            placements=[_placement(each) for each in found[:size]], next_page_token=more
        )

    # Decisions: memory only

    def Decide(self, request: pb.DecideRequest, context: grpc.ServicerContext) -> pb.Decision:
        with timed(metrics.decision, views="one"):
            (decision,) = self._decide([request])
        return decision

    def DecideBatch(
        self, request: pb.DecideBatchRequest, context: grpc.ServicerContext
    ) -> pb.DecideBatchResponse:
        with timed(metrics.decision, views="batch"):
            return pb.DecideBatchResponse(decisions=self._decide(request.requests))

    def _decide(self, requests: Sequence[pb.DecideRequest]) -> list[pb.Decision]:
        now, verdicts = self._clock.now(), Counter[tuple[str, str]]()
        decisions = [self._decide_one(each, now, verdicts) for each in requests]
        metrics.decided(verdicts)
        return decisions

    def _decide_one(
        self, request: pb.DecideRequest, now: datetime, verdicts: Counter[tuple[str, str]]
    ) -> pb.Decision:
        person, decision = request.user.removeprefix("users/"), new_id()
        touchpoint = pb.Touchpoint.Name(request.touchpoint)
        choice = self._engine.decide(person, touchpoint, decision, now, self._life)
        verdicts[metrics.verdict(choice)] += 1
        if choice.placement is None:
            return pb.Decision(
                decision=decision, user=request.user, choice=pb.Decision.NONE, reasons=choice.reasons
            )
        placement, expires = choice.placement.placement, now + self._life
        token = Token(decision, person, placement.name, placement.touchpoint, int(expires.timestamp()))
        return pb.Decision(
            decision=decision,
            user=request.user,
            choice=pb.Decision.PLACEMENT,
            placement=placement.name,
            label=choice.placement.label,
            creative=_creative(placement.creative),
            relevance=choice.relevance,
            reasons=choice.reasons,
            token=self._tokens.sign(token),
            expire_time=stamp(expires),
        )

    # What follows from decisions: the token says whose they are

    def RecordExposure(self, request: pb.RecordExposureRequest, context: grpc.ServicerContext) -> pb.Exposure:
        token = self._tokens.read(request.token, self._clock.now())
        with self._database.transaction(_tenant_of(token)) as tx:
            seen = usecases.record_exposure(tx, token)
        return pb.Exposure(decision=token.decision, placement=token.placement, exposure_time=stamp(seen))

    def CreateRegistration(
        self, request: pb.CreateRegistrationRequest, context: grpc.ServicerContext
    ) -> pb.Registration:
        token = self._tokens.read(request.token, self._clock.now())
        with self._database.transaction(_tenant_of(token)) as tx:
            return _registration(usecases.register(tx, token, request.display_name))

    def ListRegistrations(
        self, request: pb.ListRegistrationsRequest, context: grpc.ServicerContext
    ) -> pb.ListRegistrationsResponse:
        size = page_size(request.page_size)
        token = decode_token(request.page_token, (datetime, str), query=request)
        with self._database.transaction(current_call().scope) as tx:
            found = usecases.list_registrations(
                tx, request.parent, limit=size + 1, before=_time_and_name(token)
            )
        more = encode_token(_key(found[size - 1]), query=request) if len(found) > size else ""
        return pb.ListRegistrationsResponse(
            registrations=[_registration(each) for each in found[:size]], next_page_token=more
        )


def _tenant_of(token: Token) -> Tenant:
    enterprise = enterprise_of(token.placement)
    if enterprise is None:
        raise not_found(token.placement)
    return Tenant(enterprise)


def _key(resource: Campaign | Placement | Registration) -> tuple[str, str]:
    return resource.create_time.isoformat(), resource.name


def _time_and_name(token: tuple[str | int, ...] | None) -> tuple[str, str] | None:
    return (str(token[0]), str(token[1])) if token else None


def _module(module: Module) -> pb.Module:
    return pb.Module(
        name=module.name,
        title=module.title,
        body=module.body,
        link_url=module.link_url,
        start_time=stamp(module.start_time),
        end_time=stamp(module.end_time),
        position=module.position,
        create_time=stamp(module.create_time),
    )


def _campaign(campaign: Campaign) -> pb.Campaign:
    return pb.Campaign(
        name=campaign.name,
        display_name=campaign.display_name,
        start_time=stamp(campaign.start_time),
        end_time=stamp(campaign.end_time),
        capacity=campaign.capacity,
        state=pb.Campaign.State.Value(campaign.state),
        registration_count=campaign.registration_count,
        create_time=stamp(campaign.create_time),
    )


def _placement(placement: Placement) -> pb.Placement:
    return pb.Placement(
        name=placement.name,
        touchpoint=pb.Touchpoint.Value(placement.touchpoint),
        format=pb.Format.Value(placement.format),
        audience=placement.audience,
        relevance_floor=placement.relevance_floor,
        daily_cap=placement.daily_cap,
        creative=_creative(placement.creative),
    )


def _creative(creative: Creative) -> pb.Creative:
    return pb.Creative(
        title=creative.title,
        description=creative.description,
        call_to_action=creative.call_to_action,
        venue=creative.venue,
        event_time=stamp(creative.event_time) if creative.event_time else None,
    )


def _creative_of(given: pb.Creative) -> Creative:
    return Creative(
        given.title,
        given.description,
        given.call_to_action,
        given.venue,
        _moment(given.event_time) if given.HasField("event_time") else None,
    )


def _registration(registration: Registration) -> pb.Registration:
    return pb.Registration(
        name=registration.name,
        user=f"users/{registration.person}",
        display_name=registration.display_name,
        placement=registration.placement,
        create_time=stamp(registration.create_time),
    )


def _moment(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)
