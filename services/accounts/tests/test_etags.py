"""Nobody overwrites what they have not seen: whoever gives an etag changes that very state, or nothing."""

import grpc
import pytest
from google.api import resource_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from numerator.accounts.v1 import accounts_pb2 as pb
from numerator.accounts.v1 import apps_pb2, apps_pb2_grpc, webhooks_pb2, webhooks_pb2_grpc

from gateway.catalogue import stub_files
from services.accounts.tests.world import World, reason_of

PACKAGE = "numerator.accounts.v1"
CHANGE_NO_STATE = {
    "DownloadVerificationDocument": "reads",
    "TestWebhookEndpoint": "sends something",
    "ReplayWebhookEndpoint": "sends something",
    "ChangePassword": "is guarded by the password before",
    "DisableTotp": "is guarded by the password",
    "UnlinkMember": "ends one link, whatever else changes of the member",
    "ShredSecrets": "is for the end of an enterprise, in whatever state, and is confirmed by its name",
}
"""Methods on a resource with an etag that take none, and why."""


def changing() -> list[MethodDescriptor]:
    """All methods that name a resource with an etag and are not without side effects."""
    files = [file for file in stub_files() if file.package == PACKAGE]
    guarded = {
        message.GetOptions().Extensions[resource_pb2.resource].type
        for file in files
        for message in file.message_types_by_name.values()
        if "etag" in message.fields_by_name
    } - {""}
    return [
        method
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
        if (name := method.input_type.fields_by_name.get("name")) is not None
        and name.GetOptions().Extensions[resource_pb2.resource_reference].type in guarded
        and method.GetOptions().idempotency_level != MethodOptions.NO_SIDE_EFFECTS
    ]


def test_methods__that_change_a_resource_take_its_etag() -> None:
    """But for those that say why not; a new method does, or joins them."""
    without = {method.name for method in changing() if "etag" not in method.input_type.fields_by_name}
    assert not without - CHANGE_NO_STATE.keys()
    assert len(changing()) > len(without) + 15


def test_delete_client__needs_the_newest_etag(world: World) -> None:
    """A client whose rights a colleague has just changed is not deleted by who has not seen that."""
    company = world.register()
    owner = world.as_(company.owner)
    client = owner.CreateClient(
        pb.CreateClientRequest(parent=company.name, display_name="CRM", scopes=["accounts.read"])
    )
    apps = apps_pb2_grpc.AppServiceStub(world.running.as_(company.owner))
    renamed = apps.UpdateClient(
        apps_pb2.UpdateClientRequest(name=client.name, display_name="CRM of the west")
    )
    with pytest.raises(grpc.RpcError) as refused:
        owner.DeleteClient(pb.DeleteClientRequest(name=client.name, etag=client.etag))
    assert reason_of(refused.value) == "ETAG_MISMATCH"
    owner.DeleteClient(pb.DeleteClientRequest(name=client.name, etag=renamed.etag))
    assert not world.rows("clients")


def test_rotate_webhook_secret__needs_the_newest_etag(world: World) -> None:
    """Two who rotate at a time do not end the overlap of the secret that the receiver has."""
    company = world.register()
    stub = webhooks_pb2_grpc.WebhookServiceStub(world.running.as_(company.owner))
    made = stub.CreateWebhookEndpoint(
        webhooks_pb2.CreateWebhookEndpointRequest(parent=company.name, url="https://partner.example/hook")
    )
    request = webhooks_pb2.RotateWebhookSecretRequest(name=made.name, etag=made.etag)
    rotated = stub.RotateWebhookSecret(request)
    with pytest.raises(grpc.RpcError) as refused:
        stub.RotateWebhookSecret(request)
    assert reason_of(refused.value) == "ETAG_MISMATCH"
    assert len(world.rows("webhook_secrets")) == 2
    assert stub.RotateWebhookSecret(
        webhooks_pb2.RotateWebhookSecretRequest(name=made.name, etag=rotated.etag)
    ).secret
