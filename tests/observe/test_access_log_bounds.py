"""The access log: its fields and its bounds."""

import os
import threading
import time

import pytest

from fastgw.observe.access_log import AccessLog, escape
from fastgw.testing import FakeUpstream, GatewayProcess

EVIL = 'x"\\ \x7f'


def serve(connection):
    while True:
        request = connection.read_head()
        connection.read_body(request)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def lines_of(tmp_path, format, requests, fields=None):
    log = tmp_path / "access.log"
    with FakeUpstream(serve) as up:
        config = {
            "services": {"up": up.url},
            "routes": [{"name": "all", "path": "/ok/*", "service": "up"}],
            "observability": {"access_log": {"format": format, "path": str(log), "fields": fields}},
        }
        with GatewayProcess(config) as gateway, gateway.client() as client:
            for raw in requests:
                client.send(raw)
                client.response()
    return log.read_bytes().splitlines()


def test_fields_are_chosen(tmp_path):
    (line,) = lines_of(tmp_path, "json", [b"GET /ok/1 HTTP/1.1\r\nHost: a\r\n\r\n"], ["status", "path"])
    assert line == b'{"status":200,"path":"/ok/1"}'


def test_escape():
    assert escape(EVIL + "\n") == "x\\x22\\x5C \\x7F\\x0A"


class Row:
    """As much of an exchange as one field needs."""

    status = 200


def test_what_waits_is_bounded_and_counted():
    reader, writer = os.pipe()
    path = f"/proc/self/fd/{writer}"
    log = AccessLog(path, "json", ["status"], capacity=10_000)
    for _ in range(30_000):                   # a pipe that nobody reads takes about 5,000 such lines
        log(Row())
    assert log.dropped >= 10_000
    taken = 30_000 - log.dropped
    found = []

    def read():
        while data := os.read(reader, 65536):
            found.append(data)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    log.close()
    os.close(writer)
    thread.join(60)
    os.close(reader)
    assert b"".join(found).count(b"\n") == taken


def test_a_log_that_another_one_follows_is_not_waited_for_and_loses_nothing():
    """As a worker does when a reload brings another log while nobody reads the pipe of the one before."""
    reader, writer = os.pipe()
    log = AccessLog(f"/proc/self/fd/{writer}", "json", ["status"], capacity=10_000)
    for _ in range(8_000):
        log(Row())
    begun = time.monotonic()
    log.close(wait=0)
    assert time.monotonic() - begun < 30
    os.close(writer)
    found = b""
    while data := os.read(reader, 65536):                # its own thread writes the rest and closes it
        found += data
    os.close(reader)
    assert found.count(b"\n") == 8_000


@pytest.mark.parametrize("format", ["json", "combined"])
def test_a_file_that_cannot_be_opened_is_an_error_at_once(tmp_path, format):
    with pytest.raises(OSError):
        AccessLog(str(tmp_path / "no" / "such.log"), format)
