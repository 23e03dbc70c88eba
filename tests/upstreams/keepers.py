"""Contract fakes of Vault and of Kubernetes' secrets: HTTP servers written from the documented APIs.

They are no products: they answer what the documentation says these answer, and the tests say what is asked.
https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2, …/auth/approle#login-with-approle,
…/auth/kubernetes#login, …/auth/token#renew-a-token-self, …/auth/token#lookup-a-token-self
https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/secret-v1/
"""

import base64
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class Keeper:
    """`with FakeVault() as vault:`; `vault.asked` are the requests: (method, path, query, headers, body).

    `broken` is a status every request is answered with. `stop()` closes it, `start()` opens it at the same port.
    """

    def __init__(self, tls=None):
        self.asked = []
        self.broken = None
        self.tls = tls
        self.port = 0
        self.server = None

    def start(self):
        keeper = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                parts = urlsplit(self.path)
                query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
                size = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(size)) if size else None
                headers = {name.lower(): value for name, value in self.headers.items()}
                keeper.asked.append((self.command, parts.path, query, headers, body))
                if keeper.broken is not None:
                    status, answer = keeper.broken, {"errors": ["planted-in-an-error"]}
                else:
                    status, answer = keeper.answer(self.command, parts.path, query, headers, body)
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        scheme = "http"
        if self.tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self.tls)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
            scheme = "https"
        self.address = f"{scheme}://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def paths(self):
        return [path for _, path, *_ in self.asked]


class FakeVault(Keeper):
    """`versions[path]` is the list of versions of a secret, each a mapping or None (deleted)."""

    def __init__(self, tls=None, mount="secret", namespace=None):
        super().__init__(tls)
        self.mount = mount
        self.namespace = namespace
        self.versions = {}
        self.tokens = {"root-of-the-test"}
        self.approles = {"role-1": "planted-secret-id"}
        self.accounts = {"fastgw": "planted-account-jwt"}
        self.lease = 3600
        self.renewable = True
        self.logins = 0

    def put(self, path, **fields):
        self.versions.setdefault(path, []).append(fields)

    def let_in(self):
        self.logins += 1
        token = f"planted-vault-token-{self.logins}"
        self.tokens.add(token)
        auth = {"client_token": token, "lease_duration": self.lease, "renewable": self.renewable, "policies": ["edge"]}
        return 200, {"auth": auth}

    def answer(self, method, path, query, headers, body):
        if headers.get("x-vault-request") != "true":
            return 400, {"errors": ["no X-Vault-Request"]}
        if headers.get("x-vault-namespace") != self.namespace:
            return 403, {"errors": ["permission denied"]}
        if (method, path) == ("POST", "/v1/auth/approle/login"):
            known = self.approles.get(body["role_id"])
            return self.let_in() if known and known == body["secret_id"] else (400, {"errors": ["invalid role"]})
        if (method, path) == ("POST", "/v1/auth/kubernetes/login"):
            known = self.accounts.get(body["role"])
            return self.let_in() if known and known == body["jwt"] else (403, {"errors": ["permission denied"]})
        token = headers.get("x-vault-token")
        if token not in self.tokens:
            return 403, {"errors": ["permission denied"]}
        if (method, path) == ("POST", "/v1/auth/token/renew-self"):
            auth = {"client_token": token, "lease_duration": self.lease, "renewable": self.renewable}
            return 200, {"auth": auth}
        if (method, path) == ("GET", "/v1/auth/token/lookup-self"):
            return 200, {"data": {"id": token, "ttl": self.lease, "renewable": self.renewable}}
        before = f"/v1/{self.mount}/data/"
        if method != "GET" or not path.startswith(before):
            return 404, {"errors": []}
        versions = self.versions.get(path.removeprefix(before), [])
        number = int(query.get("version", 0)) or len(versions)
        if not 1 <= number <= len(versions):
            return 404, {"errors": []}
        fields = versions[number - 1]
        metadata = {"version": number, "destroyed": False, "deletion_time": "" if fields else "2027-01-01T00:00:00Z"}
        return (200 if fields is not None else 404), {"data": {"data": fields, "metadata": metadata}}


class FakeSecrets(Keeper):
    """`secrets[namespace, name]` is a mapping of key → text."""

    def __init__(self, tls=None):
        super().__init__(tls)
        self.token = "planted-account-token"
        self.secrets = {}

    def answer(self, method, path, query, headers, body):
        if headers.get("authorization") != f"Bearer {self.token}":
            return 401, {"kind": "Status", "code": 401}
        _, api, version, kind, namespace, plural, name = path.split("/")
        assert (method, api, version, kind, plural) == ("GET", "api", "v1", "namespaces", "secrets")
        found = self.secrets.get((namespace, name))
        if found is None:
            return 404, {"kind": "Status", "code": 404, "reason": "NotFound"}
        data = {key: base64.b64encode(text.encode()).decode() for key, text in found.items()}
        metadata = {"name": name, "namespace": namespace, "resourceVersion": "7"}
        return 200, {"kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data}
