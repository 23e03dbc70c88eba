"""gRPC through the gateway: grpcio's client and server, with nothing between them but us."""

import threading
import time
from concurrent import futures
from contextlib import contextmanager, suppress

import grpc
import httpx
import pytest

from fastgw.testing import GatewayProcess
from tests.e2e.test_http2_upstream import metric
from tests.patience import until

MIB = 1024 * 1024


class Service(grpc.GenericRpcHandler):
    """Methods of bytes: no stubs are needed to see what passes."""

    def __init__(self):
        self.seen = []
        self.cancelled = threading.Event()
        self.kinds = {
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "Count": grpc.unary_stream_rpc_method_handler(self.count),
            "Sum": grpc.stream_unary_rpc_method_handler(self.sum),
            "Chat": grpc.stream_stream_rpc_method_handler(self.chat),
            "Fail": grpc.unary_unary_rpc_method_handler(self.fail),
            "FailLater": grpc.unary_stream_rpc_method_handler(self.fail_later),
            "Wait": grpc.unary_unary_rpc_method_handler(self.wait),
            "Drip": grpc.unary_stream_rpc_method_handler(self.drip),
        }

    def service(self, call):
        self.seen.append(call)
        return self.kinds.get(call.method.rpartition("/")[2])

    def echo(self, request, context):
        sent = [(key, value) for key, value in context.invocation_metadata() if key.startswith("x-mine")]
        context.send_initial_metadata([("x-first", "1")])
        context.set_trailing_metadata([*sent, ("x-last-bin", b"\x00\xff"), ("x-left", str(context.time_remaining()))])
        return request

    def count(self, request, context):
        for n in range(int(request)):
            yield b"%d" % n

    def sum(self, requests, context):
        return b"%d" % sum(int(one) for one in requests)

    def chat(self, requests, context):
        for one in requests:
            yield one.upper()

    def fail(self, request, context):
        context.set_trailing_metadata([("x-why", "because")])
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "nicht möglich")

    def fail_later(self, request, context):
        yield b"one"
        context.abort(grpc.StatusCode.DATA_LOSS, "half")

    def wait(self, request, context):
        context.add_callback(self.cancelled.set)
        self.cancelled.wait(60)
        return b""

    def drip(self, request, context):
        context.add_callback(self.cancelled.set)
        yield b"one"
        self.cancelled.wait(60)


@contextmanager
def world(service=None, route=None, **server):
    handler = Service()
    backend = grpc.server(futures.ThreadPoolExecutor(8), handlers=[handler],
                          options=[("grpc.max_receive_message_length", -1)])  # fmt: skip
    port = backend.add_insecure_port("127.0.0.1:0")
    backend.start()
    config = {
        "server": {"listeners": ["127.0.0.1:${FASTGW_PORT}"], **server},
        "services": {"up": {"endpoints": [f"http://127.0.0.1:{port}"], "protocol": "h2c", **(service or {})}},
        "routes": [{"path": "/test.S/*", "service": "up", **(route or {})}],
    }
    try:
        with GatewayProcess(config) as gateway:
            options = [("grpc.enable_retries", 0), ("grpc.max_receive_message_length", -1)]
            with grpc.insecure_channel(f"127.0.0.1:{gateway.port}", options=options) as channel:
                yield channel, gateway, handler
    finally:
        handler.cancelled.set()
        backend.stop(0)


def test_all_four_kinds():
    with world() as (channel, gateway, _):
        answer, call = channel.unary_unary("/test.S/Echo").with_call(b"hello", timeout=60, metadata=[("x-mine", "a")])
        assert answer == b"hello"
        assert dict(call.initial_metadata())["x-first"] == "1"
        trailing = dict(call.trailing_metadata())
        assert trailing["x-mine"] == "a" and trailing["x-last-bin"] == b"\x00\xff"
        assert list(channel.unary_stream("/test.S/Count")(b"1000")) == [b"%d" % n for n in range(1000)]
        assert channel.stream_unary("/test.S/Sum")(iter([b"1", b"2", b"3"])) == b"6"
        turn = threading.Semaphore(0)

        def ask():
            for word in (b"one", b"two"):
                yield word
                assert turn.acquire(timeout=60)           # the answer to this one is here before the next is sent

        answers = []
        for answer in channel.stream_stream("/test.S/Chat")(ask()):
            answers.append(answer)
            turn.release()
        assert answers == [b"ONE", b"TWO"]
        until(lambda: metric(gateway, 'fastgw_grpc_calls_total{service="up",status="0"}') == 4)


def test_large_messages_both_ways():
    with world(route={"limits": {"body_size": "64MiB"}}) as (channel, _, _handler):
        large = bytes(range(256)) * (20 * MIB // 256)
        assert channel.unary_unary("/test.S/Echo")(large, timeout=60) == large


def test_the_limit_is_of_a_message():
    with world(route={"limits": {"body_size": "1KiB"}}) as (channel, _, _handler):
        numbers = [b"1" * 500] * 20                          # together more than the limit
        assert int(channel.stream_unary("/test.S/Sum")(iter(numbers))) == 20 * int(b"1" * 500)
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/test.S/Echo")(b"x" * 1025)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "1024 bytes" in caught.value.details()


def test_errors_of_the_service_pass():
    with world() as (channel, gateway, _):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/test.S/Fail")(b"")
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert caught.value.details() == "nicht möglich"
        assert dict(caught.value.trailing_metadata())["x-why"] == "because"
        call = channel.unary_stream("/test.S/FailLater")(b"")
        assert next(call) == b"one"
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        assert caught.value.code() == grpc.StatusCode.DATA_LOSS
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/test.S/Nothing")(b"")
        assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
        for status in (9, 15, 12):
            sample = f'fastgw_grpc_calls_total{{service="up",status="{status}"}}'
            until(lambda sample=sample: metric(gateway, sample) == 1)


def test_the_deadline_of_the_client():
    with world() as (channel, _, handler):
        _answer, call = channel.unary_unary("/test.S/Echo").with_call(b"", timeout=60)
        assert 5 < float(dict(call.trailing_metadata())["x-left"]) < 62  # the library rounds what it sends up
        begun = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/test.S/Wait")(b"", timeout=0.2)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - begun < 30
        assert handler.cancelled.wait(60)                      # the service is let go too


def test_the_time_of_the_route_shortens_the_deadline():
    with world(route={"timeouts": {"total": "1s"}}) as (channel, gateway, _):

        def left(timeout):
            with suppress(grpc.RpcError):               # a slow machine may take all of it
                _answer, call = channel.unary_unary("/test.S/Echo").with_call(b"", timeout=timeout)
                return float(dict(call.trailing_metadata())["x-left"])

        for timeout in (None, 60):
            assert 0 < until(lambda timeout=timeout: left(timeout)) < 1
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/test.S/Wait")(b"", timeout=60)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: metric(gateway, 'fastgw_grpc_calls_total{service="up",status="4"}') >= 1)


def test_a_failure_in_the_middle_of_an_answer_has_a_status():
    with world(service={"timeouts": {"idle": "200ms"}}) as (channel, gateway, _):
        call = channel.unary_stream("/test.S/Drip")(b"")
        assert next(call) == b"one"
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert caught.value.details() == "upstream_idle_timeout"
        until(lambda: metric(gateway, 'fastgw_grpc_calls_total{service="up",status="4"}') == 1)


def test_cancellation_reaches_the_service():
    with world() as (channel, _, handler):
        call = channel.unary_stream("/test.S/Drip")(b"")
        assert next(call) == b"one"
        call.cancel()
        assert handler.cancelled.wait(60)


def test_a_quiet_stream_lives():
    """Neither side says anything for longer than `timeouts.body`: only what is asked for limits a call."""
    with world(timeouts={"body": "200ms"}) as (channel, _, _handler):
        go = threading.Event()

        def ask():
            yield b"one"
            go.wait(60)
            yield b"two"

        answers = channel.stream_stream("/test.S/Chat")(ask())
        assert next(answers) == b"ONE"
        time.sleep(0.6)                                   # that nothing happens can only be waited for
        go.set()
        assert next(answers) == b"TWO"


def test_a_timeout_that_is_none():
    with world() as (_, gateway, _handler), httpx.Client(http1=False, http2=True, timeout=60) as client:
        for wrong in ("5", "S", "123456789S", "5s", "-1S", "1 S"):
            answer = client.post(
                f"http://127.0.0.1:{gateway.port}/test.S/Echo",
                content=b"\0\0\0\0\0",
                headers={"content-type": "application/grpc", "te": "trailers", "grpc-timeout": wrong},
            )
            assert answer.headers["grpc-status"] == "13", wrong
            assert "grpc-timeout" in answer.headers["grpc-message"]


def test_metadata_beyond_the_limit():
    with world(limits={"header_size": "4KiB"}) as (channel, _, _handler):
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/test.S/Echo")(b"", metadata=[("x-large", "a" * 5000)])
        assert caught.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNKNOWN)


def test_many_calls_at_once():
    with world() as (channel, _, _handler):
        echo = channel.unary_unary("/test.S/Echo")
        calls = [echo.future(b"%d" % n) for n in range(300)]
        assert [call.result(60) for call in calls] == [b"%d" % n for n in range(300)]
