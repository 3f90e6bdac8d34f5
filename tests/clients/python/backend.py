"""gRPC servers that answer every method with their own name.

Each line of standard input is the name of a new one; the answer is its port. Behind the name may stand the port
of one that is configured by xDS. It ends with its input.
"""

import sys
from concurrent import futures

import grpc


class Backend(grpc.GenericRpcHandler):
    def __init__(self, name):
        self.name = name.encode()

    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self.name)


servers = []
for line in sys.stdin:
    name, *port = line.split()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), xds=bool(port))
    server.add_generic_rpc_handlers([Backend(name)])
    bound = server.add_insecure_port(f"127.0.0.1:{port[0] if port else 0}")
    # One that is configured by xDS does not say, since it is not bound yet.
    print(port[0] if port else bound, flush=True)
    server.start()
    servers.append(server)
