"""Load of several kinds whose clients keep to the protocols, and count every request that is not answered."""

import contextlib
import os
import random
import socket
import ssl
import threading
import time

import h2.config
import h2.connection
import h2.events
import yaml

from fastgw.testing import RawClient
from fastgw.testing.messages import WireReader

GET = b"GET /load HTTP/1.1\r\nHost: a.example\r\n\r\n"
POST = b"POST /load HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello"
PAUSE = 0.01

# what the interpreter of a new supervisor does first, where a test has put it: the new version's fault
SITE = """
import os
if "FASTGW_UPGRADE_FD" in os.environ and os.path.exists(os.environ.get("TEST_FAULT", "")):
    exec(open(os.environ["TEST_FAULT"]).read())
"""


def fault_environment(folder):
    """Variables of a gateway whose successors do first what is in the file `folder/fault`."""
    site = folder / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    path = os.environ.get("PYTHONPATH", os.getcwd())
    return {"PYTHONPATH": f"{site}:{path}", "TEST_FAULT": str(folder / "fault")}


class Load(threading.Thread):
    """Asks until it is told to stop. `one()` is a request; what it raises is a failure."""

    def __init__(self, seed):
        super().__init__(daemon=True)
        self.random = random.Random(seed)
        self.answered = self.connections = 0
        self.failures = []
        self.over = threading.Event()

    def run(self):
        while not self.over.is_set() and len(self.failures) < 5:
            try:
                self.one()
                self.answered += 1
            except Exception as error:
                self.failures.append(f"{type(self).__name__}, request {self.answered}: {error!r}")
                self.leave()
            self.over.wait(self.random.uniform(0, PAUSE))
        self.leave()


class Kept(Load):
    """HTTP/1.1: keeps its connection until an answer says that it closes (RFC 9112 9.6)."""

    def __init__(self, address, seed, wrap=None):
        super().__init__(seed)
        self.address = address
        self.wrap = wrap
        self.client = None

    def leave(self):
        if self.client is not None:
            self.client.close()
        self.client = None

    def one(self):
        if self.client is None:
            self.client = RawClient(self.address, 60)
            self.connections += 1
            if self.wrap is not None:
                self.client.sock = self.wrap(self.client.sock)
                self.client.reader = WireReader(self.client.sock, 60)
        answer = self.client.request(self.random.choice((GET, POST)))
        assert answer.status == 200, answer.status
        if any(name.lower() == "connection" and "close" in value for name, value in answer.headers):
            self.leave()


class Fresh(Kept):
    """A connection for each request."""

    def one(self):
        try:
            super().one()
        finally:
            self.leave()


class Streams(Load):
    """HTTP/2: three streams at a time, on a new connection after GOAWAY; those that are under way then are answered
    still (RFC 9113 6.8)."""

    def __init__(self, address, seed):
        super().__init__(seed)
        self.address = address
        self.sock = None
        self.going = False
        self.refused = 0

    def leave(self):
        if self.sock is not None:
            self.sock.close()
        self.sock = None

    def flush(self):
        self.sock.sendall(self.h2.data_to_send())

    def one(self):
        if self.sock is None or self.going:
            self.leave()
            self.sock = socket.create_connection(self.address, 60)
            self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
            self.h2.initiate_connection()
            self.connections += 1
            self.going = False
            self.bytes = b""
            self.last = 1 << 31
        waiting = set()
        for _ in range(3):
            stream = self.h2.get_next_available_stream_id()
            head = [(":method", "GET"), (":scheme", "http"), (":authority", "a.example"), (":path", "/load")]
            self.h2.send_headers(stream, head, end_stream=True)
            waiting.add(stream)
        self.flush()
        while waiting:
            data = self.sock.recv(65536)
            assert data, f"the connection ended with {len(waiting)} streams open"
            for event in self.h2.receive_data(self.without_goaway(data)):
                if isinstance(event, h2.events.ResponseReceived):
                    assert dict(event.headers)[":status"] == "200", event.headers
                elif isinstance(event, h2.events.StreamEnded):
                    waiting.discard(event.stream_id)
                elif isinstance(event, h2.events.StreamReset):
                    raise AssertionError(f"a stream was reset with {event.error_code}")
            # those after the last one that counts were never looked at: they are asked again (RFC 9113 6.8)
            self.refused += sum(stream > self.last for stream in waiting)
            waiting = {stream for stream in waiting if stream <= self.last}
            with contextlib.suppress(OSError):
                self.flush()

    def without_goaway(self, data):
        """Whole frames (RFC 9113 4.1). The library takes GOAWAY for the end of everything; streams under way go on."""
        self.bytes += data
        whole = b""
        while len(self.bytes) >= 9 and len(self.bytes) >= (size := 9 + int.from_bytes(self.bytes[:3], "big")):
            frame, self.bytes = self.bytes[:size], self.bytes[size:]
            if frame[3] == 7:
                self.going = True
                self.last = int.from_bytes(frame[9:13], "big")
                assert frame[13:17] == bytes(4), "GOAWAY tells an error"
            else:
                whole += frame
        return whole


class Loads:
    """Starts them, stops them at the end of the block, and asserts that nothing failed."""

    def __init__(self, *loads):
        self.loads = loads

    def __enter__(self):
        for one in self.loads:
            one.start()
        self.more(3)
        return self

    def more(self, requests):
        """Waits until every client was answered so often from now on."""
        goals = [(one, one.answered + requests) for one in self.loads]
        deadline = time.monotonic() + 60
        while any(one.answered < goal and not one.failures for one, goal in goals):
            assert time.monotonic() < deadline, "the load stands still"
            time.sleep(0.01)
        self.check()

    def check(self):
        failures = [failure for one in self.loads for failure in one.failures]
        assert not failures, failures

    def __exit__(self, kind, error, trace):
        for one in self.loads:
            one.over.set()
        for one in self.loads:
            one.join(60)
        if error is None:
            self.check()

    def numbers(self):
        return ", ".join(f"{type(one).__name__} {one.answered} on {one.connections} connections" for one in self.loads)


def trusting(authority_file, name="a.example"):
    context = ssl.create_default_context(cafile=authority_file)
    return lambda sock: context.wrap_socket(sock, server_hostname=name)


def status(gateway, request=GET):
    with gateway.client(60) as client:
        return client.request(request).status


def rewrite(gateway, change):
    tree = yaml.safe_load(gateway.file.read_text())
    change(tree)
    gateway.file.write_text(yaml.safe_dump(tree, sort_keys=False))


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def listening(port):
    """Inodes of the sockets that listen at a port of 127.0.0.1."""
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file.readlines()[1:]]
    return {row[9] for row in rows if row[1] == f"0100007F:{port:04X}" and row[3] == "0A"}


def workers_of(gateway):
    found = []
    for pid in gateway.processes()[1:]:
        try:
            with open(f"/proc/{pid}/comm") as file:
                name = file.read().strip()
        except OSError:                               # it has ended since it was listed
            continue
        if name.startswith("fastgw-") and name != "fastgw-agent":
            found.append(pid)
    return found


def closes(answer):
    assert answer.status == 200
    return ("Connection", "close") in answer.headers


def handshake(context, port, session=None):
    raw = socket.create_connection(("127.0.0.1", port), timeout=60)
    with context.wrap_socket(raw, server_hostname="a.example", session=session) as sock:
        sock.sendall(GET)
        assert sock.recv(12) == b"HTTP/1.1 200"
        return sock.session_reused, sock.session


def local(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(path)
        client.sendall(GET)
        return int(client.recv(12).split()[1])


def caught(pid):
    """Signals that wait to be delivered (proc(5))."""
    with open(f"/proc/{pid}/status") as file:
        return any(line.startswith(("SigPnd", "ShdPnd")) and int(line.split()[1], 16) for line in file)
