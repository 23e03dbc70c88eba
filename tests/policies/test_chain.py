"""Policies together, through sockets: their order, local replies, pre-flights before authentication."""

import time

import jwt as pyjwt

from tests.patience import until

SECRET = "a-secret-of-thirty-two-characters!"
CONFIG = """
services: {{orders: "{url}"}}
policies:
  - request_id
  - headers: {{response: {{set: {{X-Gateway: fastgw}}}}}}
routes:
  - name: orders
    path: /orders/{{id}}
    service: orders
    policies:
      - jwt: {{secret: "{secret}", required_scopes: ["read:orders"]}}
      - rate_limit: {{requests: 3, per: 1h, by: consumer}}
      - cors: {{origins: ["https://app.example.com"], credentials: true}}
      - headers:
          request: {{set: {{X-Order: "${{route.params.id}}", X-Who: "${{consumer.name}}"}}, remove: [Origin]}}
  - path: /static
    policies: [{{respond: {{json: {{ok: true}}}}}}]
  - path: /old/*
    policies: [{{redirect: {{location: "/orders/${{route.params.*}}", status: 308}}}}]
"""


def token(**claims):
    body = {"sub": "ada", "scope": "read:orders", "exp": time.time() + 60, **claims}
    return pyjwt.encode(body, SECRET, "HS256").encode()


def get(client, path=b"/orders/7", headers=b"", method=b"GET"):
    return client.request(b"%s %s HTTP/1.1\r\nHost: example.com\r\n%s\r\n" % (method, path, headers))


def test_the_chain(gateway, upstream):
    running = gateway(CONFIG.format(url=upstream.url, secret=SECRET))
    auth = b"Authorization: Bearer %s\r\nX-User-Id: root\r\nOrigin: https://app.example.com\r\n" % token()
    with running.client() as client:
        response = get(client, headers=auth)
        assert (response.status, bytes(response.body)) == (200, b"ok")
        assert response.get("X-RateLimit-Remaining") == "2" and response.get("X-Gateway") == "fastgw"
        (seen,) = upstream.requests
        assert (seen.get("X-User-Id"), seen.get("X-Order"), seen.get("X-Who")) == ("ada", "7", "ada")
        assert "Authorization" not in seen and "Origin" not in seen
        assert seen.get("X-Request-ID") == response.get("X-Request-ID")

        assert [get(client, headers=auth).status for _ in range(3)] == [200, 200, 429]
        refused = get(client, headers=auth)
        assert refused.get("Retry-After") and refused.get("X-RateLimit-Remaining") == "0"
        assert refused.get("X-Gateway") == "fastgw", "local replies pass the response hooks too"
        assert len(upstream.requests) == 3
        until(lambda: running.stats.read_counters()["rate_limited"] == 2)

        refused = get(client)
        assert refused.status == 401 and refused.get("X-Request-ID")
        assert get(client, headers=b"Authorization: Bearer %s\r\n" % token(scope="none")).status == 403
    until(lambda: [record[1] for record in running.records[-2:]] == ["unauthorized", "insufficient_scope"])


def test_a_preflight_comes_before_authentication(gateway, upstream):
    running = gateway(CONFIG.format(url=upstream.url, secret=SECRET))
    asked = b"Origin: https://app.example.com\r\nAccess-Control-Request-Method: GET\r\n"
    with running.client() as client:
        response = get(client, headers=asked, method=b"OPTIONS")
        assert response.status == 204
        assert response.get("Access-Control-Allow-Origin") == "https://app.example.com"
        assert response.get("X-RateLimit-Remaining") is None, "it was not counted"
        assert get(client, headers=asked.replace(b"app", b"evil"), method=b"OPTIONS").status == 403
    assert upstream.requests == []


def test_answers_of_the_gateway_itself(gateway, upstream):
    running = gateway(CONFIG.format(url=upstream.url, secret=SECRET))
    with running.client() as client:
        response = get(client, b"/static")
        assert (response.status, bytes(response.body)) == (200, b'{"ok":true}')
        assert response.get("X-Gateway") == "fastgw"
        head = client.request(b"HEAD /static HTTP/1.1\r\nHost: a\r\n\r\n")
        assert head.status == 200 and head.get("Content-Length") == "11"
        response = get(client, b"/old/a/b?x=1")
        assert (response.status, response.get("Location")) == (308, "/orders/a/b?x=1")
        response = get(client, b"/old//evil.example")
        assert response.get("Location").startswith("/orders/")
