"""Descriptors asked of a real server, by a process of its own."""

import contextlib
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha import reflection, reflection_pb2

from fastgw.protocols.descriptors import Descriptors
from fastgw.protocols.reflection import ReflectionError, ask
from fastgw.testing import free_port
from fastgw.testing.certificates import Authority

SERVICE = "fastgw.demo.v1.Library"
NEEDLESS = "grpc.reflection.v1alpha.ServerReflection"


@contextlib.contextmanager
def serving(library, version=None, credentials=None):
    """A server that tells the demo's descriptors, in one version of the protocol; its address."""
    server = grpc.server(ThreadPoolExecutor(2))
    if version is not None:
        servicer = reflection.ReflectionServicer((SERVICE, NEEDLESS), pool=Descriptors(library).pool)
        handler = grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        name = f"grpc.reflection.{version}.ServerReflection"
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler}),)
        )
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_a_server_tells_its_services(library, version):
    with serving(library, version) as address:
        found = Descriptors(ask(f"http://{address}", 10))
    assert list(found.services) == [SERVICE]
    names = {method.name for method in Descriptors(library).methods()}
    assert {method.name for method in found.methods()} == names
    rules = {rule.template.text for method in found.methods() for rule in method.rules}
    assert "/v1/{name=shelves/*/books/*}" in rules


def test_named_services_are_asked_for(library):
    with serving(library, "v1") as address:
        assert list(Descriptors(ask(f"http://{address}", 10, [SERVICE])).services) == [SERVICE]
        with pytest.raises(ReflectionError, match="the server says"):
            ask(f"http://{address}", 10, ["nope.S"])


def test_a_server_over_tls_is_verified(library, tmp_path):
    authority = Authority(tmp_path)
    pair = authority.leaf("localhost")
    credentials = grpc.ssl_server_credentials([(Path(pair.key).read_bytes(), Path(pair.cert).read_bytes())])
    with serving(library, "v1", credentials) as address:
        url = f"https://localhost:{address.rpartition(':')[2]}"
        assert list(Descriptors(ask(url, 10, ca=authority.cert)).services) == [SERVICE]
        with pytest.raises(ReflectionError, match="UNAVAILABLE"):
            ask(url, 10)


def test_a_server_without_reflection_is_told(library):
    with serving(library) as address, pytest.raises(ReflectionError, match=f"{address} has no server reflection"):
        ask(f"http://{address}", 10)


def test_a_server_that_is_not_there_is_told():
    with pytest.raises(ReflectionError, match="UNAVAILABLE"):
        ask(f"http://127.0.0.1:{free_port()}", 10)


def test_a_server_that_says_nothing_ends_in_time():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(ReflectionError, match=r"DEADLINE_EXCEEDED|UNAVAILABLE"):
            ask(f"http://127.0.0.1:{port}", 1)


def test_without_the_extra_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "grpc.py").write_text("raise ImportError('hidden', name='grpc')\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{':'.join(path for path in sys.path if path)}")
    with pytest.raises(ReflectionError, match=r"grpc is not installed: pip install 'fastgw\[grpc\]'"):
        ask("http://127.0.0.1:1", 5)
