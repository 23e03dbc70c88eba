"""Descriptor sets: what is read of them, and what is said of those that cannot be used."""

import contextlib

import pytest
from google.api import annotations_pb2
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st

from fastgw.protocols.descriptors import MAX_SET, DescriptorError, Descriptors
from fastgw.protocols.transcoding import Transcoder


def file_set(*files):
    return descriptor_pb2.FileDescriptorSet(file=files).SerializeToString()


def proto(name="a.proto", *, package="a", depends=(), rule=None, fields=("name",)):
    """A file with the service S, its method M, and the message Q it takes and gives."""
    found = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax="proto3", dependency=depends)
    message = found.message_type.add(name="Q")
    for number, field in enumerate(fields, 1):
        message.field.add(name=field, number=number, type=9, label=1, json_name=field)
    method = found.service.add(name="S").method.add(name="M", input_type=f".{package}.Q", output_type=f".{package}.Q")
    if rule is not None:
        annotation = method.options.Extensions[annotations_pb2.http]
        for key, value in rule.items():
            setattr(annotation, key, value)
    return found


def test_services_methods_and_kinds(library):
    found = Descriptors(library)
    assert list(found.services) == ["fastgw.demo.v1.Library"]
    methods = {method.name.rpartition(".")[2]: method for method in found.methods()}
    assert methods["GetBook"].path == "/fastgw.demo.v1.Library/GetBook"
    kinds = {name: (m.client_streaming, m.server_streaming) for name, m in methods.items()}
    assert kinds["GetBook"] == (False, False)
    assert kinds["WatchBooks"] == (False, True)
    assert kinds["ImportBooks"] == (True, False)
    assert kinds["Chat"] == (True, True)
    assert [(rule.method, rule.template.text) for rule in methods["GetBook"].rules] == [
        ("GET", "/v1/{name=shelves/*/books/*}"),
        ("GET", "/v1/books/{name=**}:find"),
    ]
    assert methods["CreateBook"].rules[0].body == "book"
    assert methods["ListBooks"].rules[0].response_body == "books"
    assert methods["Echo"].rules == []


def test_what_google_publishes_need_not_be_in_the_set(library):
    files = descriptor_pb2.FileDescriptorSet.FromString(library).file
    alone = [one for one in files if one.name == "library.proto"]
    assert len(alone) < len(files)
    assert Descriptors(file_set(*alone)).services.keys() == Descriptors(library).services.keys()


def test_the_order_of_the_files_does_not_matter(library):
    files = list(descriptor_pb2.FileDescriptorSet.FromString(library).file)
    assert Descriptors(file_set(*reversed(files))).services.keys() == Descriptors(library).services.keys()


def test_two_sets_may_have_messages_of_one_name():
    first, second = Descriptors(file_set(proto(fields=("name",)))), Descriptors(file_set(proto(fields=("other",))))
    (one,), (two,) = first.services["a.S"], second.services["a.S"]
    assert [field.name for field in one.request.DESCRIPTOR.fields] == ["name"]
    assert [field.name for field in two.request.DESCRIPTOR.fields] == ["other"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no files"),
        (b"\xff", "no FileDescriptorSet"),
        (b"syntax = 'proto3';", "no FileDescriptorSet"),
        (bytes(MAX_SET + 1), "the limit is"),
        (file_set(proto(depends=["b.proto"])), "a.proto imports b.proto, which is not in the set"),
        (file_set(proto("a.proto", depends=["b.proto"]), proto("b.proto", package="b", depends=["a.proto"])), "circle"),
        (file_set(proto("a.proto"), proto("b.proto")), "b.proto is not a valid file"),
        (file_set(proto(rule={"get": "v1"})), r"google.api.http rule of a.S.M: the path 'v1'"),
        (file_set(proto(rule={"body": "*"})), "rule of a.S.M has no pattern"),
    ],
)
def test_what_cannot_be_used_is_told(data, words):
    with pytest.raises(DescriptorError, match=words):
        Descriptors(data)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"get": "/v1/{nome}"}, "binds nome, which is no single value"),
        ({"get": "/v1/{name.x}"}, "binds name.x"),
        ({"post": "/v1", "body": "boddy"}, "has the body 'boddy'"),
        ({"get": "/v1", "response_body": "x"}, "has the response_body 'x'"),
    ],
)
def test_a_rule_that_does_not_fit_its_messages_is_told(rule, words):
    with pytest.raises(DescriptorError, match=words):
        Transcoder(Descriptors(file_set(proto(rule=rule))))


def test_two_methods_with_one_rule_are_told():
    files = file_set(proto(rule={"get": "/v1/{name}"}), proto("b.proto", package="b", rule={"get": "/v1/{name}"}))
    with pytest.raises(DescriptorError, match=r"GET /v1/\{name\} of b.S.M is a.S.M's already"):
        Transcoder(Descriptors(files))
    assert len(Transcoder(Descriptors(files), services=("b.S",)).rules) == 1


def test_a_service_that_is_not_there_is_told(library):
    with pytest.raises(DescriptorError, match=r"no service nope.S; there are: fastgw.demo.v1.Library"):
        Transcoder(Descriptors(library), services=("nope.S",))


def test_nothing_to_transcode_is_told():
    with pytest.raises(DescriptorError, match="no method of these services"):
        Transcoder(Descriptors(file_set(proto())), automatic="none")


def test_methods_are_automatic_where_that_is_wanted():
    files = file_set(proto(rule={"get": "/v1/{name}"}))
    found = {
        automatic: Transcoder(Descriptors(files), automatic=automatic).rules.match("POST", "/a.S/M") is not None
        for automatic in ("unannotated", "all", "none")
    }
    assert found == {"unannotated": False, "all": True, "none": False}
    assert Transcoder(Descriptors(file_set(proto()))).rules.match("POST", "/a.S/M") is not None


def test_additional_bindings_inside_of_others_are_refused():
    one = proto(rule={"get": "/v1"})
    rule = one.service[0].method[0].options.Extensions[annotations_pb2.http]
    inner = rule.additional_bindings.add(get="/v2")
    inner.additional_bindings.add(get="/v3")
    with pytest.raises(DescriptorError, match="inside of additional_bindings"):
        Descriptors(file_set(one))


@given(st.data())
def test_a_damaged_set_is_read_or_told(library, data):
    damaged = bytearray(library)
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DescriptorError):
        Transcoder(Descriptors(bytes(damaged)))
