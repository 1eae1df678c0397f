"""Calls between services and into them: channel, pipeline, call.

A caller sees a `Channel`: in process (`LocalChannel`) or over gRPC (`GrpcChannel`), alike in deadline, cancellation,
status details, metadata, trailers and streaming. Behind every channel stands a service's `Pipeline`, and behind that
one handler function for each RPC of the contract.
"""

from taskman_server.kit.rpc.call import ANONYMOUS, Call, Context, Origin, Principal, service_principal
from taskman_server.kit.rpc.channel import CallOptions, Channel, Channels, GrpcChannel, LocalChannel
from taskman_server.kit.rpc.pipeline import Pipeline
from taskman_server.kit.rpc.runtime import Runtime, ServiceDefinition, ServiceParts, Worker

__all__ = [
    "ANONYMOUS",
    "Call",
    "CallOptions",
    "Channel",
    "Channels",
    "Context",
    "GrpcChannel",
    "LocalChannel",
    "Origin",
    "Pipeline",
    "Principal",
    "Runtime",
    "ServiceDefinition",
    "ServiceParts",
    "Worker",
    "service_principal",
]
