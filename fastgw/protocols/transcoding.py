"""JSON, path and query → a protobuf message, and back, by google.api.http rules and protobuf's own JSON mapping.

https://github.com/googleapis/googleapis/blob/master/google/api/http.proto and
https://protobuf.dev/programming-guides/json/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import orjson
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from fastgw.protocols.descriptors import DescriptorError, Descriptors, HttpRule, Method
from fastgw.protocols.http_rules import RuleTable, Template
from fastgw.protocols.json_form import BadInput, BadOutput, JsonOptions

MAX_QUERY_FIELDS = 1000
HTTP_BODY = "google.api.HttpBody"
LEAVES = frozenset(
    f"google.protobuf.{name}"
    for name in (
        "Timestamp", "Duration", "FieldMask", "DoubleValue", "FloatValue", "Int64Value", "UInt64Value",
        "Int32Value", "UInt32Value", "BoolValue", "StringValue", "BytesValue",
    )
)  # fmt: skip
"""Messages that a path or a query can hold: protobuf writes them as one JSON scalar."""
MESSAGE = FieldDescriptor.CPPTYPE_MESSAGE
BOOLS = {"true": True, "false": False}


class Binding:
    """A method under one HTTP rule. Raises DescriptorError when the rule does not fit the messages."""

    __slots__ = ("body", "from_query", "method", "options", "pool", "raw_body", "response_body", "rule", "variables")

    def __init__(self, method: Method, rule: HttpRule, pool: Any, options: JsonOptions) -> None:
        self.method = method
        self.rule = rule
        self.pool = pool
        self.options = options
        where = f"the google.api.http rule of {method.name}"
        message = method.request.DESCRIPTOR
        self.variables = {one.path: leaf(message, one.path) for one in rule.template.variables}
        for path, found in self.variables.items():
            if found is None or found.is_repeated:
                raise DescriptorError(f"{where} binds {'.'.join(path)}, which is no single value of the request")
        self.body = None if rule.body in ("", "*") else message.fields_by_name.get(rule.body)
        if rule.body not in ("", "*") and self.body is None:
            raise DescriptorError(f"{where} has the body {rule.body!r}, which is no field of the request")
        self.from_query = rule.body != "*"
        target = message if self.body is None else self.body.message_type
        self.raw_body = bool(rule.body) and target is not None and target.full_name == HTTP_BODY
        self.response_body = method.response.DESCRIPTOR.fields_by_name.get(rule.response_body)
        if self.raw_body and self.body is not None and self.body.is_repeated:
            raise DescriptorError(f"{where} has a body of many google.api.HttpBody")
        if rule.response_body and self.response_body is None:
            raise DescriptorError(f"{where} has the response_body {rule.response_body!r}, which is no field")

    def __repr__(self) -> str:
        return f"<Binding {self.rule.method} {self.rule.template.text} → {self.method.path}>"

    # ------------------------------------------------------------------ requests

    def request(
        self, variables: Mapping[tuple[str, ...], str], query: str, body: bytes, content_type: str = ""
    ) -> bytes:
        """The serialized message of one request. BadInput. A later one wins: body, query, path."""
        message = self.method.request()
        if self.rule.body:
            self._read_body(message, body, content_type)
        elif body.strip():
            raise BadInput("This method takes no body.")
        tree: dict[str, Any] = {}
        if query and self.from_query:
            self._read_query(tree, query)
        for path, text in variables.items():
            plant(tree, path, self.variables[path], converted(self.variables[path], text))
        if tree:
            self._merge(tree, message)
        return self._serialized(message)

    def stream_item(self, first: bool, variables: Mapping[tuple[str, ...], str], query: str, line: bytes) -> bytes:
        """The serialized message of one line of a client's stream; path and query belong to the first."""
        return self.request(variables if first else {}, query if first else "", line)

    def _read_body(self, message: Any, body: bytes, content_type: str) -> None:
        if self.raw_body:
            raw = message if self.body is None else getattr(message, self.body.name)
            raw.content_type, raw.data = content_type, body
            return
        if not body.strip():
            return
        try:
            tree = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise BadInput(f"The body is not JSON: {error}.") from None
        if self.body is not None:
            tree = {self.body.name: tree}
        self._merge(tree, message)

    def _merge(self, tree: Any, message: Any) -> None:
        options = self.options
        try:
            json_format.ParseDict(
                tree,
                message,
                ignore_unknown_fields=options.ignore_unknown,
                descriptor_pool=self.pool,
                max_recursion_depth=options.max_depth,
            )
        # json_format reports what it foresees as ParseError; a number where it wants an object and the like come
        # through as what Python makes of them
        except (json_format.Error, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise BadInput(f"The request does not fit {self.method.name}: {first_line(error)}.") from None

    def _serialized(self, message: Any) -> bytes:
        try:
            found: bytes = message.SerializeToString()
        except Exception as error:      # EncodeError: a required field is missing (proto2), or nested too deep
            raise BadInput(f"The request does not fit {self.method.name}: {first_line(error)}.") from None
        return found

    def _read_query(self, tree: dict[str, Any], query: str) -> None:
        """http.proto: each parameter is a field by its path; repeated fields by parameters that repeat."""
        try:
            pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)
        except ValueError:
            raise BadInput("The query cannot be read.") from None
        message = self.method.request.DESCRIPTOR
        for name, text in pairs:
            path = tuple(name.split("."))
            field = leaf(message, path) if len(path) <= self.options.max_depth else None
            names = proto_path(message, path) if field is not None else ()
            if field is None or names in self.variables or (self.body is not None and names[0] == self.body.name):
                if self.options.ignore_unknown:
                    continue
                raise BadInput(f"The query parameter {name[:100]!r} is none of this method.")
            plant(tree, names, field, converted(field, text))

    # ------------------------------------------------------------------ responses

    def response(self, data: bytes) -> tuple[str, bytes]:
        """(content type, body) of one message. BadOutput."""
        message = self._parsed(data)
        part = message if self.response_body is None else getattr(message, self.response_body.name)
        if getattr(getattr(part, "DESCRIPTOR", None), "full_name", "") == HTTP_BODY:
            return part.content_type or "application/octet-stream", part.data
        return "application/json", orjson.dumps(self._tree(message))

    def item(self, data: bytes) -> bytes:
        """One message of a stream, as JSON on one line, without its end. BadOutput."""
        return orjson.dumps(self._tree(self._parsed(data)))

    def _parsed(self, data: bytes) -> Any:
        try:
            return self.method.response.FromString(data)
        except DecodeError:
            raise BadOutput(f"the answer of {self.method.name} is no {self.method.response.DESCRIPTOR.name}") from None

    def _tree(self, message: Any) -> Any:
        options, field = self.options, self.response_body
        tree = self._as_dict(message, options.defaults)
        if field is None:
            return tree
        name = field.name if options.proto_names else field.json_name
        # a field that is not there: its default, as it would be written
        return tree[name] if name in tree else self._as_dict(message, True).get(name)

    def _as_dict(self, message: Any, defaults: bool) -> Any:
        options = self.options
        try:
            return json_format.MessageToDict(
                message,
                always_print_fields_with_no_presence=defaults,
                preserving_proto_field_name=options.proto_names,
                use_integers_for_enums=options.enum_numbers,
                descriptor_pool=self.pool,
            )
        # an Any of a type that the set does not have, a Timestamp out of its range, too much nesting
        except (json_format.Error, ValueError, TypeError, KeyError, RecursionError) as error:
            raise BadOutput(f"the answer of {self.method.name} has no JSON form: {first_line(error)}.") from None


def first_line(error: BaseException) -> str:
    """What protobuf says, short and without its full stop: the lines after the first list all fields of a message.
    Of what is nested deep, the beginning and the end, which is the reason."""
    text = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
    return text if len(text) <= 300 else f"{text[:100]} … {text[-190:]}"


def field_of(message: Any, name: str) -> Any:
    """A field by its name in the .proto file or in JSON; None when there is none."""
    found = message.fields_by_name.get(name)
    if found is None or found.json_name != name:
        return next((one for one in message.fields if one.json_name == name), found)
    return found


def leaf(message: Any, path: Iterable[str]) -> Any:
    """The field at the end of a path through single messages, when text can be its value; else None."""
    found: Any = None
    for name in path:
        if found is not None:
            if found.message_type is None or found.is_repeated or found.message_type.full_name in LEAVES:
                return None
            message = found.message_type
        found = field_of(message, name)
        if found is None:
            return None
    if found is not None and found.cpp_type == MESSAGE and found.message_type.full_name not in LEAVES:
        return None
    return found


def proto_path(message: Any, path: Iterable[str]) -> tuple[str, ...]:
    """The same path in the names of the .proto file."""
    names = []
    for name in path:
        found = field_of(message, name)
        names.append(found.name)
        message = found.message_type
    return tuple(names)


def converted(field: Any, text: str) -> Any:
    """Text → what stands for it in JSON. json_format reads numbers, enums, bytes and times from text by itself."""
    kind = field
    if field.cpp_type == MESSAGE and field.message_type.full_name.endswith("BoolValue"):
        kind = field.message_type.fields_by_name["value"]
    if kind.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        value = BOOLS.get(text)
        if value is None:
            raise BadInput(f"{field.name} is `true` or `false`.")
        return value
    return text


def plant(tree: dict[str, Any], path: tuple[str, ...], field: Any, value: Any) -> None:
    """Sets the value at a path of nested mappings."""
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    if field.is_repeated:
        tree.setdefault(path[-1], []).append(value)
    else:
        tree[path[-1]] = value


class Transcoder:
    """All methods of some services, found by what an HTTP client asks for.

    `automatic`: `unannotated`, POST /package.Service/Method with the whole message as the body for methods without a
    rule; `all`, for every method; `none`.
    """

    def __init__(
        self,
        descriptors: Descriptors,
        services: tuple[str, ...] = (),
        automatic: str = "unannotated",
        options: JsonOptions | None = None,
    ) -> None:
        """DescriptorError: a service is not there, a rule does not fit, two rules are the same, or nothing is left."""
        options = options or JsonOptions()
        self.pool = descriptors.pool
        self.rules: RuleTable[Binding] = RuleTable()
        for method in descriptors.methods(services):
            for rule in method.rules:
                self._add(Binding(method, rule, self.pool, options))
            if automatic == "all" or (automatic == "unannotated" and not method.rules):
                template = Template(method.path, tuple(method.path[1:].split("/")), "", ())
                self._add(Binding(method, HttpRule("POST", template, "*", ""), self.pool, options))
        if not len(self.rules):
            raise DescriptorError("no method of these services has a google.api.http rule or an automatic one")

    def _add(self, binding: Binding) -> None:
        rule = binding.rule
        other = self.rules.add(rule.method, rule.template, binding)
        if other is not None and other.method.path != binding.method.path:
            raise DescriptorError(
                f"{rule.method} {rule.template.text} of {binding.method.name} is {other.method.name}'s already"
            )
