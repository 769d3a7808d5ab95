"""
The platform's front door: HTTP and JSON outside, gRPC inside.

It authenticates, admits, limits and translates. Routes, validation of shapes and the OpenAPI document come from the
services' protos; nothing about a single RPC is written here. It decides no business rule and keeps no state that is
not rebuilt at start. It imports nothing of a service but `services.chassis`.
"""
