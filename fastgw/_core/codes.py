"""The stable words for everything that can go wrong, with the status and the side each belongs to.

502, 503 and 504 mean one thing each: the upstream misbehaved, nobody could take the request, time ran out.
A client that left is 499. Policies may use words of their own; those count as "other" in the metrics.
"""

from typing import NamedTuple

DOWNSTREAM, GATEWAY, UPSTREAM = 1, 2, 3
SIDES = ("", "downstream", "gateway", "upstream")


class Code(NamedTuple):
    status: int
    side: int
    title: str


CODES: dict[str, Code] = {
    # parse
    "bad_request": Code(400, DOWNSTREAM, "The request is not valid HTTP"),
    "bad_target": Code(400, DOWNSTREAM, "The request target is not acceptable"),
    "header_timeout": Code(408, DOWNSTREAM, "The request head took too long"),
    "body_timeout": Code(408, DOWNSTREAM, "The request body stopped coming"),
    "body_too_large": Code(413, DOWNSTREAM, "The request body is larger than allowed"),
    "uri_too_long": Code(414, DOWNSTREAM, "The request target is longer than allowed"),
    "expectation_failed": Code(417, DOWNSTREAM, "The expectation is not supported"),
    "headers_too_large": Code(431, DOWNSTREAM, "The request head is larger than allowed"),
    "unsupported_transfer_encoding": Code(501, DOWNSTREAM, "The transfer coding is not supported"),
    "method_not_implemented": Code(501, DOWNSTREAM, "The method is not known"),
    "version_not_supported": Code(505, DOWNSTREAM, "The HTTP version is not supported"),
    "client_closed": Code(499, DOWNSTREAM, "The client closed the connection"),
    "client_stalled": Code(499, DOWNSTREAM, "The client stopped reading"),
    # route
    "not_found": Code(404, DOWNSTREAM, "No route matches"),
    "method_not_allowed": Code(405, DOWNSTREAM, "The method is not allowed here"),
    # policy
    "unauthorized": Code(401, DOWNSTREAM, "Authentication is required"),
    "invalid_key": Code(401, DOWNSTREAM, "The API key is not known"),
    "invalid_token": Code(401, DOWNSTREAM, "The token is not valid"),
    "token_expired": Code(401, DOWNSTREAM, "The token has expired"),
    "login_failed": Code(401, DOWNSTREAM, "The login did not succeed"),
    "token_revoked": Code(401, DOWNSTREAM, "The token was revoked"),
    "keys_unavailable": Code(503, GATEWAY, "The keys of the token's issuer are not known"),
    "verification_busy": Code(503, GATEWAY, "Too many new tokens are waiting to be verified"),
    "store_unavailable": Code(503, GATEWAY, "What this route must look up cannot be looked up"),
    "insufficient_scope": Code(403, DOWNSTREAM, "The token lacks a scope"),
    "forbidden": Code(403, DOWNSTREAM, "Access is refused"),
    "cors_refused": Code(403, DOWNSTREAM, "The origin is not allowed"),
    "rate_limited": Code(429, DOWNSTREAM, "Too many requests"),
    "limiter_full": Code(503, GATEWAY, "The rate limiter has no room"),
    "policy_unavailable": Code(503, GATEWAY, "A protection of this route cannot be built"),
    "policy_failed": Code(500, GATEWAY, "A policy failed"),
    "coalesce_timeout": Code(504, GATEWAY, "The shared request took too long"),
    # pool
    "no_endpoint": Code(503, GATEWAY, "The service has no endpoint"),
    "pool_exhausted": Code(503, GATEWAY, "The connection pool and its queue are full"),
    "queue_timeout": Code(503, GATEWAY, "No connection became free in time"),
    "upstream_connect_failed": Code(502, UPSTREAM, "The upstream cannot be reached"),
    "upstream_connect_timeout": Code(504, UPSTREAM, "The upstream did not accept in time"),
    # upstream
    "upstream_reset": Code(502, UPSTREAM, "The upstream closed the connection"),
    "upstream_protocol_error": Code(502, UPSTREAM, "The upstream's answer is not valid HTTP"),
    "upstream_headers_too_large": Code(502, UPSTREAM, "The upstream's answer has too large a head"),
    "upstream_truncated": Code(502, UPSTREAM, "The upstream's answer ended early"),
    "upstream_body_too_large": Code(502, UPSTREAM, "The upstream's answer is larger than a policy allows"),
    "upstream_response_timeout": Code(504, UPSTREAM, "The upstream did not answer in time"),
    "upstream_idle_timeout": Code(504, UPSTREAM, "The upstream stopped sending"),
    "route_timeout": Code(504, GATEWAY, "The request took longer than its route allows"),
    # the gateway itself
    "overloaded": Code(503, GATEWAY, "Too many connections"),
    "draining": Code(503, GATEWAY, "The gateway is going away"),
    "internal_error": Code(500, GATEWAY, "The gateway failed"),
    # later words stand at the end: see NAMES
    "upstream_tls_failed": Code(502, UPSTREAM, "The upstream's TLS handshake failed"),
    # connections of `protocol: tcp`; the status is for the access log alone
    "tunnel_idle_timeout": Code(504, GATEWAY, "Nothing went through the connection for too long"),
    "tunnel_timeout": Code(504, GATEWAY, "The connection lasted longer than its listener allows"),
    # WebSockets that the gateway closed; their status is 101
    "websocket_protocol_error": Code(400, DOWNSTREAM, "The client broke the WebSocket protocol"),
    "upstream_websocket_error": Code(502, UPSTREAM, "The upstream broke the WebSocket protocol"),
    "websocket_too_large": Code(413, DOWNSTREAM, "A WebSocket message is larger than allowed"),
    "websocket_pong_timeout": Code(504, DOWNSTREAM, "A ping of the gateway was not answered"),
    "websocket_idle_timeout": Code(504, GATEWAY, "The WebSocket was quiet for too long"),
    # TLS that passes through
    "bad_client_hello": Code(400, DOWNSTREAM, "The connection does not begin with a TLS ClientHello"),
    "client_hello_timeout": Code(408, DOWNSTREAM, "The TLS ClientHello took too long"),
    "unknown_server_name": Code(421, DOWNSTREAM, "No service has the name that is asked for"),
    # protection
    "ip_denied": Code(403, DOWNSTREAM, "This address may not come in"),
    "country_denied": Code(403, DOWNSTREAM, "This country or network may not come in"),
    # who calls, and what he may
    "key_expired": Code(401, DOWNSTREAM, "The API key has expired"),
    "invalid_credentials": Code(401, DOWNSTREAM, "The name or the password is wrong"),
    "invalid_signature": Code(401, DOWNSTREAM, "The signature of the request is not valid"),
    "request_replayed": Code(401, DOWNSTREAM, "The request was seen before"),
    "invalid_certificate": Code(401, DOWNSTREAM, "The client's certificate is not known"),
    "missing_role": Code(403, DOWNSTREAM, "The caller lacks a role"),
    "acl_refused": Code(403, DOWNSTREAM, "The caller is not on the list"),
    "rule_refused": Code(403, DOWNSTREAM, "A rule of this route is not met"),
    "authorizer_refused": Code(403, DOWNSTREAM, "The authorizer refuses"),
    "authorizer_unavailable": Code(503, GATEWAY, "The authorizer cannot be asked"),
    "authenticator_busy": Code(503, GATEWAY, "Too many passwords wait to be looked at"),
    "cross_site": Code(403, DOWNSTREAM, "The request comes from another site"),
    "bot_refused": Code(403, DOWNSTREAM, "This client is not served"),
    "attack_refused": Code(403, DOWNSTREAM, "The request looks like an attack"),
    "banned": Code(403, DOWNSTREAM, "This address may not come in for some time"),
    "short_of_memory": Code(503, GATEWAY, "The gateway is short of memory"),
    # limits of requests under way
    "service_overloaded": Code(503, GATEWAY, "Too many requests are under way at the service"),
    "contract_broken": Code(400, DOWNSTREAM, "The request is not what the contract says"),
    # a service that fails is not asked for a time
    "circuit_open": Code(503, GATEWAY, "The circuit breaker is open"),
    # those that wait before a service
    "service_queue_timeout": Code(503, GATEWAY, "It waited for too long before the service"),
    "service_queue_shed": Code(503, GATEWAY, "More important requests, or those of others, took its place"),
    "service_queue_delay": Code(503, GATEWAY, "The service has been behind for some time"),
    "worker_overloaded": Code(503, GATEWAY, "The gateway has more to do than it can"),
    # requests that a client may send twice
    "idempotency_key_wrong": Code(400, DOWNSTREAM, "The idempotency key is missing or malformed"),
    "idempotency_running": Code(409, DOWNSTREAM, "The first request with this key is still under way"),
    "idempotency_mismatch": Code(422, DOWNSTREAM, "This key was used for another request"),
    "idempotency_not_kept": Code(409, DOWNSTREAM, "The first answer to this key is not there any more"),
    "response_invalid": Code(502, UPSTREAM, "The upstream's answer is not what the contract says"),
    "quota_exceeded": Code(429, DOWNSTREAM, "The quota is used up"),
    # only-if-cached
    "not_cached": Code(504, DOWNSTREAM, "The cache has no answer to this"),
    # bodies that come encoded
    "unsupported_content_encoding": Code(415, DOWNSTREAM, "The encoding of the body is not known here"),
    "bad_content_encoding": Code(400, DOWNSTREAM, "The body is not what its encoding says"),
    "upstream_bad_encoding": Code(502, UPSTREAM, "The upstream's body is not what its encoding says"),
}

# Their order is the order of the counters in the metrics segment: append, never reorder.
NAMES: tuple[str, ...] = tuple(CODES)
INDEX: dict[str, int] = {name: index for index, name in enumerate(NAMES)}


def status_of(code: str) -> int:
    """The HTTP status a code is answered with; 500 for a word that is not ours."""
    known = CODES.get(code)
    return known.status if known else 500
