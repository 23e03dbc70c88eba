"""What each policy costs a request: CPU time of a worker, with it and without.

    python -m benchmarks.policies [NAME ...]     prints the table, and writes benchmarks/results/policies.{json,md}

One gateway with one worker answers on a route of each policy, and on one with none; one client asks over one
connection, with a few requests on their way at a time, so that waking up is not what is measured. What is told is the
CPU time of the worker's process for a request, less that of the route with none just before it: the loop's and, where a
policy has some, its threads'. The median of several rounds, and how far half of them lie apart. It is no test of load.
"""

from __future__ import annotations

import argparse
import base64
import json
import platform
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from fastgw.testing import FakeUpstream, GatewayProcess
from fastgw.testing.certificates import Authority
from fastgw.testing.process import descendants, free_port
from fastgw.testing.upstream import UpstreamConnection

RESULTS = Path(__file__).parent / "results"
ROUNDS = 9
REQUESTS = 800
BATCH = 20
"""Requests that are on their way at a time."""
SECRET = "a secret of more than thirty-two bytes"
PASSWORD = "$2b$04$koQhi7k71jW0VOFlA8zlM.sbiOzPCVn1rFzj9z8TYvm/Q4nrvI9pa"
"""Of `correct horse`."""
KEY = "client-0001"
HEAD = (
    "Host: api.example.com\r\nAccept: application/json, text/plain, */*\r\nAccept-Language: en-GB,en;q=0.9,de;q=0.7\r\n"
    "Accept-Encoding: gzip, deflate, br\r\nSec-Fetch-Site: same-origin\r\nOrigin: https://app.example.com\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0\r\n"
)
SCHEMA = {"type": "object", "properties": {"page": {"type": "integer"}, "of": {"type": "integer"}}}
DOCUMENT = {
    "openapi": "3.1.0",
    "paths": {"/things": {"get": {"responses": {"200": {"content": {"application/json": {
        "schema": {"type": "object", "required": ["ok"]}}}}}}}},
}  # fmt: skip


@dataclass(slots=True)
class Case:
    """A row: the policy, what about it, its item in the file, headers of the requests; `after` stand before it, and
    their cost is not its."""

    policy: str
    what: str
    item: Any
    headers: str | Callable[[str, int], str] = ""
    after: tuple[Any, ...] = ()
    tls: bool = False
    path: str = ""
    service: bool = False
    """It has to do with what a service answers: then there is one, else the gateway answers itself."""


def token() -> str:
    import jwt

    return jwt.encode({"sub": "ada", "scope": "read", "exp": int(time.time()) + 3600}, SECRET, "HS256")


class Message:
    """A request as the library of signatures wants it."""

    def __init__(self, path: str) -> None:
        self.method, self.url, self.headers = "GET", f"http://api.example.com{path}", {}


@cache
def ed25519() -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate()


def signed(path: str, number: int, key: str = "ada-1") -> str:
    """Headers of a request that nobody sent before (RFC 9421)."""
    from http_message_signatures import HTTPMessageSigner, HTTPSignatureKeyResolver, algorithms

    class Keys(HTTPSignatureKeyResolver):
        def resolve_private_key(self, key_id: str) -> Any:
            return SECRET.encode() if key_id == "ada-1" else ed25519()

    message: Any = Message(path)
    algorithm = algorithms.HMAC_SHA256 if key == "ada-1" else algorithms.ED25519
    signer = HTTPMessageSigner(signature_algorithm=algorithm, key_resolver=Keys())
    nonce = f"{time.time_ns()}-{number}"
    covered = ("@method", "@authority", "@path", "@query")
    signer.sign(message, key_id=key, nonce=nonce, covered_component_ids=covered)
    return "".join(f"{name}: {value}\r\n" for name, value in message.headers.items())


def signed_by_private_key(path: str, number: int) -> str:
    return signed(path, number, "ada-2")


def public_pem() -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem: bytes = ed25519().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


def sealed(purpose: str, cookie: str) -> str:
    """The cookie of a session that the gateway sealed."""
    from fastgw.policies._session import Sealer

    now = time.time()
    session = {"claims": {"sub": "ada"}, "end": now + 7200, "seen": now + 3600, "id_token": token()}
    return f"Cookie: {cookie}={Sealer([SECRET], purpose).seal(session)}\r\n"


def countries(file: Path) -> str:
    import mmdb_writer
    import netaddr

    writer = mmdb_writer.MMDBWriter(4, "Test")
    for number in range(100):
        writer.insert_network(netaddr.IPSet([f"127.0.{number}.0/24"]), {"country": {"iso_code": "DE"}})
    writer.to_db_file(str(file))
    return str(file)


def cases(folder: Path) -> list[Case]:
    key, bearer = f"X-API-Key: {KEY}\r\n", f"Authorization: Bearer {token()}\r\n"
    basic = f"Authorization: Basic {base64.b64encode(b'ada:correct horse').decode()}\r\n"
    (folder / "things.yaml").write_text(json.dumps(DOCUMENT))
    (folder / "key.pem").write_bytes(private_key())
    client = {"service": "id", "client_id": "gateway", "client_secret": SECRET, "path": "/token"}
    things = {"file": str(folder / "things.yaml"), "base": "/openapi"}
    staff = ("key_auth",)
    return [
        Case("request_id", "makes one", "request_id"),
        Case("memory", "", "memory"),
        Case("ban", "nobody is banned", "ban"),
        Case("ip", "1,000 ranges", {"ip": {"deny": [f"10.{n >> 8}.{n & 255}.0/24" for n in range(1000)]}}),
        Case("geo", "a country that may come in", {"geo": {
            "country_file": countries(folder / "country.mmdb"), "allow_countries": ["DE"]}}),
        Case("bot", "a User-Agent seen before", "bot"),
        Case("cors", "", {"cors": {"origins": ["https://app.example.com"]}}),
        Case("csrf", "", "csrf"),
        Case("security_headers", "five of them", {"security_headers": {"csp": "default-src 'self'"}}),
        Case("headers", "four edits", {"headers": {
            "request": {"set": {"X-A": "a", "X-Client": "${client.ip}"}}, "response": {"set": {"X-B": "b"},
                                                                                         "remove": ["Server"]}}}),
        Case("rate_limit", "", {"rate_limit": {"requests": 100_000_000, "per": "1s"}}),
        Case("key_auth", "", "key_auth", key),
        Case("jwt", "a token seen before", {"jwt": {"secret": SECRET}}, bearer),
        Case("jwt", "HS256, each verified", {"jwt": {"secret": SECRET, "cache": {"size": 0}}}, bearer),
        Case("basic_auth", "a password seen before", "basic_auth", basic),
        Case("hmac", "each signature is new", "hmac", signed),
        Case("hmac", "ed25519, each is new", "hmac", signed_by_private_key),
        Case("mtls", "", "mtls", tls=True),
        Case("session", "a sealed cookie, opened each time", {"session": {"secret": SECRET}},
             sealed("own session session __Host-session", "__Host-session")),
        Case("oidc", "a session seen before", {"oidc": {
            "service": "id", "base_url": "https://api.example.com", "issuer": "http://127.0.0.1:9",
            "client_id": "gateway", "client_secret": SECRET, "session": {"secret": SECRET}}},
             sealed("session http://127.0.0.1:9 gateway fastgw_session", "fastgw_session")),
        Case("any_of", "key_auth is the second", {"any_of": [{"jwt": {"secret": SECRET}}, "key_auth"]}, key),
        Case("all_of", "jwt and key_auth", {"all_of": [{"jwt": {"secret": SECRET}}, "key_auth"]}, key + bearer),
        Case("forward_auth", "an answer remembered", {"forward_auth": {
            "service": "id", "path": "/verify", "cache": {"ttl": "1h"}}}, bearer),
        Case("forward_auth", "asked each time", {"forward_auth": {"service": "id", "path": "/verify"}}, bearer),
        Case("oauth2_introspection", "a token seen before", {"oauth2_introspection": client | {"path": "/introspect"}},
             bearer),
        Case("client_credentials", "a token that holds", {"client_credentials": client}),
        Case("token_exchange", "a token seen before", {"token_exchange": client}, bearer),
        Case("identity", "two headers", {"identity": {"headers": {"X-User": "${consumer.name}", "X-Who": "b"}}}, key,
             staff),
        Case("identity_token", "one that is used again", {"identity_token": {
            "issuer": "https://gateway.internal", "private_key": f"file:{folder / 'key.pem'}"}}, key, staff),
        Case("authorize", "", {"authorize": {"roles": ["staff"]}}, key, staff),
        Case("acl", "", {"acl": {"allow": {"groups": ["staff"]}}}, key, staff),
        Case("abac", "one rule", {"abac": ['request.method == "GET" && "staff" in consumer.groups']}, key, staff),
        Case("opa", "a decision remembered", {"opa": {"service": "id", "path": "/decide", "cache": {"ttl": "1h"}}}, key,
             staff),
        Case("opa", "asked each time", {"opa": {"service": "id", "path": "/decide"}}, key, staff),
        Case("waf", "a GET with a query", "waf"),
        Case("validate", "a query of two numbers", {"validate": {"query": SCHEMA}}),
        Case("openapi", "", {"openapi": things}, path="/openapi/things"),
        Case("openapi", "responses: report", {"openapi": {**things, "base": "/report", "responses": "report"}},
             path="/report/things", service=True),
        Case("openapi", "responses: enforce", {"openapi": {**things, "base": "/enforce", "responses": "enforce"}},
             path="/enforce/things", service=True),
    ]  # fmt: skip


def private_key() -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


ANSWERS: dict[str, Any] = {
    "/verify": {},
    "/decide": {"result": True},
    "/introspect": {"active": True, "sub": "ada", "scope": "read", "exp": int(time.time()) + 7200},
    "/token": {"access_token": "t", "token_type": "Bearer", "expires_in": 7200, "issued_token_type":
               "urn:ietf:params:oauth:token-type:access_token"},
}  # fmt: skip


def serve(connection: UpstreamConnection) -> None:
    """The service, the authorizer, the engine and the authorization server, in one."""
    while True:
        request = connection.read_request()
        body = json.dumps(ANSWERS.get(request.target.partition("?")[0], {"ok": True})).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.send(head.encode() + body)


@dataclass(slots=True)
class Way:
    """One route, and the requests for it."""

    sock: socket.socket
    path: str
    headers: str | Callable[[str, int], str]
    made: int = 0

    def request(self) -> bytes:
        self.made += 1
        target = f"{self.path}?page=2&of=7"
        more = self.headers if isinstance(self.headers, str) else self.headers(target, self.made)
        return f"GET {target} HTTP/1.1\r\n{HEAD}{more}\r\n".encode()

    def ask(self, requests: list[bytes]) -> None:
        self.sock.sendall(b"".join(requests))
        data = b""
        for _ in requests:
            while b"\r\n\r\n" not in data:
                data += self.sock.recv(65536)
            head, _, data = data.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise SystemExit(f"{self.path}: {head.splitlines()[0].decode()} {data[:200]!r}")
            lengths = [int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
            while len(data) < lengths[0] if lengths else b"0\r\n\r\n" not in data:     # else it is chunked
                data += self.sock.recv(65536)
            data = data[lengths[0] :] if lengths else data.partition(b"0\r\n\r\n")[2]

    def round(self, worker: int, count: int) -> float:
        """Microseconds of CPU time for a request."""
        self.ask([self.request()])
        batches = [[self.request() for _ in range(BATCH)] for _ in range(max(1, count // BATCH))]
        before = cpu_ns(worker)
        for batch in batches:
            self.ask(batch)
        return (cpu_ns(worker) - before) / (len(batches) * BATCH) / 1000


def cpu_ns(pid: int) -> int:
    """CPU time of a process and all of its threads (proc(5), schedstat)."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir())


def config_of(chosen: list[Case], url: str, authority: Authority, port: int) -> dict[str, Any]:
    import hashlib

    pair = authority.leaf("localhost")
    answer: dict[str, Any] = {"respond": {"body": '{"ok": true}', "content_type": "application/json"}}

    def route(path: str, service: bool, *policies: Any) -> dict[str, Any]:
        if service:
            return {"path": path, "service": "up", "policies": list(policies)}
        return {"path": path, "policies": [*policies, answer]}

    routes = [route("/none", False), route("/none-key", False, "key_auth"), route("/none-service", True)]
    routes += [
        route(case.path or f"/case-{number}", case.service, *case.after, case.item)
        for number, case in enumerate(chosen)
    ]
    return {
        "server": {
            "workers": 1,
            "listeners": [
                {"bind": "127.0.0.1:${FASTGW_PORT}"},
                {"bind": f"127.0.0.1:{port}", "tls": {
                    "certificates": [{"cert": pair.cert, "key": pair.key}], "client_auth": "require",
                    "client_ca": authority.cert}},
            ],
            "limits": {"requests_per_connection": 2**31 - 1},
            "timeouts": {"idle": "1h"},
        },
        "observability": {"access_log": {"enabled": False}},
        "services": {"up": url, "id": url},
        "consumers": [{
            "name": "ada", "groups": ["staff"], "password": PASSWORD, "certificates": ["DNS:ada.example.com"],
            "keys": ["sha256:" + hashlib.sha256(KEY.encode()).hexdigest()],
            "signing_keys": [{"id": "ada-1", "secret": SECRET}, {"id": "ada-2", "public_key": public_pem()}],
        }],
        "routes": routes,
    }  # fmt: skip


def measure(wanted: list[str], rounds: int, count: int) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name, FakeUpstream(serve) as upstream:
        authority, port = Authority(Path(name)), free_port()
        client = authority.client("ada.example.com")
        chosen = [case for case in cases(Path(name)) if not wanted or case.policy in wanted]
        gateway = GatewayProcess(config_of(chosen, upstream.url, authority, port))
        context = ssl.create_default_context(cafile=authority.cert)
        context.load_cert_chain(client.cert, client.key)
        with gateway:
            plain = socket.create_connection(gateway.address)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            secure = context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost")
            key = f"X-API-Key: {KEY}\r\n"
            bases = {"plain": Way(plain, "/none", ""), "key": Way(plain, "/none-key", key),
                     "tls": Way(secure, "/none", ""), "service": Way(plain, "/none-service", "")}  # fmt: skip
            ways = [
                Way(secure if case.tls else plain, case.path or f"/case-{number}", case.headers)
                for number, case in enumerate(chosen)
            ]
            names = {Path(f"/proc/{pid}/comm").read_text().strip(): pid for pid in descendants(gateway.pid)}
            worker = names["fastgw-0"]
            for way in (*bases.values(), *ways):
                way.round(worker, count // 4)
            costs: list[list[float]] = [[] for _ in chosen]
            for _ in range(rounds):
                for case, way, found in zip(chosen, ways, costs, strict=True):
                    base = bases["tls" if case.tls else "key" if case.after else "service" if case.service else "plain"]
                    before = base.round(worker, count)
                    found.append(way.round(worker, count) - before)
        for case, found in zip(chosen, costs, strict=True):
            low, middle, high = statistics.quantiles(found, n=4) if len(found) > 1 else found * 3
            yield {"policy": case.policy, "what": case.what, "microseconds": round(middle, 1) + 0.0,     # no -0
                   "apart": round(high - low, 1)}  # fmt: skip


def page(rows: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    lines = [
        "# What policies cost", "",
        f"Made by `python -m benchmarks.policies` at {facts['commit']}, {facts['machine']}: CPU time of a worker for "
        "one request, threads included, beside that of the same request without the policy just before it; the "
        f"median of {facts['rounds']} rounds of {facts['requests']} requests. *Apart*: how far the middle half of the "
        "rounds lies apart, which is how sure a figure is.", "",
        "| policy | | µs per request | apart |", "|---|---|---|---|",
    ]  # fmt: skip
    lines += [f"| `{row['policy']}` | {row['what']} | {row['microseconds']:g} | {row['apart']:g} |" for row in rows]
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.policies", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="these policies alone; nothing is written then")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    args = parser.parse_args(arguments)
    rows = list(measure(args.names, args.rounds, args.requests))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    facts = {"commit": commit, "machine": f"Python {platform.python_version()}, {platform.machine()}",
             "rounds": args.rounds, "requests": args.requests}  # fmt: skip
    text = page(rows, facts)
    print(text)
    if not args.names:
        (RESULTS / "policies.json").write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
        (RESULTS / "policies.md").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
