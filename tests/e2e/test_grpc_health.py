"""gRPC and the health of endpoints in a running gateway: checks by grpc.health.v1, and ejection by statuses."""

from concurrent import futures
from contextlib import ExitStack, contextmanager

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fastgw.testing import GatewayProcess
from tests.e2e.test_health import rows, states, until

Status = grpc.StatusCode


class Endpoint(grpc.GenericRpcHandler):
    """Answers with its number, or fails as it is told to."""

    def __init__(self, number, stack):
        self.number = number
        self.status = None
        self.health = health.HealthServicer()
        self.server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[self])
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        stack.callback(self.server.stop, 0)

    def service(self, call):
        if not call.method.startswith("/test.S/"):
            return None
        if call.method.endswith("/Stream"):
            return grpc.unary_stream_rpc_method_handler(self.stream)
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request, context):
        if self.status is not None:
            context.abort(self.status, "as told")
        return b"%d" % self.number

    def stream(self, request, context):
        yield b"%d" % self.number
        if self.status is not None:
            context.abort(self.status, "as told")


@contextmanager
def running(**service):
    with ExitStack() as stack:
        endpoints = [Endpoint(i, stack) for i in range(3)]
        config = {
            "server": {"listeners": ["127.0.0.1:${FASTGW_PORT}"], "workers": 2},
            "observability": {"access_log": {"enabled": False}},
            "services": {
                "s": {"endpoints": [f"http://127.0.0.1:{one.port}" for one in endpoints], "protocol": "h2c", **service}
            },
            "routes": [{"path": "/test.S/*", "service": "s"}],
        }
        gateway = stack.enter_context(GatewayProcess(config))
        channel = stack.enter_context(
            grpc.insecure_channel(f"127.0.0.1:{gateway.port}", options=[("grpc.enable_retries", 0)])
        )
        yield gateway, endpoints, channel


def asked(channel, count=30, stream=False):
    """(The numbers that answered, the statuses of those that failed.)"""
    answered, failed = set(), []
    for _ in range(count):
        try:
            if stream:
                answered |= {int(one) for one in channel.unary_stream("/test.S/Stream")(b"", timeout=60)}
            else:
                answered.add(int(channel.unary_unary("/test.S/Ask")(b"", timeout=60)))
        except grpc.RpcError as error:
            failed.append(error.code())
    return answered, failed


def test_one_that_does_not_serve_is_left_out_until_it_does():
    check = {"type": "grpc", "service": "test.S", "interval": "100ms", "healthy_threshold": 1, "unhealthy_threshold": 2}
    with running(health_check=check) as (gateway, endpoints, channel):
        until(lambda: states(gateway) == ["down"] * 3, "answer that the service is not known")
        assert "grpc-status 5" in rows(gateway)[0]["reason"]
        for one in endpoints:
            one.health.set("test.S", health_pb2.HealthCheckResponse.SERVING)
        until(lambda: states(gateway) == ["up"] * 3, "good check")
        assert asked(channel) == ({0, 1, 2}, [])
        endpoints[1].health.set("test.S", health_pb2.HealthCheckResponse.NOT_SERVING)
        until(lambda: states(gateway) == ["up", "down", "up"], "bad check")
        assert rows(gateway)[1]["reason"] == "the health check failed: NOT_SERVING"
        assert asked(channel) == ({0, 2}, [])


@pytest.mark.parametrize("stream", [False, True])
def test_statuses_eject(stream):
    with running(outliers={"consecutive_failures": 3, "ejection_time": "5m"}) as (gateway, endpoints, channel):
        assert asked(channel, stream=stream) == ({0, 1, 2}, [])
        endpoints[0].status = Status.NOT_FOUND                     # says nothing of the endpoint
        _, failed = asked(channel, stream=stream)
        assert set(failed) == {Status.NOT_FOUND} and len(failed) > 5
        assert states(gateway) == ["unchecked"] * 3
        endpoints[0].status = Status.UNAVAILABLE
        _, failed = asked(channel, stream=stream)
        assert failed == [Status.UNAVAILABLE] * 3
        row = rows(gateway)[0]
        assert row["state"] == "ejected" and row["reason"] == "too many failures in a row"


def test_statuses_that_are_listed():
    outliers = {"consecutive_errors": 4, "ejection_time": "5m", "grpc_errors": ["resource_exhausted"]}
    with running(outliers=outliers) as (gateway, endpoints, channel):
        endpoints[0].status = Status.UNAVAILABLE
        _, failed = asked(channel)
        assert len(failed) > 5 and states(gateway) == ["unchecked"] * 3
        endpoints[0].status = Status.RESOURCE_EXHAUSTED
        _, failed = asked(channel)
        assert failed == [Status.RESOURCE_EXHAUSTED] * 4
        assert rows(gateway)[0]["reason"] == "too many errors in a row"


@pytest.mark.parametrize("stream", [False, True])
def test_statuses_open_a_circuit(stream):
    with running(circuit_breaker={"failure_threshold": 3, "timeout": "1h"}) as (_, endpoints, channel):
        endpoints[0].status = Status.NOT_FOUND                     # says nothing of the endpoint
        _, failed = asked(channel, stream=stream)
        assert set(failed) == {Status.NOT_FOUND} and len(failed) > 5
        endpoints[0].status = Status.UNAVAILABLE
        answered, failed = asked(channel, stream=stream)
        assert failed == [Status.UNAVAILABLE] * 3 and {1, 2} <= answered
