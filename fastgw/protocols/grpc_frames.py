"""Length-prefixed messages, gRPC's body: flags (1 byte), length (4 bytes, big endian), message.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md, "Length-Prefixed-Message".
"""

from __future__ import annotations

PREFIX = 5
COMPRESSED = 0x01
TRAILERS = 0x80
"""gRPC-Web: this frame holds the trailers."""


class FrameError(ValueError):
    """The body is no sequence of frames, or a frame is larger than the bound. The message is one sentence."""


class FrameTooLarge(FrameError):
    """A message is larger than the bound."""


def frame(message: bytes, flags: int = 0) -> bytes:
    """One message as it stands in a body. OverflowError from 4 GiB on."""
    return bytes((flags,)) + len(message).to_bytes(4, "big") + message


class FrameReader:
    """Gives messages as their last byte comes. Holds at most one message of `max_message` bytes and one chunk."""

    __slots__ = ("_held", "max_message")

    def __init__(self, max_message: int) -> None:
        self.max_message = max_message
        self._held = bytearray()

    def feed(self, chunk: bytes) -> list[tuple[int, bytes]]:
        """[(flags, message)] of those that are whole now. FrameError, FrameTooLarge: nothing more can be read."""
        held = self._held
        held += chunk
        found: list[tuple[int, bytes]] = []
        at = 0
        while len(held) - at >= PREFIX:
            flags = held[at]
            if flags & ~(COMPRESSED | TRAILERS):
                raise FrameError(f"a frame has the flags 0x{flags:02x}")
            size = int.from_bytes(held[at + 1 : at + PREFIX], "big")
            if size > self.max_message:
                raise FrameTooLarge(f"a message of {size} bytes; the limit is {self.max_message}")
            end = at + PREFIX + size
            if len(held) < end:
                break
            found.append((flags, bytes(held[at + PREFIX : end])))
            at = end
        del held[:at]
        return found

    def end(self) -> None:
        """The body is over. FrameError when a message is cut off."""
        if self._held:
            raise FrameError("the last message is cut off")
