"""probe: what the built-in policies cost an exchange, their request and response hooks together."""
import hashlib
import time

import jwt

from fastgw._core.probe import measure
from fastgw._core.policy import PythonHook
from fastgw.config.schema.consumers import Consumer
from fastgw.policies import BuildContext, resolve
from fastgw.policies.base import Policy

SECRET = "0123456789abcdef0123456789abcdef"
TOKEN = jwt.encode(
    {"sub": "user-0001", "scope": "read:orders write:orders", "exp": int(time.time()) + 3600}, SECRET, "HS256"
)
REQUEST = (
    b"GET /api/svc0042/item-7?page=2 HTTP/1.1\r\n"
    b"Host: api.example.com\r\n"
    b"Sec-Fetch-Site: same-origin\r\n"
    b"Accept: application/json, text/plain, */*\r\n"
    b"Accept-Language: en-GB,en;q=0.9,de;q=0.7\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n"
    b"Origin: https://app.example.com\r\n"
    b"Referer: https://app.example.com/orders\r\n"
    b"X-Api-Key: client-0001\r\n"
    b"Authorization: Bearer " + TOKEN.encode() + b"\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: backend\r\nDate: Fri, 20 Nov 2026 12:00:00 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: 154\r\nX-Powered-By: bench\r\n\r\n"
)
KEY = "sha256:" + hashlib.sha256(b"client-0001").hexdigest()
CALLER = Consumer(name="client-0001", groups=["staff"], scopes=["read:orders"], keys=[KEY])
OPTIONS = {
    "request_id": {},
    "ip": {"deny": [f"10.{i >> 8}.{i & 255}.0/24" for i in range(1000)]},
    "ban": {},
    "memory": {},
    "csrf": {},
    "bot": {},
    "waf": {},
    "security_headers": {"csp": "default-src 'self'", "hsts": {"max_age": "365d"}},
    "key_auth": {},
    "identity": {},
    "authorize": {"scopes": ["read:orders"], "roles": ["staff"]},
    "acl": {"allow": {"groups": ["staff"]}},
    "abac": ['request.method == "GET" && "staff" in consumer.groups'],
    "any_of": [{"jwt": {"secret": "another one, of 32 bytes at the least"}}, "key_auth"],
    "all_of": [{"jwt": {"secret": SECRET}}, "key_auth"],
    "cors": {"origins": ["https://app.example.com"]},
    "jwt": {"secret": SECRET, "required_scopes": ["read:orders"]},
    "rate_limit": {"requests": 100_000_000, "per": "1s", "by": "header:X-Api-Key"},
    "headers": {
        "request": {"set": {"X-Gateway": "fastgw", "X-Client": "${client.ip}"}, "remove": ["X-Debug"]},
        "response": {"set": {"X-Served-By": "fastgw"}, "remove": ["Server", "X-Powered-By"]},
    },
}


def hook(name, **changes):
    policy = resolve(name)
    context = BuildContext(policy_key=name, consumers=(CALLER,))
    options = {**OPTIONS[name], **changes} if changes else OPTIONS[name]
    found = policy(policy.Options.model_validate(options), context)
    return found.hook() or PythonHook(found, Policy)


class InPython(Policy):
    """One of somebody's own: reads a header and sets one."""

    name = "in_python"

    def request(self, exchange):
        if exchange.request.get("X-Api-Key") is not None:
            exchange.request.set("X-Seen", "yes")



def case(*hooks, request=REQUEST):
    def run(n):
        measure(hooks, request, RESPONSE, n)

    return run


AFTER_KEY_AUTH = ("authorize", "acl", "abac")
CASES = [(name, case(hook(name))) for name in OPTIONS if name not in AFTER_KEY_AUTH]
CASES += [("csrf, of a POST", case(hook("csrf"), request=REQUEST.replace(b"GET", b"POST", 1)))]
CASES += [(f"key_auth, {name}", case(hook("key_auth"), hook(name))) for name in AFTER_KEY_AUTH]
CASES += [
    ("a policy in Python", case(PythonHook(InPython({}, BuildContext()), Policy))),
    ("jwt, token cache off", case(hook("jwt", cache={"size": 0}))),
    ("cors, jwt, rate_limit, headers", case(*[hook(name) for name in ("cors", "jwt", "rate_limit", "headers")])),
]
