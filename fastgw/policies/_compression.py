"""Encodings of contents (RFC 9110 8.4.1): how they are made, and undone within bounds.

A body that is here whole is encoded by one call, another piece by piece. gzip of whole bodies is libdeflate's, which
needs half of zlib's time for no more bytes; of pieces zlib-ng's, which needs two thirds. Where these libraries are not
there it is zlib's. zstd and br are of libraries of the extra `compression`; `deflate` is read by zlib.
"""

from __future__ import annotations

import ctypes
import threading
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

from fastgw.policies.base import PolicyError

Coding = Literal["gzip", "br", "zstd"]
Coder = tuple[Callable[[bytes], bytes], Callable[[], bytes], Callable[[], bytes]]
"""(compress a piece, give what is held so that it can be read, end)"""


class Maker(NamedTuple):
    """How bodies get an encoding; both may be called by several threads at once."""

    whole: Callable[[bytes], bytes | bytearray]
    begin: Callable[[], Coder]
    """Of a body that comes in pieces. A Coder is used by one thread at a time."""


CODINGS: tuple[Coding, ...] = ("gzip", "br", "zstd")
"""In the order of their counters (_core.record.CODINGS)."""
LEVELS: dict[Coding, tuple[int, int]] = {"gzip": (1, 9), "br": (0, 11), "zstd": (1, 19)}
THREADS = 2
"""Of one worker, for bodies that are too much for its loop."""
WINDOW = 19
"""Binary logarithm of the bytes that a body refers back to: what browsers keep, and what one body costs here."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 4 * 1024 * 1024
"""Bytes of freed memory that a process keeps, per arena of its allocator (mallopt(3))."""
EXTRA = "{coding} needs {package}: pip install 'fastgw[compression]'"


def keep_memory() -> None:
    """The tables of a compressor are not to go back to the kernel after each body.

    Some hundred KiB are freed with each; by default glibc gives them back, and taking them again, page by page, costs
    brotli half as much as its work. Other C libraries have no such option.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, KEPT // 2)
        mallopt(M_TRIM_THRESHOLD, KEPT)


def _gzip_whole(level: int) -> Callable[[bytes], bytes | bytearray]:
    try:
        import deflate
    except ImportError:
        return partial(zlib.compress, level=level, wbits=31)
    return partial(deflate.gzip_compress, compresslevel=level)


def _compressobj() -> Callable[..., Any]:
    try:
        from zlib_ng import zlib_ng
    except ImportError:
        return zlib.compressobj
    found: Callable[..., Any] = zlib_ng.compressobj
    return found


def _brotli() -> Any:
    try:
        import brotli
    except ImportError:
        raise PolicyError(EXTRA.format(coding="br", package="brotli")) from None
    return brotli


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise PolicyError(EXTRA.format(coding="zstd", package="zstandard")) from None
    return zstandard


def maker(coding: Coding, level: int) -> Maker:
    """PolicyError when the library is not there."""
    if coding == "gzip":
        return Maker(_gzip_whole(level), partial(_gzip, _compressobj(), level))
    if coding == "br":
        library = _brotli()
        return Maker(partial(library.compress, quality=level, lgwin=WINDOW), partial(_br, library.Compressor, level))
    library = _zstandard()
    parameters = library.ZstdCompressionParameters.from_level(level, window_log=WINDOW)
    return Maker(ZstdWhole(library, parameters), partial(_zstd, library, parameters))


def _gzip(compressobj: Callable[..., Any], level: int) -> Coder:
    made = compressobj(level, zlib.DEFLATED, 31)
    return made.compress, partial(made.flush, zlib.Z_SYNC_FLUSH), made.flush


def _br(compressor: Any, level: int) -> Coder:
    made = compressor(quality=level, lgwin=WINDOW)
    return made.process, made.flush, made.finish


def _zstd(library: Any, parameters: Any) -> Coder:
    made = library.ZstdCompressor(compression_params=parameters).compressobj()
    return made.compress, partial(made.flush, library.COMPRESSOBJ_FLUSH_BLOCK), made.flush


class ZstdWhole(threading.local):
    """One compressor for each thread, as it is not for two at once; a new one costs as much as 10 KiB of a body."""

    def __init__(self, library: Any, parameters: Any) -> None:
        self.compress = library.ZstdCompressor(compression_params=parameters).compress

    def __call__(self, body: bytes) -> bytes:
        encoded: bytes = self.compress(body)
        return encoded


class Undecodable(Exception):
    """The bytes are not what their encoding says."""


class TooLarge(Exception):
    """More came out than is allowed."""


FREE = 1024 * 1024
"""So much may come out of however few bytes: the ratio counts beyond."""
STEP = 65536
ZSTD_BLOCK = 128 * 1024
"""What comes, at most, of four bytes: RFC 8878 3.1.1.2.3 and 3.1.1.2.4, a block of one byte that repeats."""
ZSTD_WINDOW = 8 * 1024 * 1024
"""RFC 9659 3.1."""


class Bounds:
    """How much may come out: `size` bytes, and `ratio` times what went in."""

    def __init__(self, size: int, ratio: int) -> None:
        self.size = size
        self.ratio = ratio
        self.taken = self.given = 0

    def left(self) -> int:
        """At least 1, so that one byte too many is noticed."""
        return max(min(self.size, max(FREE, self.taken * self.ratio)) - self.given, 0) + 1

    def gave(self, count: int) -> None:
        self.given += count
        if self.given > self.size:
            raise TooLarge(f"it becomes more than {self.size} bytes")
        if self.given > max(FREE, self.taken * self.ratio):
            raise TooLarge(f"it becomes more than {self.ratio} times as large")


class Inflater:
    """gzip (its members one after the other, RFC 1952 2.2), or deflate, which is zlib's format or, against RFC 9110
    8.4.1.2, raw as some send it."""

    def __init__(self, deflate: bool) -> None:
        self.bits = 15 if deflate else 31
        self.made = zlib.decompressobj(self.bits)
        self.begun = False
        self.complete = False

    def feed(self, data: bytes, bounds: Bounds) -> bytes:
        if not self.begun and data:
            self.begun = True
            # RFC 1950 2.2: the first byte of zlib's format says 8, deflate, with a window of 32 KiB at most
            if self.bits == 15 and (data[0] & 15 != 8 or data[0] >> 4 > 7):
                self.made = zlib.decompressobj(-15)
        out = []
        while data:
            if self.made.eof:
                if self.bits != 31:
                    raise Undecodable("there is something after its end")
                self.made = zlib.decompressobj(31)
            try:
                piece = self.made.decompress(data, min(bounds.left(), STEP))
            except zlib.error as error:
                raise Undecodable(str(error)) from None
            bounds.gave(len(piece))
            out.append(piece)
            data = self.made.unused_data if self.made.eof else self.made.unconsumed_tail
        if not self.made.eof:
            while piece := self._rest(bounds):
                out.append(piece)
        self.complete = self.made.eof
        return b"".join(out)

    def _rest(self, bounds: Bounds) -> bytes:
        """What zlib still holds, though it took all there was."""
        try:
            piece = self.made.decompress(self.made.unconsumed_tail, min(bounds.left(), STEP))
        except zlib.error as error:
            raise Undecodable(str(error)) from None
        bounds.gave(len(piece))
        return piece


class Unbrotli:
    def __init__(self) -> None:
        library = _brotli()
        self.error = library.error
        self.made = library.Decompressor()

    def feed(self, data: bytes, bounds: Bounds) -> bytes:
        out = []
        try:
            while True:
                if data and self.made.is_finished():
                    raise Undecodable("there is something after its end")
                piece = self.made.process(data, output_buffer_limit=min(bounds.left(), STEP))
                bounds.gave(len(piece))
                out.append(piece)
                data = b""
                if not piece and (self.made.is_finished() or self.made.can_accept_more_data()):
                    return b"".join(out)
        except self.error as error:
            raise Undecodable(str(error)) from None

    @property
    def complete(self) -> bool:
        return bool(self.made.is_finished())


class Unzstd:
    """Frames one after the other (RFC 8878 3).

    The library has no bound of what it gives, so it gets so little at once that the most that may come of it is two
    blocks more than what is left."""

    def __init__(self) -> None:
        library = _zstandard()
        self.error = library.ZstdError
        self.library = library
        self.made = self._new()
        self.complete = False

    def _new(self) -> Any:
        return self.library.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()

    def feed(self, data: bytes, bounds: Bounds) -> bytes:
        out = []
        try:
            at = 0
            while at < len(data):
                step = data[at : at + min(4 * (bounds.left() // ZSTD_BLOCK + 1), STEP)]
                at += len(step)
                while step:
                    if self.made.eof:
                        self.made = self._new()
                    piece = self.made.decompress(step)
                    bounds.gave(len(piece))
                    out.append(piece)
                    step = self.made.unused_data if self.made.eof else b""
        except self.error as error:
            raise Undecodable(str(error)) from None
        self.complete = self.made.eof
        return b"".join(out)


def reader(coding: str) -> Any:
    """What undoes an encoding: `feed(data, bounds)`, `complete`. PolicyError when its library is not there."""
    if coding == "br":
        return Unbrotli()
    if coding == "zstd":
        return Unzstd()
    return Inflater(coding == "deflate")


class Stream:
    """Undoes encodings piece by piece, the one applied last first. `size` bounds what each of them gives."""

    def __init__(self, codings: tuple[str, ...], size: int, ratio: int) -> None:
        self.readers = [(reader(coding), Bounds(size, ratio)) for coding in reversed(codings)]
        self.empty = True

    def feed(self, data: bytes) -> bytes:
        for one, bounds in self.readers:
            if not data:
                break
            self.empty = False
            bounds.taken += len(data)
            data = one.feed(data, bounds)
        return data

    def end(self) -> None:
        """Undecodable when something is missing. No bytes at all are taken for a body without any."""
        if not self.empty and not all(one.complete for one, _ in self.readers):
            raise Undecodable("its end is missing")


def decode(body: bytes, codings: tuple[str, ...], size: int, ratio: int) -> bytes:
    """The whole body without its encodings. Undecodable, TooLarge."""
    stream = Stream(codings, size, ratio)
    out = [stream.feed(body[at : at + STEP]) for at in range(0, len(body), STEP)]
    stream.end()
    return b"".join(out)
