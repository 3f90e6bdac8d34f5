"""A gRPC client that finds its backends by xDS, and does what its standard input says.

`call TARGET METHOD MILLISECONDS` answers `ok BACKEND` or `error CODE DETAILS`; `status` answers what
the client believes: a `ClientStatusResponse` of CSDS, in hexadecimal digits. It ends with its input.
"""

import sys

import grpc
from grpc._cython import cygrpc

channels = {}


def call(target, method, milliseconds):
    if target not in channels:
        channels[target] = grpc.insecure_channel(f"xds:///{target}")
    rpc = channels[target].unary_unary(f"/deltaplane.Backend/{method}")
    try:
        return "ok " + rpc(b"", timeout=int(milliseconds) / 1000).decode()
    except grpc.RpcError as error:
        return f"error {error.code().name} {' '.join(error.details().split())}"


def status():
    # What the package `grpcio-csds` serves, without the protobuf that it needs.
    return cygrpc.dump_xds_configs().hex()


for line in sys.stdin:
    verb, *arguments = line.split()
    print({"call": call, "status": status}[verb](*arguments), flush=True)
