"""An issuer of tokens for tests: its keys, its discovery document and its tokens, on a free port of this host.

It is no OpenID provider: it publishes keys and signs what it is told to.
"""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, cast

import jwt as pyjwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from fastgw.testing.certificates import Pair

PRIVATE: dict[str, Callable[[], Any]] = {
    "RS256": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
}


class Handler(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        issuer: FakeIssuer = self.server.issuer
        issuer.hits.append(self.path)
        issuer.gate.wait(60)
        documents = {"/.well-known/openid-configuration": issuer.metadata, "/keys": issuer.jwks}
        document = documents.get(self.path)
        status = issuer.status if document else 404
        body = json.dumps(document() if document else {}).encode() if issuer.body is None else issuer.body
        self.send_response(status)
        for name, value in issuer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class FakeIssuer:
    """`with FakeIssuer() as issuer: issuer.token(sub="ada")`. `status`, `body` and `headers` change its answers;
    `gate.clear()` makes it not answer; `hits` are the paths that were asked for."""

    def __init__(self, pair: Pair | None = None) -> None:
        """`pair`: it speaks TLS with this certificate, which must be good for `localhost`."""
        self.keys: dict[str, tuple[str, Any]] = {}
        self.status = 200
        self.body: bytes | None = None
        self.headers: dict[str, str] = {}
        self.extra: dict[str, Any] = {}
        self.hits: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.server = cast(Any, ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        self.server.daemon_threads = True
        self.server.issuer = self
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        if pair is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair.cert, pair.key)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            self.url = f"https://localhost:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self.add("first")

    def add(self, kid: str, algorithm: str = "ES256") -> None:
        self.keys[kid] = algorithm, PRIVATE[algorithm]()

    def remove(self, kid: str) -> None:
        """It goes from what is published; `token(kid=…)` is no longer possible either."""
        del self.keys[kid]

    def jwk(self, kid: str) -> dict[str, Any]:
        algorithm, private = self.keys[kid]
        found: dict[str, Any] = json.loads(pyjwt.get_algorithm_by_name(algorithm).to_jwk(private.public_key()))
        return {**found, "kid": kid, "alg": algorithm, "use": "sig"}

    def jwks(self) -> dict[str, Any]:
        return {"keys": [self.jwk(kid) for kid in list(self.keys)]}

    def metadata(self) -> dict[str, Any]:
        return {"issuer": self.url, "jwks_uri": f"{self.url}/keys", **self.extra}

    def token(self, kid: str = "first", headers: dict[str, Any] | None = None, **claims: Any) -> str:
        algorithm, private = self.keys[kid]
        told = {"iss": self.url, "sub": "ada", "exp": int(time.time()) + 600, **claims}
        return pyjwt.encode(
            {name: value for name, value in told.items() if value is not None},
            private, algorithm=algorithm, headers={"kid": kid, **(headers or {})},
        )  # fmt: skip

    def __enter__(self) -> FakeIssuer:
        self.thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(30)
