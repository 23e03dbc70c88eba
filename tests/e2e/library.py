"""The demo gRPC service, its stubs as protoc makes them, and a gateway before it with all that speaks to it."""

import importlib
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import grpc_tools
from google.api import annotations_pb2

from fastgw.testing import GatewayProcess, free_port
from fastgw.testing.demo_grpc import DESCRIPTORS, LibraryServer

SERVICE = "/fastgw.demo.v1.Library"
ORIGIN = "https://app.example.com"


def stubs(folder):
    """(library_pb2, library_pb2_grpc), made now: checked in ones would fit one version of protobuf only."""
    if "library_pb2_grpc" not in sys.modules:
        packages = Path(annotations_pb2.__file__).parents[2]
        includes = [DESCRIPTORS.parent, packages, Path(grpc_tools.__file__).parent / "_proto"]
        subprocess.run(
            [sys.executable, "-m", "grpc_tools.protoc", *(f"-I{one}" for one in includes), f"--python_out={folder}",
             f"--grpc_python_out={folder}", "library.proto"],
            check=True,
        )  # fmt: skip
        sys.path.insert(0, os.fspath(folder))
    return importlib.import_module("library_pb2"), importlib.import_module("library_pb2_grpc")


def configuration(library, **more):
    """Routes: `/v1` and the service's own path transcoded, `/web` and others for what the tests ask."""
    transcode = {"grpc_transcode": {"descriptors": str(DESCRIPTORS)}}
    cors = {"cors": {"origins": [ORIGIN], "headers": ["Content-Type", "X-Grpc-Web", "X-User-Agent", "Grpc-Timeout"]}}
    key = {"key_auth": {"header": "X-Key"}}

    def variant(prefix, **options):
        return {"path": f"{prefix}/*", "service": "library",
                "policies": [{"grpc_transcode": {"descriptors": str(DESCRIPTORS), "prefix": prefix, **options}}]}

    return {
        "server": {"listeners": [{"bind": f"127.0.0.1:{free_port()}"}]},
        "services": {
            "library": {"endpoints": [library.url], "protocol": "h2c"},
            "gone": {"endpoints": [f"http://127.0.0.1:{free_port()}"], "protocol": "h2c"},
        },
        "routes": [
            {"path": f"{SERVICE}/*", "service": "library", "policies": [cors, "grpc_web", transcode]},
            {"path": "/v1/keyed/*", "service": "library", "policies": ["grpc_web", key, transcode]},
            {"path": "/v1/*", "service": "library", "policies": [transcode]},
            {"path": "/gone.S/*", "service": "gone", "policies": ["grpc_web"]},
            {"path": "/keyed.S/*", "service": "library", "policies": ["grpc_web", key]},
            variant("/small", max_request="100B", max_response="2KiB"),
            variant("/rpc", errors="status", stream="sse", proto_names=True, defaults=True, enum_numbers=True),
            variant("/lax", ignore_unknown=True),
            {"path": "/gone/*", "service": "gone",
             "policies": [{"grpc_transcode": {"descriptors": str(DESCRIPTORS), "prefix": "/gone"}}]},
            {"path": "/short/*", "service": "library", "timeouts": {"total": "300ms"},
             "policies": [{"grpc_transcode": {"descriptors": str(DESCRIPTORS), "prefix": "/short"}}]},
        ],
        **more,
    }  # fmt: skip


@contextmanager
def world():
    """(the service, the gateway): `gateway.bind` is where it listens."""
    with LibraryServer() as library:
        config = configuration(library)
        with GatewayProcess(config) as gateway:
            gateway.bind = config["server"]["listeners"][0]["bind"]
            yield library, gateway
