"""The kit is trusted by every other test, so it is tested against itself and against h11, byte by byte."""

import socket
import threading

import h11
import pytest

from fastgw.testing import (
    CuttingProxy,
    FakeUpstream,
    Incomplete,
    RawClient,
    Rule,
    answer,
    answer_and,
    chunked,
    close_without_answer,
    hang,
    reset_without_answer,
)

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_requests_are_recorded_byte_by_byte_and_answered_in_order():
    body = chunked([b"abc", b"d"], b"X-Sum: 1\r\n")
    post = b"POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    with FakeUpstream(answer(OK, b"HTTP/1.1 204 No Content\r\n\r\n")) as upstream:
        with RawClient(upstream.address) as client:
            assert client.request(GET).body == b"ok"
            assert client.request(post).status == 204
        first, second = upstream.wait_requests(2)
        assert (bytes(first.raw), first.method, first.target) == (GET, "GET", "/a")
        assert bytes(second.raw) == post
        assert (bytes(second.body), second.trailers, second.complete) == (b"abcd", [("X-Sum", "1")], True)
        assert upstream.connections[0].received == GET + post
        upstream.wait_for(upstream.connections[0].ended.is_set)
        assert upstream.connections[0].how == "eof"


def test_each_connection_has_its_script():
    with FakeUpstream(close_without_answer, reset_without_answer, hang, answer(OK)) as upstream:
        ends = []
        for _ in range(2):
            with RawClient(upstream.address) as client, pytest.raises(Incomplete) as stop:
                client.request(GET)
            ends.append(stop.value.how)
        assert ends == ["eof", "reset"]
        with RawClient(upstream.address, timeout=0.1) as client, pytest.raises(Incomplete) as stop:
            client.request(GET)
        assert stop.value.how == "timeout"
        with RawClient(upstream.address) as client:
            assert client.request(GET).status == 200


def test_a_truncated_body_is_seen_as_such():
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab"
    with FakeUpstream(answer_and("close", half), answer_and("reset", half)) as upstream:
        for how in ("eof", "reset"):
            with RawClient(upstream.address) as client, pytest.raises(Incomplete) as stop:
                client.request(GET)
            assert (stop.value.how, bytes(stop.value.message.body)) == (how, b"ab")


def test_interim_head_204_and_close_delimited():
    answers = [
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nto the end",
    ]
    with FakeUpstream(answer_and("close", *answers)) as upstream, RawClient(upstream.address) as client:
        first = client.request(GET)
        assert [interim.status for interim in first.interim] == [103]
        assert (first.status, first.keeps_alive) == (200, True)
        assert client.request(GET.replace(b"GET", b"HEAD")).body == b""
        third = client.request(GET)
        assert (third.body, third.keeps_alive) == (b"to the end", False)


def test_early_answer_and_events_instead_of_sleeps():
    go = threading.Event()

    def early(connection):
        connection.read_head()
        connection.send(b"HTTP/1.1 413 Too Big\r\nContent-Length: 0\r\n\r\n")
        connection.wait(go)
        connection.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 7)

    with FakeUpstream(early) as upstream, RawClient(upstream.address) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        assert client.response().status == 413
        go.set()
        assert client.response().status == 200
        assert client.ended() in ("eof", "reset")
        assert not upstream.requests[0].complete


def test_unix_socket_and_ipv6(tmp_path):
    with FakeUpstream(path=tmp_path / "up.sock") as upstream, RawClient(upstream.address) as client:
        assert client.request(GET).body == b"ok"
        assert upstream.url == f"unix:{tmp_path}/up.sock"
    assert not (tmp_path / "up.sock").exists()
    with FakeUpstream(host="::1") as upstream, RawClient(upstream.address) as client:
        assert upstream.url.startswith("http://[::1]:")
        assert client.request(GET).body == b"ok"


def test_an_error_in_a_script_is_an_error_of_the_test():
    def broken(connection):
        connection.read_request()
        raise ZeroDivisionError

    with (
        pytest.raises(ZeroDivisionError),
        FakeUpstream(broken) as upstream,
        RawClient(upstream.address) as client,
    ):
        client.send(GET)
        assert client.ended() == "eof"


def test_killed_connections_are_reset():
    with FakeUpstream(hang) as upstream, RawClient(upstream.address) as client:
        client.send(GET)
        upstream.wait_connections(1)
        assert upstream.kill_connections() == 1
        assert client.ended() == "reset"


@pytest.mark.parametrize("with_reset", [True, False])
def test_the_proxy_cuts_at_the_byte(with_reset):
    rule = Rule(cut_at=len(OK) - 1, with_reset=with_reset)
    with FakeUpstream() as upstream, CuttingProxy(upstream.address, to_client=rule) as proxy:
        with RawClient(proxy.address) as client, pytest.raises(Incomplete) as stop:
            client.request(GET)
        assert stop.value.how == ("reset" if with_reset else "eof")
        assert bytes(stop.value.message.body) == b"o"
        assert proxy.cuts == 1


def test_the_proxy_holds_until_told():
    rule = Rule(hold_at=10, piece=3)
    with (
        FakeUpstream() as upstream,
        CuttingProxy(upstream.address, to_server=rule) as proxy,
        RawClient(proxy.address) as client,
    ):
        client.send(GET)
        client.reader.timeout = 0.1
        with pytest.raises(Incomplete):
            client.response()
        assert not upstream.requests
        rule.gate.set()
        client.reader.timeout = 5
        assert client.response().status == 200


def test_raw_client_agrees_with_an_h11_server():
    """The client's reading of length, chunks and trailers, against a server that another hand wrote."""

    def serve(listener):
        sock, _ = listener.accept()
        with sock:
            server = h11.Connection(h11.SERVER)
            for _ in range(2):
                while True:
                    event = server.next_event()
                    if event is h11.NEED_DATA:
                        server.receive_data(sock.recv(65536))
                    elif isinstance(event, h11.Request):
                        seen.append((event.method, event.target))
                    elif isinstance(event, h11.EndOfMessage):
                        break
                parts = [
                    h11.Response(status_code=200, headers=[("Transfer-Encoding", "chunked")]),
                    h11.Data(data=b"one"),
                    h11.Data(data=b"two"),
                    h11.EndOfMessage(headers=[("X-End", "yes")]),
                ]
                sock.sendall(b"".join(server.send(part) for part in parts))
                server.start_next_cycle()

    seen = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        with RawClient(listener.getsockname()) as client:
            for target in (b"/1", b"/2"):
                response = client.request(GET.replace(b"/a", target))
                assert (response.body, response.trailers) == (b"onetwo", [("X-End", "yes")])
        thread.join()
    assert seen == [(b"GET", b"/1"), (b"GET", b"/2")]
