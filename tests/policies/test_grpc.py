"""`grpc_transcode` and `grpc_web` as they are configured: what is wrong is told with its place."""

import gc
import pickle
import sys

import pytest

from fastgw.config import check
from fastgw.policies import RESOLVER, PolicyError, resolve
from fastgw.policies._grpc import DescriptorFile
from fastgw.policies.base import BuildContext
from fastgw.protocols import EXTRA
from fastgw.server.views import masked
from fastgw.testing.demo_grpc import DESCRIPTORS
from fastgw.testing.policy import Trial

CONFIG = """
services: {{up: {{endpoints: ["http://127.0.0.1:9"], protocol: h2c}}}}
routes:
  - path: /*
    service: up
    policies:
      - grpc_transcode: {options}
"""


def problems(options, base=None):
    """The errors of a configuration with these options, as text."""
    path = "<text>"
    text = CONFIG.format(options=options)
    if base is not None:
        path = base / "gateway.yaml"
        path.write_text(text)
        text = str(path)
    _, found = check(text, resolver=RESOLVER, env={})
    return [str(problem) for problem in found if problem.severity == "error"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("{}", "none of `descriptors` and `reflection`"),
        (f"{{descriptors: {DESCRIPTORS}, services: [nope.S]}}", "there is no service nope.S"),
        (f"{{descriptors: {DESCRIPTORS}, prefix: /a/}}", "prefix"),
        (f"{{descriptors: {DESCRIPTORS}, prefix: a}}", "prefix"),
        (f"{{descriptors: {DESCRIPTORS}, max_depth: 101}}", "max_depth"),
        (f"{{descriptors: {DESCRIPTORS}, stream: lines}}", "stream"),
        (f"{{descriptors: {__file__}}}", "no FileDescriptorSet"),
        ("{descriptors: /nowhere/library.pb}", "can not be read: No such file"),
        ("{descriptors: /tmp}", "can not be read: Is a directory"),
        ("{descriptors: 7}", "is not the name of a file"),
        ("{reflection: {address: 'unix:/run/x.sock'}}", "reflection is not asked for at unix:/run/x.sock"),
        ("{reflection: {address: 'tcp://a:1'}}", "not asked for at tcp://a:1"),
        ("{reflection: {}}", "address"),
    ],
)
def test_options_that_cannot_be_used(options, words):
    (problem,) = problems(options)
    assert words in problem
    assert "<text>:7:" in problem


def test_a_file_is_found_beside_the_configuration(tmp_path):
    (tmp_path / "library.pb").write_bytes(DESCRIPTORS.read_bytes())
    assert problems("{descriptors: library.pb}", tmp_path) == []
    (tmp_path / "library.pb").write_bytes(bytes(16 * 1024 * 1024 + 1))
    (problem,) = problems("{descriptors: library.pb}", tmp_path)
    assert "too large" in problem


def test_without_the_extra_it_is_named(monkeypatch):
    for name in ("descriptors", "transcoding"):
        monkeypatch.delitem(sys.modules, f"fastgw.protocols.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    monkeypatch.setitem(sys.modules, "google.api", None)
    (problem,) = problems(f"{{descriptors: {DESCRIPTORS}}}")
    assert "pip install 'fastgw[grpc]'" in problem
    assert EXTRA.format(name="x").partition("x")[0] in problem


def test_the_content_travels_and_shows_only_its_name():
    options = resolve("grpc_transcode").Options.model_validate({"descriptors": str(DESCRIPTORS)})
    again = pickle.loads(pickle.dumps(options))
    assert again.descriptors == options.descriptors
    assert again.descriptors.data == DESCRIPTORS.read_bytes()
    assert masked(options)["descriptors"].startswith("<DescriptorFile library.pb ")
    assert len(repr(options.descriptors)) < 60


def test_routes_with_the_same_descriptors_share_one_table():
    context = BuildContext()
    policy = resolve("grpc_transcode")

    def make(**options):
        return policy(policy.Options.model_validate({"descriptors": str(DESCRIPTORS), **options}), context)

    one, two, other = make(prefix="/a"), make(prefix="/b"), make(proto_names=True)
    assert one.transcoder is two.transcoder
    assert one.transcoder is not other.transcoder
    kept = context.shared.get_or_create("grpc:transcoders", dict)
    assert len(kept) == 2
    del one, two, other
    gc.collect()
    assert len(kept) == 0, "a plan that is gone leaves nothing behind"


def test_what_was_not_prepared_cannot_be_built():
    policy = resolve("grpc_transcode")
    options = policy.Options.model_validate({"reflection": {"address": "http://127.0.0.1:9"}})
    with pytest.raises(PolicyError, match="reflection server did not answer"):
        policy(options, BuildContext())


def test_files_are_known_by_their_content():
    one, two = DescriptorFile("a", b"x"), DescriptorFile("b", b"x")
    assert one == two
    assert hash(one) == hash(two)
    assert one != DescriptorFile("a", b"y")


GRPC = {"Content-Type": "application/grpc+proto"}


TRANSCODE = {"descriptors": str(DESCRIPTORS)}


@pytest.mark.parametrize(("policy", "options"), [("grpc_web", {}), ("grpc_transcode", TRANSCODE)])
def test_native_calls_are_not_touched(policy, options):
    outcome = Trial(policy, options).ask("POST /fastgw.demo.v1.Library/Echo", GRPC)
    assert outcome.passed
    assert outcome.upstream_header("content-type") == "application/grpc+proto"
    assert not outcome.exchange.translated


def test_grpc_web_becomes_grpc():
    headers = {"Content-Type": "application/grpc-web-text+thrift", "Accept": "*/*"}
    outcome = Trial("grpc_web").ask("POST /a.S/M", headers)
    assert outcome.passed
    assert outcome.upstream_header("content-type") == "application/grpc+thrift"
    assert outcome.upstream_header("accept") is None
    assert outcome.exchange.translated


def test_json_becomes_grpc():
    trial = Trial("grpc_transcode", TRANSCODE)
    outcome = trial.ask("GET /v1/shelves/1/books/2", {"Accept": "application/json", "Grpc-Encoding": "gzip"})
    assert outcome.code == "upstream_protocol_error", "what answers is no gRPC service"
    assert outcome.exchange.request_body == b"\0\0\0\0\x13\n\x11shelves/1/books/2"
    assert outcome.upstream_header("content-type") == "application/grpc"
    assert (outcome.upstream_header("accept"), outcome.upstream_header("grpc-encoding")) == (None, None)
