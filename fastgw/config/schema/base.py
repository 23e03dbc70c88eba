"""What the rooms of the schema are made of: `Room` (one mapping of the file) and `key` (one key of it)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

ROOM = ConfigDict(
    extra="forbid",
    frozen=True,
    hide_input_in_errors=True,
    arbitrary_types_allowed=True,
    protected_namespaces=(),
)


WORD, ROOM_TAG = "<word>", "<room>"
"""Tags of a key that is a word or a room (`Discriminator(word_or_room)`); they are no part of a place in the file."""


def word_or_room(value: object) -> str:
    return WORD if isinstance(value, str) else ROOM_TAG


class Room(BaseModel):
    """A mapping of the configuration file. Immutable; unknown keys are errors."""

    model_config = ROOM


class Later(Room):
    """A room that is read and checked, and then reported as not available in this version."""


def key(default: Any = ..., doc: str = "", *, example: Any = None, later: bool = False, **limits: Any) -> Any:
    """One key: its default (`...` when it must be given), what it does, an example, its range (`ge`, `le`, …).

    `later` marks a key that the format has and this version does not.
    """
    extra: dict[str, Any] = {}
    if later:
        extra["not_implemented"] = True
    return Field(
        default,
        description=doc,
        examples=None if example is None else [example],
        json_schema_extra=extra or None,
        **limits,
    )


def is_later(info: Any) -> bool:
    """Is this field marked `later`?"""
    return bool(isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("not_implemented"))
