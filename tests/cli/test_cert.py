"""`fastgw cert` writes what a TLS library trusts, and a listener that `check` takes."""

import os
import ssl
import subprocess
import sys

import pytest

from fastgw.cli import main
from fastgw.config import check
from fastgw.policies import RESOLVER

TAIL = "\nservices: {up: 'http://127.0.0.1:9001'}\nroutes: [{path: /x, service: up}]\n"


def handshake(cert, key, trusted, name):
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context(cafile=trusted)
    server.load_cert_chain(cert, key)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname=name)
    there = server.wrap_bio(to_server, to_client, server_side=True)
    done = set()
    for _ in range(10):
        for side in (here, there):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                continue
        if len(done) == 2:
            return
    raise AssertionError("the handshake does not end")


def snippet(printed):
    begin = printed.index("server:\n")
    return printed[begin : printed.index("\n\nthen:")]


@pytest.mark.parametrize("authority", [False, True])
def test_the_files_are_trusted_and_the_snippet_is_right(tmp_path, capsys, authority):
    arguments = ["cert", "--name", "Dev.example", "--name", "*.dev.example", "--out", str(tmp_path)]
    assert main([*arguments, "--ca"] if authority else arguments) == 0
    printed = capsys.readouterr().out
    cert, key = tmp_path / "dev.example.crt", tmp_path / "dev.example.key"
    trusted = tmp_path / "ca.crt" if authority else cert
    for name in ("dev.example", "a.dev.example", "localhost", "127.0.0.1", "::1"):
        handshake(cert, key, trusted, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(cert, key, trusted, "other.example")
    for path in tmp_path.iterdir():
        assert str(path) in printed
        if path.suffix == ".key":
            assert path.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in printed
    config, problems = check(snippet(printed) + TAIL, resolver=RESOLVER, env={})
    assert problems == []
    assert config.server.listeners[0].tls.certificates[0].cert == str(cert)
    assert f"curl --cacert {trusted} https://dev.example:8443/" in printed


def test_an_authority_signs_again(tmp_path):
    assert main(["cert", "--ca", "--out", str(tmp_path)]) == 0
    before = (tmp_path / "ca.crt").read_bytes()
    assert main(["cert", "--ca", "--out", str(tmp_path), "--name", "two.example"]) == 0
    assert (tmp_path / "ca.crt").read_bytes() == before
    for name in ("localhost", "two.example"):
        handshake(tmp_path / f"{name}.crt", tmp_path / f"{name}.key", tmp_path / "ca.crt", name)


def test_nothing_is_written_over(tmp_path, capsys):
    assert main(["cert", "--out", str(tmp_path)]) == 0
    before = (tmp_path / "localhost.key").read_bytes()
    assert main(["cert", "--out", str(tmp_path)]) == 3
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "localhost.key").read_bytes() == before
    assert main(["cert", "--out", str(tmp_path), "--force"]) == 0
    assert (tmp_path / "localhost.key").read_bytes() != before


def test_an_authority_that_can_not_sign(tmp_path, capsys):
    assert main(["cert", "--ca", "--out", str(tmp_path / "a")]) == 0
    assert main(["cert", "--ca", "--out", str(tmp_path / "b")]) == 0
    os.replace(tmp_path / "b" / "ca.key", tmp_path / "a" / "ca.key")
    assert main(["cert", "--ca", "--out", str(tmp_path / "a"), "--name", "x.example"]) == 3
    assert "does not belong to" in capsys.readouterr().err
    (tmp_path / "a" / "ca.key").unlink()
    assert main(["cert", "--ca", "--out", str(tmp_path / "a"), "--name", "x.example"]) == 3
    assert "can not be read" in capsys.readouterr().err
    assert not (tmp_path / "a" / "x.example.crt").exists()


@pytest.mark.parametrize("arguments", [["--name", "a b"], ["--days", "0"], ["--days", "x"], ["--name", "a.*.b"]])
def test_wrong_usage(arguments, tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "fastgw", "cert", "--out", str(tmp_path), *arguments], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "fastgw cert: " in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_can_not_be(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["cert", "--out", str(tmp_path / "file" / "below")]) == 3
    assert "cannot be written" in capsys.readouterr().err
