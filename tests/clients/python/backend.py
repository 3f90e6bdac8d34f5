"""gRPC servers that answer every method with their own name.

Each line of standard input is the name of a new one; the answer is its port. It ends with its input.
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
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    server.add_generic_rpc_handlers([Backend(line.strip())])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    servers.append(server)
