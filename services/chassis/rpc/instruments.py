"""What calls are measured by. Names are OpenTelemetry's, or begin with `numerator.`."""

from services.chassis.metrics import counter, duration

server_duration = duration("rpc.server.call.duration", "How long calls took that this server answered.")
client_duration = duration("rpc.client.call.duration", "How long calls to other services took.")
refused = counter("numerator.rpc.refused", "Calls refused because of overload.")
