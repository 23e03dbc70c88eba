"""Planted secrets appear in nothing that the gateway shows or writes."""

from fastgw.testing import FakeUpstream, GatewayProcess

SECRETS = ("planted-jwt-secret-0123456789abcdef", "planted-admin-token", "ab" * 32)
CONFIG = {
    "admin": {"token": SECRETS[1]},
    "consumers": [{"name": "someone", "keys": ["sha256:" + SECRETS[2]]}],
    "routes": [{"path": "/closed", "service": "up", "policies": [{"jwt": {"secret": SECRETS[0]}}, "key_auth"]}],
}
TOKEN = {"Authorization": f"Bearer {SECRETS[1]}"}


def serve(connection):
    connection.read_request()


def test_no_secret_is_shown_anywhere():
    with FakeUpstream(serve) as up, GatewayProcess({**CONFIG, "services": {"up": up.url}}) as gateway:
        with gateway.client() as client:
            refused = client.request(b"GET /closed HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x.y.z\r\n\r\n")
        assert refused.status == 401
        shown = [gateway.admin(path, headers=TOKEN)[1] for path in ("/config", "/routes", "/services", "/metrics")]
        gateway.file.write_text(gateway.file.read_text().replace("key_auth", "key_aut"))
        status, body = gateway.admin("/config/reload", "POST", TOKEN)
        assert status == 400
        everything = "\n".join([*shown, body, refused.body.decode(), gateway.stdout, gateway.stderr])
        assert '"secret":"***"' in everything
        for secret in SECRETS:
            assert secret not in everything
