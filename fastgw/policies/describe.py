"""The page `docs/policies.md`, made from the policies' schemas and docstrings.

    python -m fastgw.policies.describe > docs/policies.md
"""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from fastgw.policies import BUILTIN, Policy, resolve

INTRO = """# Policies

<!-- made by `python -m fastgw.policies.describe` from the schemas and docstrings in fastgw/policies -->

A policy is an item of `policies:`, for every route or for one. They run in the order of the file, those for
every route first; on the way back in reverse. A policy without options is its bare name; `without: [name]`
on a route drops one that is there for every route. A policy that cannot be built makes its routes answer 503
`policy_unavailable`: a protection never falls open. Own policies:
[writing-a-policy.md](writing-a-policy.md).

[policies.example.yaml](policies.example.yaml) has nearly all of them in one configuration that runs;
[what they cost](../benchmarks/results/policies.md) is measured by `python -m benchmarks.policies`.
"""


def describe() -> str:
    """The whole page."""
    return INTRO + "".join(section(name, resolve(name)) for name in BUILTIN)


def section(name: str, policy: type[Policy]) -> str:
    marks = [
        word
        for word, holds in (("answers by itself", policy.terminal), ("finds out who calls", policy.identifies))
        if holds
    ]
    text = f"\n## {name}\n\n" + (f"*{', '.join(marks)}*\n\n" if marks else "")
    text += f"{inspect.getdoc(policy)}\n\n"
    rows = list(options(policy.Options, ""))
    text += "| option | default | what |\n|---|---|---|\n" if rows else ""
    return text + "".join(rows)


def options(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for field_name, field in model.model_fields.items():
        name = prefix + (field.alias or field_name)
        inner = nested(field.annotation)
        if field.default is PydanticUndefined:
            default = "required"
        elif isinstance(field.default, BaseModel):
            default = ""
        else:
            default = f"`{json.dumps(plain(field.default))}`"
        words = (field.description or "").replace("|", "\\|")
        if field.examples:
            words += f" Example: `{json.dumps(plain(field.examples[0]), ensure_ascii=False)}`."
        yield f"| `{name}` | {default} | {words} |\n"
        if inner is not None:
            listed = get_origin(field.annotation) is tuple
            yield from options(inner, f"{name}{'[]' if listed else ''}.")


def nested(annotation: Any) -> type[BaseModel] | None:
    """The room inside a field, when there is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (tuple, list, Union, types.UnionType):
        for each in get_args(annotation):
            found = nested(each)
            if found is not None:
                return found
    return None


def plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, float) and value == int(value):
        return int(value)
    return value


if __name__ == "__main__":
    print(describe(), end="")
