"""JSON, path and query become a message, and messages become JSON."""

import base64
import json

import pytest
from google.protobuf import any_pb2, struct_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from fastgw.protocols.descriptors import Descriptors
from fastgw.protocols.json_form import BadInput, BadOutput, JsonOptions
from fastgw.protocols.rpc_status import parse_status
from fastgw.protocols.transcoding import Transcoder


@pytest.fixture(scope="module")
def make(library):
    descriptors = Descriptors(library)

    def one(**options):
        return Transcoder(descriptors, options=JsonOptions(**options))

    return one


@pytest.fixture(scope="module")
def ask(make):
    """The message that a request becomes, as protobuf has it."""

    def one(method, target, body=b"", content_type="application/json", **options):
        path, _, query = target.partition("?")
        binding, variables = make(**options).rules.match(method, path)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return binding.method.request.FromString(binding.request(variables, query, data, content_type))

    return one


ECHO = "/fastgw.demo.v1.Library/Echo"
BOOKS = "/v1/shelves/1/books"


def test_path_body_and_query_each_have_their_fields(ask):
    found = ask("POST", f"{BOOKS}?requestId=r7", {"title": "Emma", "genre": "NOVEL", "author": {"born": 1775}})
    assert (found.parent, found.request_id) == ("shelves/1", "r7")
    assert (found.book.title, found.book.genre, found.book.author.born.value) == ("Emma", 1, 1775)


def test_a_query_reaches_nested_fields_of_all_kinds(ask):
    query = (
        "pageSize=3&filter.author.name=J%20A&filter.author.born=0&filter.genres=NOVEL&filter.genres=2"
        "&filter.inPrint=false&filter.publishedAfter=2020-01-01T00:00:00Z&filter.reading_time=3.5s"
        "&filter.mask=title,author.name&filter.min_rating=0.5&order_by=a&orderBy=b"
    )
    found = ask("GET", f"{BOOKS}?{query}")
    given = found.filter
    assert found.page_size == 3
    assert (given.author.name, given.author.born.value, given.author.HasField("born")) == ("J A", 0, True)
    assert list(given.genres) == [1, 2]
    assert given.HasField("in_print") and given.in_print.value is False
    assert given.published_after.seconds == 1577836800
    assert (given.reading_time.seconds, given.reading_time.nanos) == (3, 500_000_000)
    assert list(given.mask.paths) == ["title", "author.name"]
    assert given.min_rating == 0.5
    assert list(found.order_by) == ["a", "b"]


def test_the_path_wins_over_the_body(ask):
    """What policies decided by is what the service gets."""
    found = ask("PATCH", f"{BOOKS}/2", {"book": {"name": "shelves/9/books/9", "title": "T"}, "updateMask": "title"})
    assert found.book.name == "shelves/1/books/2"
    assert found.book.title == "T"


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("?nope=1", "'nope' is none of this method"),
        ("?parent=other", "'parent' is none"),
        ("?filter=1", "'filter' is none"),
        ("?filter.author=1", "'filter.author' is none"),
        ("?filter.publishedAfter.seconds=1", "is none"),
        ("?pageSize=x", "page_size"),
        ("?pageSize=2147483648", "page_size"),
        ("?filter.inPrint=yes", "`true` or `false`"),
        ("?filter.genres=EPIC", "EPIC"),
        ("?filter.publishedAfter=yesterday", "published_after"),
        ("?pageSize=%ff", "cannot be read"),
        ("?" + "orderBy=a&" * 1001, "cannot be read"),
        ("?" + ".".join(["filter"] * 200) + "=1", "is none"),
    ],
)
def test_a_query_that_does_not_fit_is_told(ask, target, words):
    with pytest.raises(BadInput, match=words):
        ask("GET", BOOKS + target)


def test_unknown_names_are_passed_over_where_that_is_wanted(ask):
    found = ask("GET", f"{BOOKS}?nope=1&parent=other&pageSize=2", ignore_unknown=True)
    assert (found.parent, found.page_size) == ("shelves/1", 2)
    assert ask("POST", BOOKS, {"title": "T", "nope": 1}, ignore_unknown=True).book.title == "T"


@pytest.mark.parametrize(
    ("target", "body", "words"),
    [
        (BOOKS, b"{", "not JSON"),
        (BOOKS, b"\xff", "not JSON"),
        (BOOKS, b"[" * 100_000, "not JSON"),
        (BOOKS, {"nope": 1}, "nope"),
        (BOOKS, [1], "book"),
        (BOOKS, {"title": {"a": 1}}, "title"),
        (BOOKS, {"pages": "many"}, "pages"),
        (BOOKS, {"cover": "A"}, "cover"),
        (BOOKS, 7, "book"),
        (ECHO, 7, "does not fit"),
        (ECHO, [{}], "does not fit"),
        (ECHO, None, "does not fit"),
        (ECHO, b'{"text": "\\ud800"}', "not JSON"),
        (f"{BOOKS}?book.title=x", {}, "'book.title' is none"),
    ],
)
def test_a_body_that_does_not_fit_is_told(ask, target, body, words):
    with pytest.raises(BadInput, match=words):
        ask("POST", target, body)


def test_a_method_without_a_body_takes_none(ask):
    with pytest.raises(BadInput, match="takes no body"):
        ask("GET", BOOKS, {"pageSize": 1})


def test_an_empty_body_is_an_empty_message(ask):
    assert ask("POST", ECHO, b"").text == ""
    assert not ask("POST", BOOKS, b" \n").HasField("book")


def test_nesting_is_bounded(ask):
    def tree(depth):
        return {"children": [tree(depth - 1)]} if depth else {}

    assert ask("POST", ECHO, {"tree": tree(20)}, max_depth=30).tree.children
    with pytest.raises(BadInput, match=r"too deep"):
        ask("POST", ECHO, {"tree": tree(40)}, max_depth=30)
    nested = b'{"struct":{"a":' + b"[" * 500 + b"]" * 500 + b"}}"
    with pytest.raises(BadInput, match=r"too deep|recursion"):
        ask("POST", ECHO, nested)


def test_raw_bodies_pass_as_http_body(ask, make):
    found = ask("PUT", f"{BOOKS}/2:upload", b"\x89PNG\xff", "image/png")
    assert (found.name, found.file.content_type, found.file.data) == ("shelves/1/books/2", "image/png", b"\x89PNG\xff")
    binding, _ = make().rules.match("GET", f"{BOOKS}/2:download")
    answer = binding.method.response(content_type="image/png", data=b"\x89PNG\xff").SerializeToString()
    assert binding.response(answer) == ("image/png", b"\x89PNG\xff")


def book(make, **options):
    binding, _ = make(**options).rules.match("GET", f"{BOOKS}/2")
    message = binding.method.response(title="Emma", genre=1, pages=2**53 + 1)
    message.published_at.seconds = 1
    return json.loads(binding.response(message.SerializeToString())[1])


def test_answers_are_protobufs_json(make):
    assert book(make) == {
        "title": "Emma", "genre": "NOVEL", "pages": "9007199254740993", "publishedAt": "1970-01-01T00:00:01Z"
    }  # fmt: skip
    assert book(make, proto_names=True)["published_at"] == "1970-01-01T00:00:01Z"
    assert book(make, enum_numbers=True)["genre"] == 1
    assert book(make, defaults=True)["tags"] == []
    assert "author" not in book(make, defaults=True)


def test_response_body_is_one_field(make):
    for options, empty in (({}, []), ({"proto_names": True}, [])):
        binding, _ = make(**options).rules.match("GET", BOOKS)
        message = binding.method.response()
        assert json.loads(binding.response(message.SerializeToString())[1]) == empty
        message.books.add(title="Emma")
        assert json.loads(binding.response(message.SerializeToString())[1]) == [{"title": "Emma"}]


def test_path_and_query_belong_to_the_first_of_a_stream(make):
    binding, variables = make().rules.match("POST", f"{BOOKS}:import")
    read = binding.method.request.FromString
    first = read(binding.stream_item(True, variables, "requestId=7", b'{"title":"A"}'))
    second = read(binding.stream_item(False, variables, "requestId=7", b'{"title":"B"}'))
    assert (first.parent, first.request_id, first.book.title) == ("shelves/1", "7", "A")
    assert (second.parent, second.request_id, second.book.title) == ("", "", "B")


def test_an_answer_that_is_no_message_is_told(make):
    binding, _ = make().rules.match("GET", f"{BOOKS}/2")
    with pytest.raises(BadOutput, match=r"GetBook is no Book"):
        binding.response(b"\xff\xff")
    message = binding.method.response()
    message.published_at.seconds = 2**60
    with pytest.raises(BadOutput, match="no JSON form"):
        binding.response(message.SerializeToString())


NAMES = ["text", "tree", "label", "children", "struct", "counts", "size", "[a.b]"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_a_message_or_told(make, value):
    binding, variables = make().rules.match("POST", ECHO)
    try:
        data = binding.request(variables, "", json.dumps(value).encode())
    except BadInput as error:
        assert 0 < len(str(error)) < 500
        return
    binding.method.request.FromString(data)


@given(st.text(max_size=60))
def test_any_query_is_a_message_or_told(make, query):
    binding, variables = make().rules.match("GET", BOOKS)
    try:
        data = binding.request(variables, query, b"")
    except BadInput:
        return
    assert binding.method.request.FromString(data).parent == "shelves/1"


@given(st.binary(max_size=80))
def test_any_bytes_are_json_or_told(make, data):
    for method, path in (("GET", f"{BOOKS}/2"), ("POST", ECHO), ("GET", BOOKS)):
        binding, _ = make().rules.match(method, path)
        try:
            kind, text = binding.response(data)
        except BadOutput:
            continue
        assert kind == "application/json"
        json.loads(text)


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.integers(-(2**31), 2**31 - 1)),
)
def test_what_goes_in_comes_out(make, text, counts):
    binding, variables = make().rules.match("POST", ECHO)
    sent = {"text": text, "counts": counts}
    message = binding.request(variables, "", json.dumps(sent).encode())
    # request and response have these fields under the same numbers
    back = json.loads(binding.response(message)[1])
    assert (back.get("text", ""), back.get("counts", {})) == (text, counts)


# ---------------------------------------------------------------------- google.rpc.Status


def details_of(*messages):
    status = status_pb2.Status(code=5, message="gone")
    for message in messages:
        status.details.add().Pack(message)
    return status.SerializeToString()


def test_a_status_has_its_message_and_details():
    data = details_of(error_details_pb2.ErrorInfo(reason="MOVED", domain="books"))
    for text in (base64.b64encode(data).decode(), base64.b64encode(data).decode().rstrip("=")):
        found = parse_status("5", "no%20such b%C3%BCcher%zz", text)
        assert (found.code, found.name, found.http, found.message) == (5, "NOT_FOUND", 404, "no such bücher%zz")
        assert found.details == [
            {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "MOVED", "domain": "books"}
        ]
        assert found.as_json()["code"] == 5


def test_details_of_the_services_own_types_are_json(library):
    descriptors = Descriptors(library)
    (echo,) = (method for method in descriptors.methods() if method.name.endswith(".Echo"))
    detail = any_pb2.Any(type_url="type.googleapis.com/fastgw.demo.v1.EchoRequest",
                         value=echo.request(text="x").SerializeToString())  # fmt: skip
    data = base64.b64encode(status_pb2.Status(code=5, details=[detail]).SerializeToString()).decode()
    assert parse_status("5", None, data, descriptors.pool).details[0]["text"] == "x"
    unknown = any_pb2.Any(type_url="type.googleapis.com/nobody.Knows", value=b"x")
    data = base64.b64encode(status_pb2.Status(code=5, details=[unknown]).SerializeToString()).decode()
    assert parse_status("5", None, data, descriptors.pool).details == [{"@type": unknown.type_url, "value": "eA=="}]


def test_details_of_well_known_types_are_json():
    found = parse_status("3", "", base64.b64encode(details_of(struct_pb2.Value(string_value="x"))).decode())
    assert found.details[0]["value"] == "x"


@pytest.mark.parametrize(
    ("status", "code", "http"), [("0", 0, 200), ("16", 16, 401), ("17", 17, 500), ("", 2, 500), ("-1", 2, 500),
                                 ("1e3", 2, 500), ("999999", 2, 500), ("٣", 2, 500)]
)  # fmt: skip
def test_a_status_that_is_no_number_is_unknown(status, code, http):
    found = parse_status(status, None, None)
    assert (found.code, found.http) == (code, http)


@given(st.text(max_size=20), st.text(max_size=50), st.text(st.characters(max_codepoint=255), max_size=80))
def test_any_fields_are_a_status(status, message, details):
    found = parse_status(status, message, details)
    assert 200 <= found.http <= 599
    json.dumps(found.as_json())
