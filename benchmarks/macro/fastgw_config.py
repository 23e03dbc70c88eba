"""fastgw's own configuration for each workload, in the words of docs/configuration.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from . import caches, edge, sockets, transcode
from .backend import JSON
from .process import free_port
from .tokens import SECRET, TENANT

ROOT = Path(__file__).resolve().parents[2]
ORIGIN = "https://app.example.com"
# As the others do it: a new id to the upstream, none to the client, no word about the limits to the client.
REQUEST_ID = {"request_id": {"response": False}}
CIPHERSUITE = "TLS_AES_128_GCM_SHA256"
SINGLE_PROCESS = ("--single",)
"""Makes `fastgw run` one process without a supervisor."""


def render(
    workload: str,
    *,
    port: int,
    upstream: int,
    routes: int,
    rate: int,
    token_cache: bool,
    certificate: tuple[Path, Path] | None = None,
) -> str:
    config: dict[str, Any] = {
        "server": {
            "listeners": [{"bind": f"127.0.0.1:{port}"}],
            "workers": 1,
            # connections are kept as long as the other gateways keep them
            "limits": {"connections": 12_000, "requests_per_connection": 1_000_000_000},
            "timeouts": {"idle": "1h"},
        },
        "admin": {"bind": f"127.0.0.1:{free_port()}"},
        # the others begin no traces either; metrics stay on
        "observability": {
            "access_log": {"enabled": False},
            "tracing": {"enabled": False},
            "metrics": {"enabled": True},
        },
        # as many connections to the backend as the others may keep: 512 streams at a time come over HTTP/2
        "services": {
            "service": {
                "endpoints": [f"http://127.0.0.1:{upstream}"],
                "pool": {"max_connections": 1024, "max_idle": 512},
            }
        },
    }
    if certificate is not None:
        listener = config["server"]["listeners"][0]
        listener["tls"] = {
            "certificates": [{"cert": str(certificate[0]), "key": str(certificate[1])}],
            "min_version": "1.3",
            "ciphersuites": [CIPHERSUITE],
        }
    if workload in edge.HTTP2_UPSTREAM:
        config["services"]["service"]["protocol"] = "h2c"
        config["services"]["service"]["http2"] = {"max_concurrent_streams": 1000}
    if workload == "static":
        answer = {"status": 200, "body": JSON, "content_type": "application/json"}
        del config["services"]
        config["routes"] = [{"path": "/api/*", "policies": [{"respond": answer}]}]
    elif workload == "policy":
        config["policies"] = policies(rate, token_cache)
        config["routes"] = [{"path": f"/api/svc{i:04d}/{{id}}", "service": "service"} for i in range(routes)]
    else:
        config["policies"] = [REQUEST_ID]
        more: dict[str, Any] = {"websocket": workload in sockets.WORKLOADS}
        if workload == "transcode":
            more["policies"] = [{"grpc_transcode": {"descriptors": transcode.FILE}}]
        elif workload in caches.WORKLOADS:
            more["policies"] = [caches.FASTGW]
        config["routes"] = [{"path": path, "service": "service", **more} for path in ("/api/*", "/bench.S/*")]
    return yaml.safe_dump(config, sort_keys=False)


def policies(rate: int, token_cache: bool) -> list[Any]:
    """In the order of the other gateways: CORS, the limit, the token, the header edits."""
    cors = {
        "origins": [ORIGIN],
        "methods": ["GET", "POST", "PUT", "DELETE"],
        "headers": ["Authorization", "Content-Type", "X-Api-Key"],
        "expose": ["X-Request-Id"],
        "credentials": True,
        "max_age": "10m",
    }
    token: dict[str, Any] = {"secret": SECRET, "algorithm": "HS256", "required_claims": {"tenant": TENANT}}
    if not token_cache:
        token["cache"] = {"size": 0}
    limit = {
        "requests": min(rate, 100_000_000),  # the most it takes for a second
        "per": "1s",
        "by": "header:X-Api-Key",
        "headers": False,
    }
    return [
        REQUEST_ID,
        {"cors": cors},
        {"rate_limit": limit},
        {"jwt": token},
        {"headers": {"response": {"set": {"X-Gateway": "fastgw"}, "remove": ["X-Powered-By"]}}},
    ]
