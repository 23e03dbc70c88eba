"""Does a gateway answer rightly? Asked before it is timed: a fast wrong answer is no result."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .backend import JSON
from .process import BenchError
from .tokens import SUBJECT, token

ORIGIN = "https://app.example.com"
API_HEADERS = {"Origin": ORIGIN, "X-Api-Key": "client-0001"}


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("latin-1")


def ask(port: int, path: str, headers: Mapping[str, str] | None = None, method: str = "GET") -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, headers=dict(headers or {}))
        response = connection.getresponse()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, named, response.read())
    finally:
        connection.close()


def expect(condition: object, what: str, answer: Answer) -> None:
    if not condition:
        raise BenchError(f"wrong answer: {what}; got {answer.status} {dict(answer.headers)} {answer.text[:300]!r}")


def bearer(kind: str = "good") -> dict[str, str]:
    return {**API_HEADERS, "Authorization": f"Bearer {token(kind)}"}


def plain(port: int) -> None:
    answer = ask(port, "/api/item")
    expect(answer.status == 200 and answer.text == JSON, "the backend's JSON", answer)
    echo = ask(port, "/api/echo").text.lower()
    answer = ask(port, "/api/echo", {"X-Forwarded-For": "203.0.113.7"})
    expect("x-forwarded-for: " in echo and "127.0.0.1" in echo, "X-Forwarded-For to the upstream", answer)
    expect("x-request-id: " in echo, "X-Request-Id to the upstream", answer)
    answer = ask(port, "/elsewhere")
    expect(answer.status == 404, "404 where no route is", answer)


def static(port: int) -> None:
    answer = ask(port, "/api/item")
    expect(answer.status == 200 and answer.text == JSON, "the configured JSON", answer)


def body(size: int) -> Callable[[int], None]:
    def check(port: int) -> None:
        answer = ask(port, f"/api/bytes/{size}")
        expect(answer.status == 200 and answer.body == b"x" * size, f"{size} bytes", answer)

    return check


def policy(port: int) -> None:
    answer = ask(port, "/api/svc0042/item", bearer())
    expect(answer.status == 200 and answer.text == JSON, "200 with a good token", answer)
    expect(answer.headers.get("x-gateway"), "X-Gateway on the answer", answer)
    expect("x-powered-by" not in answer.headers, "no X-Powered-By on the answer", answer)
    expect(answer.headers.get("access-control-allow-origin") == ORIGIN, "the origin allowed", answer)

    answer = ask(port, "/api/svc0042/echo", bearer() | {"X-User-Id": "mallory"})
    seen = answer.text.lower()
    expect(
        f"x-user-id: {SUBJECT}\r\n" in seen and "mallory" not in seen,
        "X-User-Id from the token alone",
        answer,
    )
    expect("\r\nauthorization:" not in seen, "no token to the upstream", answer)
    expect("\r\nx-request-id: " in seen and "\r\nx-forwarded-for: " in seen, "forwarding headers", answer)

    answer = ask(port, "/api/svc0042/item", API_HEADERS)
    expect(answer.status == 401, "401 without a token", answer)
    for kind in ("expired", "bad_signature", "unsigned", "other_tenant"):
        answer = ask(port, "/api/svc0042/item", bearer(kind))
        allowed = (401, 403) if kind == "other_tenant" else (401,)
        expect(answer.status in allowed, f"{kind} token refused", answer)

    for path in ("/api/svc1000/item", "/api/svc0042/a/b", "/elsewhere"):
        answer = ask(port, path, bearer())
        # Envoy and a gateway with policies for every route may ask for the token first; we send a good one
        expect(answer.status == 404, f"404 for {path}", answer)

    preflight = {"Origin": ORIGIN, "Access-Control-Request-Method": "PUT"}
    answer = ask(port, "/api/svc0042/item", preflight, "OPTIONS")
    expect(answer.status in (200, 204), "pre-flight without a token", answer)
    expect(answer.headers.get("access-control-allow-origin") == ORIGIN, "pre-flight allows the origin", answer)
    expect("PUT" in answer.headers.get("access-control-allow-methods", ""), "pre-flight allows PUT", answer)


def limit(port: int, rate: int) -> None:
    """Against a gateway started with a low rate: one key is limited, another is not."""
    for _ in range(rate + 20):
        answer = ask(port, "/api/svc0001/item", bearer() | {"X-Api-Key": "greedy"})
        if answer.status == 429:
            break
    expect(answer.status == 429, f"429 above {rate} requests a second", answer)
    answer = ask(port, "/api/svc0001/item", bearer() | {"X-Api-Key": "modest"})
    expect(answer.status == 200, "another key is not limited", answer)
