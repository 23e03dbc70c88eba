"""Sessions are listed and ended by the admin API."""

import time

from fastgw.testing import FakeUpstream, GatewayProcess
from tests.admin.test_keys import TOKEN, admin
from tests.policies.test_session import app
from tests.store.redis_server import RedisServer, needed


@needed
def test_listed_and_ended(tmp_path):
    with RedisServer(tmp_path) as server, FakeUpstream(app) as upstream:
        session = {"store": "redis", "interval": "100ms", "login": True, "excluded_paths": ["/login"]}
        config = {
            "admin": {"token": TOKEN},
            "stores": {"redis": {"url": server.url, "deadline": "5s", "timeout": "5s"}},
            "services": {"app": upstream.url},
            "routes": [{"path": "/*", "service": "app", "policies": [{"session": session}]}],
        }
        with GatewayProcess(config) as gateway:

            def get(path, cookie=None):
                head = f"Cookie: __Host-session={cookie}\r\n" if cookie else ""
                with gateway.client() as client:
                    answer = client.request(f"GET {path} HTTP/1.1\r\nHost: h\r\n{head}\r\n".encode())
                return answer.status, (answer.get("Set-Cookie") or "").partition(";")[0].partition("=")[2]

            def ends(cookie):
                deadline = time.monotonic() + 30
                while get("/x", cookie)[0] != 401:
                    assert time.monotonic() < deadline
                    time.sleep(0.02)

            ada, again, bob = (get(f"/login?{name}")[1] for name in ("ada", "ada", "bob"))
            assert get("/x", ada)[0] == get("/x", bob)[0] == 200
            rows = admin(gateway, "GET", "/sessions")[1]
            assert sorted(row["user"] for row in rows) == ["ada", "ada", "bob"]
            mine = {f"session/{cookie.partition('.')[0]}" for cookie in (ada, again)}
            assert {row["id"] for row in admin(gateway, "GET", "/users/ada/sessions")[1]} == mine
            assert all(ada.partition(".")[2] not in str(row) for row in rows)
            assert admin(gateway, "DELETE", f"/sessions/session/{bob.partition('.')[0]}")[0] == 200
            ends(bob)
            assert set(admin(gateway, "DELETE", "/users/ada/sessions")[1]["ended"]) == mine
            ends(ada)
            ends(again)
            assert admin(gateway, "GET", "/sessions")[1] == []
            for method, path, status, code in (
                ("DELETE", f"/sessions/session/{bob.partition('.')[0]}", 404, "unknown_session"),
                ("POST", "/sessions", 405, "method_not_allowed"),
                ("GET", "/sessions/a", 404, "not_found"),
            ):
                told = admin(gateway, method, path)
                assert (told[0], told[1]["code"]) == (status, code)
            assert admin(gateway, "GET", "/sessions", token="wrong")[0] == 401
            server.kill()
            assert admin(gateway, "GET", "/sessions")[1]["code"] == "store_unavailable"
