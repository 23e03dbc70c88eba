"""`jwks`: publishes the gateway's own keys (RFC 7517)."""

from __future__ import annotations

import json

from pydantic import model_validator

from fastgw._core.exchange import Exchange, Reply
from fastgw.config.fields import Duration, wrong
from fastgw.config.schema.base import Room, key
from fastgw.policies._signing import PrivateKey, signer_of
from fastgw.policies.base import BuildContext, Policy, PolicyError


class JwksOptions(Room):
    """Whose public halves are told."""

    keys: tuple[PrivateKey, ...] = key(
        doc="The private keys that `identity_token` signs with: the one in use, the next one before it is used, the "
        "last one for as long as its tokens live.",
        min_length=1, max_length=20, example=[{"private_key": "file:id.pem"}],
    )  # fmt: skip
    max_age: Duration = key(300.0, "How long others may keep the answer (`Cache-Control`).", ge=0, le=86400)

    @model_validator(mode="after")
    def _fits(self) -> JwksOptions:
        try:
            kids = [signer_of(each).kid for each in self.keys]
        except PolicyError as error:
            raise wrong("bad_value", str(error), "a private key in PEM") from None
        if len(set(kids)) != len(kids):
            raise wrong("duplicate_name", "two keys are the same, or have the same `kid`", "each key once")
        return self


class Jwks(Policy):
    """Answers with the public halves of the gateway's keys; stands on a route of its own.

    Order: it ends the chain. Failure: closed, 503 without a key that can be read.
    """

    name = "jwks"
    Options = JwksOptions
    terminal = True
    options: JwksOptions

    def __init__(self, options: JwksOptions, context: BuildContext) -> None:
        super().__init__(options, context)
        self.body = json.dumps({"keys": [signer_of(each).jwk for each in options.keys]}).encode()

    def request(self, exchange: Exchange) -> Reply:
        headers = {"Cache-Control": f"public, max-age={int(self.options.max_age)}"}
        return Reply(200, self.body, headers, "application/jwk-set+json")
