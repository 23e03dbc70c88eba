"""A listener begins and ends to speak TLS, or to want certificates, by reload; connections that are open go on."""

import contextlib
import socket
import ssl

import pytest
import yaml

from fastgw.testing import GatewayProcess, free_port
from fastgw.testing.certificates import Authority


@pytest.mark.parametrize("workers", [1, 2])
def test_plain_to_tls_and_back_on_one_address(tmp_path, workers):
    pki = Authority(tmp_path / "pki")
    leaf, port = pki.leaf("a.example"), free_port()

    def config(tls=None):
        listener = {"bind": f"127.0.0.1:{port}"}
        if tls is not None:
            listener["tls"] = {"certificates": [{"cert": leaf.cert, "key": leaf.key}], **tls}
        return {
            "server": {"workers": workers, "listeners": [listener]},
            "services": {},
            "routes": [{"path": "/*", "policies": [{"respond": {"body": "here\n"}}]}],
        }

    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(GatewayProcess(config()))

        def reload(**tls):
            new = {**config(tls or None), "admin": {"bind": f"127.0.0.1:{gateway.admin_port}"}}
            gateway.file.write_text(yaml.safe_dump(new))
            assert gateway.admin("/config/reload", "POST")[0] == 200

        def plain():
            return stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))

        def encrypted():
            context = ssl.create_default_context(cafile=pki.cert)
            return stack.enter_context(context.wrap_socket(plain(), server_hostname="a.example"))

        def ask(sock):
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
            data = b""
            while not data.endswith((b"here\n", b"}")):
                more = sock.recv(4096)
                assert more, data
                data += more
            return data

        first = plain()
        assert ask(first).endswith(b"here\n")
        reload(min_version="1.2")
        second = encrypted()
        assert ask(first).endswith(b"here\n") and ask(second).endswith(b"here\n")
        assert b"plain_http" in ask(plain())
        reload(client_auth="require", client_ca=str(pki.cert))
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(encrypted())
        reload()
        assert ask(plain()).endswith(b"here\n") and ask(second).endswith(b"here\n")
