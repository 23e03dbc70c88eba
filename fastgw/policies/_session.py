"""What a browser keeps for the gateway: sealed by AES-GCM (cryptography), in cookies that no script can read.

Nothing of a session is kept here: whoever has the secret can open it, on every host, and a restart loses nobody.
"""

from __future__ import annotations

import json
import secrets
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fastgw._core.exchange import Exchange

PIECE = 3800
"""Bytes of one cookie: browsers take 4096 with name and attributes (RFC 6265 §6.1)."""
MOST_PIECES = 4
NONCE = 12


class Sealer:
    """`purpose` keeps what is sealed for one thing from being opened as another. The first secret seals, all open."""

    def __init__(self, secrets_: Sequence[str], purpose: str) -> None:
        self.keys = [
            AESGCM(HKDF(SHA256(), 32, None, b"fastgw session " + purpose.encode()).derive(secret.encode()))
            for secret in secrets_
        ]
        self.purpose = purpose.encode()

    def __repr__(self) -> str:
        return f"<Sealer of {len(self.keys)} keys>"

    def seal(self, thing: dict[str, Any]) -> str:
        nonce = secrets.token_bytes(NONCE)
        plain = zlib.compress(json.dumps(thing, separators=(",", ":")).encode())
        return urlsafe_b64encode(nonce + self.keys[0].encrypt(nonce, plain, self.purpose)).rstrip(b"=").decode()

    def open(self, text: str) -> dict[str, Any] | None:
        """None when it was not sealed here, for this purpose."""
        try:
            raw = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        except ValueError:
            return None
        if len(raw) <= NONCE:
            return None
        for one in self.keys:
            try:
                found: dict[str, Any] = json.loads(zlib.decompress(one.decrypt(raw[:NONCE], raw[NONCE:], self.purpose)))
            except InvalidTag:
                continue
            return found
        return None


def belongs(name: str, ours: str) -> bool:
    """`session`, `session.1` and `session_login_x` belong to `session`; `sessions` does not."""
    return name == ours or name.startswith((f"{ours}.", f"{ours}_login_"))


def cookies_of(exchange: Exchange, ours: str) -> dict[str, str]:
    """Those that belong to the cookie of this name; of two with one name the first."""
    found: dict[str, str] = {}
    for line in exchange.request.get_all("cookie"):
        for pair in line.split(";"):
            name, equals, value = pair.strip().partition("=")
            if equals and belongs(name, ours):
                found.setdefault(name, value)
    return found


def hide_cookies(exchange: Exchange, ours: str) -> None:
    """The upstream does not see them."""
    kept = []
    for line in exchange.request.get_all("cookie"):
        pairs = (pair.strip() for pair in line.split(";"))
        kept += [pair for pair in pairs if pair and not belongs(pair.partition("=")[0], ours)]
    exchange.request.remove("cookie")
    if kept:
        exchange.request.set("Cookie", "; ".join(kept))


def joined(cookies: dict[str, str], name: str) -> str:
    """The value that `split` took apart; empty when there is none."""
    text = cookies.get(name, "")
    for number in range(1, MOST_PIECES):
        piece = cookies.get(f"{name}.{number}")
        if piece is None:
            break
        text += piece
    return text


def split(name: str, value: str) -> list[tuple[str, str]]:
    """(name, value) of each cookie. ValueError when it is too much for a browser to keep."""
    pieces = [value[at : at + PIECE] for at in range(0, len(value), PIECE)]
    if len(pieces) > MOST_PIECES:
        raise ValueError(f"{len(value)} bytes are too many for cookies")
    return [(f"{name}.{number}" if number else name, piece) for number, piece in enumerate(pieces)]
