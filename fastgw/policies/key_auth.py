"""`key_auth`: who calls, by an API key."""

from __future__ import annotations

from pydantic import model_validator

from fastgw._core.exchange import Consumer, Hook
from fastgw._core.key_auth import KeyAuth as NativeKeyAuth
from fastgw.config.fields import HeaderName, wrong
from fastgw.config.schema.base import Room, key
from fastgw.policies.base import Policy


class KeyAuthOptions(Room):
    """Where the key is looked for."""

    header: HeaderName | None = key(
        "X-API-Key", "The header that carries the key; null to look at the query alone.", example="X-Key"
    )
    query: str | None = key(
        None,
        "The query parameter that may carry the key instead. Keys in URLs end up in logs; prefer the header.",
        pattern=r"^[A-Za-z0-9._~-]{1,64}$",
        example="api_key",
    )
    forward_key: bool = key(False, "Let the upstream see the key.")

    @model_validator(mode="after")
    def _somewhere(self) -> KeyAuthOptions:
        if self.header is None and self.query is None:
            raise wrong("missing_key", "there is no place to look for a key", "`header:` or `query:`")
        return self


class KeyAuth(Policy):
    """Finds the consumer whose key came with the request; without one it answers 401.

    The file holds `sha256:` and the hex digits of each key's hash, never a key. The look-up is by that hash
    in a table, see `_core/key_auth.pyx` for why its timing tells nothing. Order: before everything that asks
    who calls. Failure: closed.
    """

    name = "key_auth"
    Options = KeyAuthOptions
    identifies = True
    options: KeyAuthOptions

    def hook(self) -> Hook:
        table: dict[bytes, Consumer] = {}
        for consumer in self.context.consumers:
            for number, digest in enumerate(consumer.keys):
                raw = bytes.fromhex(str(digest).removeprefix("sha256:"))
                table[raw] = Consumer(
                    consumer.name, consumer.groups, consumer.metadata, f"{consumer.name}/{number}"
                )
        options = self.options
        return NativeKeyAuth(
            table,
            options.header.encode() if options.header else None,
            options.query.encode() if options.query else None,
            options.forward_key,
        )
