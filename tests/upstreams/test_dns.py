"""DNS: a scripted name server on a real socket."""

import asyncio
import contextlib
import socket
import threading

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest


class NameServer:
    """Answers from `zone`: (name, type) → (ttl, [text, …]); NXDOMAIN for other names, silence when `silent`."""

    def __init__(self):
        self.zone = {}
        self.silent = False
        self.asked = []
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.sock.getsockname()[1]}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):            # it is connected to nobody; who waits is woken all the same
            self.sock.shutdown(socket.SHUT_RDWR)
        self.thread.join(60)
        self.sock.close()

    def serve(self):
        while True:
            try:
                data, peer = self.sock.recvfrom(4096)
            except OSError:
                return
            if not data:
                return
            query = dns.message.from_wire(data)
            question = query.question[0]
            name, kind = str(question.name).rstrip("."), dns.rdatatype.to_text(question.rdtype)
            self.asked.append((name, kind))
            if self.silent:
                continue
            answer = dns.message.make_response(query)
            ttl, records = self.zone.get((name, kind), (0, []))
            if records:
                answer.answer.append(dns.rrset.from_text(question.name, ttl, "IN", kind, *records))
            elif not any(known == name for known, _ in self.zone):
                answer.set_rcode(dns.rcode.NXDOMAIN)
            self.sock.sendto(answer.to_wire(), peer)


@pytest.fixture
def server():
    with NameServer() as found:
        yield found


def options(server, **more):
    return {"type": "dns", "address": server.address, "service": "users.test", "port": 8080, "timeout": "1s", **more}


def test_each_address_is_an_endpoint_and_the_ttl_says_when_to_ask_again(server, watch):
    server.zone["users.test", "A"] = 1, ["10.0.0.1", "10.0.0.2"]
    server.zone["users.test", "AAAA"] = 1, ["2001:db8::1"]

    async def run():
        async with watch(options(server)) as watched:
            await watched.shows("http://10.0.0.1:8080", "http://10.0.0.2:8080", "http://[2001:db8::1]:8080")
            server.zone["users.test", "A"] = 1, ["10.0.0.2"]
            await watched.shows("http://10.0.0.2:8080", "http://[2001:db8::1]:8080")
            assert len(watched.sets) == 2

    asyncio.run(run())


def test_a_long_ttl_does_not_beat_refresh(server, watch):
    server.zone["users.test", "A"] = 3600, ["10.0.0.1"]

    async def run():
        async with watch(options(server, refresh="200ms")) as watched:
            await watched.shows("http://10.0.0.1:8080")
            server.zone["users.test", "A"] = 3600, ["10.0.0.3"]
            await watched.shows("http://10.0.0.3:8080")

    asyncio.run(run())


def test_srv_has_ports_and_weights_and_the_lowest_priority_is_used(server, watch):
    server.zone["_http._tcp.users.test", "SRV"] = 60, [
        "10 60 8001 a.test.", "10 20 8002 b.test.", "20 0 8003 backup.test.",
    ]  # fmt: skip
    server.zone["a.test", "A"] = 60, ["10.0.0.1"]
    server.zone["b.test", "A"] = 60, ["10.0.0.2"]

    async def run():
        given = options(server, service="_http._tcp.users.test")
        del given["port"]
        async with watch(given) as watched:
            await watched.shows("http://10.0.0.1:8001", "http://10.0.0.2:8002")
            assert [one.weight for one in watched.sets[0].endpoints] == [60, 20]
            assert watched.sets[0].endpoints[0].labels == (("target", "a.test"),)
            assert ("backup.test", "A") not in server.asked

    asyncio.run(run())


@pytest.mark.parametrize("how", ["nxdomain", "empty", "silent"])
def test_no_answer_and_none_at_all_leave_the_last_one_until_it_is_too_old(server, watch, how):
    server.zone["users.test", "A"] = 1, ["10.0.0.1"]

    async def run():
        async with watch(options(server, refresh="100ms", timeout="200ms", keep="2s")) as watched:
            await watched.shows("http://10.0.0.1:8080")
            if how == "nxdomain":
                server.zone.clear()
            elif how == "empty":
                server.zone["users.test", "A"] = 1, []
            else:
                server.silent = True
            await watched.until(lambda: watched.watcher.failures)
            assert watched.urls == ["http://10.0.0.1:8080"]
            await watched.shows()
            assert watched.watcher.state.expired
            server.silent = False
            server.zone["users.test", "A"] = 1, ["10.0.0.1"]
            await watched.shows("http://10.0.0.1:8080")
            assert not watched.watcher.state.expired

    asyncio.run(run())
