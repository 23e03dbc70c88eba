"""What verbs say of the admin listener when it is not there, or wants a token."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from fastgw.cli import main


class Listener(BaseHTTPRequestHandler):
    def do_GET(self):
        good = self.headers.get("Authorization") == "Bearer right"
        body = b"[]" if good else b'{"code": "unauthorized", "detail": "Send the admin token."}'
        self.send_response(200 if good else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


@pytest.fixture(scope="module")
def address():
    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_its_address_may_be_a_url(address, capsys):
    for written in (address, f"http://{address}", f"http://{address}/"):
        assert main(["keys", "list", "--admin", written, "--token", "right"]) == 0
    capsys.readouterr()


def test_it_wants_a_token(address, capsys, monkeypatch):
    monkeypatch.delenv("ADMIN_TOKEN", raising=False)
    assert main(["keys", "list", "--admin", address]) == 1
    assert "wants a token (--token, or $ADMIN_TOKEN)" in capsys.readouterr().err
    assert main(["keys", "list", "--admin", address, "--token", "planted"]) == 1
    said = capsys.readouterr().err
    assert "wants another token" in said and "planted" not in said


def test_nobody_is_there(capsys):
    assert main(["keys", "list", "--admin", "127.0.0.1:nothing"]) == 3
    assert "does not answer" in capsys.readouterr().err
