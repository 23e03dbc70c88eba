"""`key_auth`: who calls, by an API key."""

from __future__ import annotations

from pydantic import model_validator

from fastgw._core.exchange import Consumer, Hook
from fastgw._core.key_auth import Key
from fastgw._core.key_auth import KeyAuth as NativeKeyAuth
from fastgw.config.fields import HeaderName, wrong
from fastgw.config.schema.base import Room, key
from fastgw.policies._members import ANONYMOUS, Paths, consumer_of, named
from fastgw.policies.base import BuildContext, Policy

LAST = 9e9
"""Seconds since 1970: the year 2255. Later ones do not fit into 64 bits of nanoseconds."""
NAME = r"^[A-Za-z0-9._~-]{1,64}$"


class KeyAuthOptions(Room):
    """Where the key is looked for."""

    header: HeaderName | None = key(
        "X-API-Key", "The header that carries the key; null to look elsewhere alone.", example="X-Key"
    )
    query: str | None = key(
        None,
        "The query parameter that may carry the key instead. Keys in URLs end up in logs; prefer the header.",
        pattern=NAME,
        example="api_key",
    )
    cookie: str | None = key(
        None, "The cookie that may carry the key instead. Browsers send cookies by themselves: think of CSRF.",
        pattern=NAME, example="api_key",
    )  # fmt: skip
    forward_key: bool = key(False, "Let the upstream see the key.")
    optional: bool = key(
        False,
        "Requests without a key pass too, as the consumer `anonymous` where the file has one, else as nobody. A key "
        "that is wrong is refused all the same.",
    )
    excluded_paths: Paths = key(
        (), "Paths that need no key: exact, or `/prefix/*`.", max_length=1000, example=["/health"]
    )

    @model_validator(mode="after")
    def _somewhere(self) -> KeyAuthOptions:
        if self.header is None and self.query is None and self.cookie is None:
            raise wrong("missing_key", "there is no place to look for a key", "`header:`, `query:` or `cookie:`")
        return self


class KeyAuth(Policy):
    """Finds the consumer whose key came with the request; without one it answers 401.

    Keys stand in `consumers`, as `sha256:` and the hex digits of each key's hash, never as a key, and in the file of
    `api_keys`, which `fastgw keys` changes while the gateway runs. The look-up is by that hash in a table, see
    `_core/key_auth.pyx` for why its timing tells nothing. 401 `unauthorized`, `invalid_key`, `key_expired`. Order:
    before everything that asks who calls. Failure: closed; 503 while `api_keys` cannot be read (see its `on_failure`).
    """

    name = "key_auth"
    Options = KeyAuthOptions
    identifies = True
    options: KeyAuthOptions

    def hook(self) -> Hook:
        keys, consumers = self.context.of_plan.get_or_create("key_auth", lambda: tables(self.context))
        options = self.options
        return NativeKeyAuth(
            keys,
            consumers,
            self.context.keys,
            options.header.encode() if options.header else None,
            options.query.encode() if options.query else None,
            options.cookie.encode() if options.cookie else None,
            options.forward_key,
            options.optional,
            named(self.context, ANONYMOUS) if options.optional else None,
            [path.encode() for path in options.excluded_paths],
        )


def tables(context: BuildContext) -> tuple[dict[bytes, Key], dict[str, Consumer]]:
    """Keys by digest, and consumers by name; the same for every route of a plan."""
    keys: dict[bytes, Key] = {}
    consumers: dict[str, Consumer] = {}
    for consumer in context.consumers:
        consumers[consumer.name] = consumer_of(consumer, context.plans)
        for number, one in enumerate(consumer.keys):
            until = 0 if one.expires is None else int(min(max(one.expires.timestamp(), 1.0), LAST) * 1e9)
            credential = one.id or f"{consumer.name}/{number}"
            found = consumer_of(consumer, context.plans, credential=credential, scopes=one.scopes)
            keys[bytes.fromhex(one.hash)] = Key(found, until)
    return keys, consumers
