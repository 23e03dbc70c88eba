"""`${VAR}` and `${VAR:-default}`: the environment, one scalar at a time, after YAML has been parsed.

- `${UPPER_SNAKE}` is an environment variable; not set and no default is an error. As in a shell, `:-` also
  covers a variable that is set but empty.
- `${lower.dotted}` is a request template (`fields.Template`) and is left alone here.
- `$${` is a literal `${`.

What comes out of the environment is never looked at again: a `${…}` inside a variable's value stays text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[^{}:]*)(?::-(?P<default>[^}]*))?(?P<end>\}?)")
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*\Z")


class Expanded(str):
    """A scalar in which something was replaced.

    The string itself is the plain reading (`$${` is `${`). `template` is the reading for a field that takes
    request templates: there `$${` is kept, and what came from the environment is escaped.
    `source` is what the file says, to be shown in the place of the value. `used` is set by the field that
    reads `template`; a template that no field reads is an error.
    """

    __slots__ = ("source", "template", "templated", "used")
    source: str
    template: str
    templated: bool
    used: bool

    def __new__(cls, plain: str, template: str, source: str, templated: bool) -> Expanded:
        self = super().__new__(cls, plain)
        self.template = template
        self.source = source
        self.templated = templated
        self.used = False
        return self


def expand(text: str, env: Mapping[str, str]) -> tuple[str, list[tuple[str, str, str]]]:
    """Replaces the references of one scalar; the caller has seen a `${` in it.

    Returns the new string and what went wrong as (code, message, expected) each.
    """
    plain: list[str] = []
    template: list[str] = []
    wrong: list[tuple[str, str, str]] = []
    templated = False
    at = 0
    for match in REFERENCE.finditer(text):
        between = text[at : match.start()]
        plain.append(between)
        template.append(between)
        at = match.end()
        whole = match.group()
        name = match["name"]
        if name is None:
            plain.append("${")
            template.append("$${")
        elif not match["end"]:
            wrong.append(
                ("bad_reference", f"{whole[:40]!r} is not closed", "a '}' after it, or '$${' for the text")
            )
        elif VARIABLE.match(name):
            value = env.get(name)
            default = match["default"]
            if default is not None and not value:
                value = default
            if value is None:
                wrong.append(
                    (
                        "env_unset",
                        f"the environment variable {name} is not set",
                        f"it in the environment, or a default: ${{{name}:-…}}",
                    )
                )
                value = ""
            plain.append(value)
            template.append(value.replace("${", "$${"))
        elif name[:1].islower() and match["default"] is None:
            templated = True
            plain.append(whole)
            template.append(whole)
        else:
            wrong.append(
                (
                    "bad_reference",
                    f"{whole[:60]!r} is not a reference",
                    "${UPPER_SNAKE} for the environment, ${lower.dotted} for the request, '$${' for the text",
                )
            )
    rest = text[at:]
    return Expanded("".join([*plain, rest]), "".join([*template, rest]), text, templated), wrong
