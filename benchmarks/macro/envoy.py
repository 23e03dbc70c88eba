"""How Envoy is found, and configured for each workload."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Sequence
from typing import Any

from . import caches, edge, transcode
from .backend import HOME, JSON
from .setups import ORIGIN, UNLIMITED, Setup, Write
from .tokens import ISSUER, SECRET, TENANT


def find_envoy() -> str | None:
    """On the path, or in the environment that setup.sh makes."""
    own = HOME / "envoy" / "bin" / "envoy"
    return shutil.which("envoy") or (str(own) if own.exists() else None)


def typed(kind: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/envoy.{kind}", **fields}


def http_filter(name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": f"envoy.filters.http.{name}", "typed_config": typed(kind, **fields)}


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def envoy(jwt_cache: bool) -> Write:
    def write(setup: Setup) -> Sequence[str]:
        filters: list[dict[str, Any]] = []
        host: dict[str, Any] = {"name": "all", "domains": ["*"]}
        if setup.workload == "policy":
            filters = envoy_filters(setup, jwt_cache)
            host |= envoy_routes(setup)
        elif setup.workload == "static":
            answer = {"status": 200, "body": {"inline_string": JSON}}
            host["routes"] = [{"match": {"prefix": "/api/"}, "direct_response": answer}]
        else:
            route = {"cluster": "service", "timeout": "60s"}
            host["routes"] = [{"match": {"prefix": prefix}, "route": route} for prefix in ("/api/", "/bench.S/")]
        if setup.workload == "transcode":
            filters = [envoy_transcoder(setup)]
        elif setup.workload in caches.WORKLOADS:
            filters = envoy_cache()
        router = http_filter("router", "extensions.filters.http.router.v3.Router", suppress_envoy_headers=True)
        setup.put("envoy.json", json.dumps(envoy_bootstrap(setup, host, [*filters, router]), indent=1))
        flags = ["--concurrency", "1", "--disable-hot-restart", "-l", "error"]
        return [find_envoy() or "envoy", "-c", "envoy.json", *flags]

    return write


def envoy_cache() -> list[dict[str, Any]]:
    store = typed("extensions.http.cache.simple_http_cache.v3.SimpleHttpCacheConfig")
    # it leaves requests with a token alone
    drop = {"request_mutations": [{"remove": "authorization"}]}
    return [
        http_filter("header_mutation", "extensions.filters.http.header_mutation.v3.HeaderMutation", mutations=drop),
        http_filter("cache", "extensions.filters.http.cache.v3.CacheConfig", typed_config=store),
    ]


def envoy_transcoder(setup: Setup) -> dict[str, Any]:
    return http_filter(
        "grpc_json_transcoder",
        "extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        proto_descriptor=str(transcode.descriptors(setup.folder)),
        services=[transcode.SERVICE],
    )


def envoy_bootstrap(setup: Setup, host: dict[str, Any], filters: list[dict[str, Any]]) -> dict[str, Any]:
    manager = typed(
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="edge",
        codec_type="AUTO",
        use_remote_address=True,
        generate_request_id=True,
        stream_idle_timeout="0s",
        route_config={"name": "routes", "virtual_hosts": [host]},
        http_filters=filters,
    )
    http = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    chain: dict[str, Any] = {"filters": [http]}
    if setup.workload in edge.TLS:
        cert, key = edge.certificate(setup.folder)
        context = {
            "tls_certificates": [{"certificate_chain": {"filename": str(cert)}, "private_key": {"filename": str(key)}}],
            "alpn_protocols": ["h2"] if setup.workload in edge.HTTP2 else ["http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3"},
        }
        socket_context = typed("extensions.transport_sockets.tls.v3.DownstreamTlsContext", common_tls_context=context)
        chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": socket_context}
    listener = {
        "name": "edge",
        "address": address(setup.port),
        "tcp_backlog_size": 4096,
        "filter_chains": [chain],
    }
    bounds = ("max_connections", "max_pending_requests", "max_requests", "max_retries")
    endpoint = {"endpoint": {"address": address(setup.upstream)}}
    cluster = {
        "name": "service",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [dict.fromkeys(bounds, 100_000)]},
        "load_assignment": {"cluster_name": "service", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    if setup.workload in edge.HTTP2_UPSTREAM:
        explicit = {"http2_protocol_options": {"max_concurrent_streams": 1000}}
        options = typed("extensions.upstreams.http.v3.HttpProtocolOptions", explicit_http_config=explicit)
        name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        cluster["typed_extension_protocol_options"] = {name: options}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def envoy_routes(setup: Setup) -> dict[str, Any]:
    """The routes as a tree of prefixes (a list would be walked), then the one-segment template."""

    def one(i: int) -> dict[str, Any]:
        template = typed(
            "extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
            path_template=f"/api/svc{i:04d}/{{id}}",
        )
        name = "envoy.path.match.uri_template.uri_template_matcher"
        match = {"path_match_policy": {"name": name, "typed_config": template}}
        route = typed("config.route.v3.Route", match=match, route={"cluster": "service", "timeout": "60s"})
        return {"action": {"name": "route", "typed_config": route}}

    path = typed("type.matcher.v3.HttpRequestHeaderMatchInput", header_name=":path")
    path["@type"] = "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput"
    tree = {
        "input": {"name": "path", "typed_config": path},
        "prefix_match_map": {"map": {f"/api/svc{i:04d}/": one(i) for i in range(setup.routes)}},
    }
    cors = typed(
        "extensions.filters.http.cors.v3.CorsPolicy",
        allow_origin_string_match=[{"exact": ORIGIN}],
        allow_methods="GET, POST, PUT, DELETE",
        allow_headers="Authorization, Content-Type, X-Api-Key",
        expose_headers="X-Request-Id",
        max_age="600",
        allow_credentials=True,
    )
    return {
        "matcher": {"matcher_tree": tree},
        "typed_per_filter_config": {"envoy.filters.http.cors": cors},
        "response_headers_to_add": [{"header": {"key": "X-Gateway", "value": "envoy"}}],
        "response_headers_to_remove": ["x-powered-by"],
    }


def envoy_filters(setup: Setup, jwt_cache: bool) -> list[dict[str, Any]]:
    """CORS, rate limit per key, JWT, and RBAC for the claim."""
    key = base64.urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode()
    keys = {"keys": [{"kty": "oct", "kid": "bench", "alg": "HS256", "k": key}]}
    provider: dict[str, Any] = {
        "issuer": ISSUER,
        "local_jwks": {"inline_string": json.dumps(keys)},
        "forward": False,
        "payload_in_metadata": "claims",
        "claim_to_headers": [{"header_name": "x-user-id", "claim_name": "sub"}],
    }
    if jwt_cache:
        provider["jwt_cache_config"] = {"jwt_cache_size": 1000}
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}

    def bucket(rate: int) -> dict[str, Any]:
        return {"max_tokens": rate, "tokens_per_fill": rate, "fill_interval": "1s"}

    by_key = {"request_headers": {"header_name": "x-api-key", "descriptor_key": "key"}}
    limit = http_filter(
        "local_ratelimit",
        "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix="limit",
        token_bucket=bucket(UNLIMITED),
        filter_enabled=always,
        filter_enforced=always,
        max_dynamic_descriptors=10_000,
        # an entry without a value: each value that is seen has a bucket of its own
        descriptors=[{"entries": [{"key": "key"}], "token_bucket": bucket(setup.rate)}],
        rate_limits=[{"actions": [by_key]}],
    )
    authn = http_filter(
        "jwt_authn",
        "extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        providers={"bench": provider},
        rules=[{"match": {"prefix": "/"}, "requires": {"provider_name": "bench"}}],
    )
    tenant = {
        "filter": "envoy.filters.http.jwt_authn",
        "path": [{"key": "claims"}, {"key": "tenant"}],
        "value": {"string_match": {"exact": TENANT}},
    }
    policy = {
        "permissions": [{"any": True}],
        "principals": [{"sourced_metadata": {"metadata_matcher": tenant}}],
    }
    rules = {"action": "ALLOW", "policies": {"tenant": policy}}
    return [
        http_filter("cors", "extensions.filters.http.cors.v3.Cors"),
        limit,
        authn,
        http_filter("rbac", "extensions.filters.http.rbac.v3.RBAC", rules=rules),
    ]
