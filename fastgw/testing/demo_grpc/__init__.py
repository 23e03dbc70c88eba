"""The demo gRPC service `fastgw.demo.v1.Library`, by grpcio: what `fastgw demo` runs and the tests of gRPC talk to.

    with LibraryServer() as library:
        channel = grpc.insecure_channel(library.address)

Its messages come from library.pb, the descriptor set that `grpc_transcode` takes too. Needs `fastgw[grpc]`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from google.api import httpbody_pb2
from google.rpc import error_details_pb2, status_pb2

from fastgw.protocols.descriptors import Descriptors, Method

DESCRIPTORS = Path(__file__).with_name("library.pb")
MAX_MESSAGE = 16 * 1024 * 1024
MAX_WAIT_MS = 60_000
THREADS = 16
FIRST = (
    ("shelves/1/books/1", "Emma", "Jane Austen", 1775, 1, 474),
    ("shelves/1/books/2", "Persuasion", "Jane Austen", 1775, 1, 249),
    ("shelves/2/books/3", "Duino Elegies", "Rainer Maria Rilke", 1875, 2, 96),
)

Context = Any
Message = Any


class Library:
    """The methods of the service; `messages` are protobuf's classes by their short names."""

    def __init__(self, methods: dict[str, Method]) -> None:
        self.answers = {name: method.response for name, method in methods.items()}
        self.Book = self.answers["GetBook"]
        self.lock = threading.Condition()
        self.books: dict[str, Message] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        """(method, metadata) of the calls, for tests; of the last hundred."""
        for name, title, author, born, genre, pages in FIRST:
            book = self.Book(name=name, title=title, genre=genre, pages=pages)
            book.author.name, book.author.born.value = author, born
            self.books[name] = book

    def note(self, method: str, context: Context) -> None:
        self.seen.append((method, dict(context.invocation_metadata())))
        del self.seen[:-100]

    def GetBook(self, request: Message, context: Context) -> Message:
        with self.lock:
            book = self.books.get(request.name)
        if book is None:
            return gone(context, request.name)
        context.set_trailing_metadata((("x-shelf", request.name.partition("/books/")[0]),))
        return book

    def ListBooks(self, request: Message, context: Context) -> Message:
        answer = self.answers["ListBooks"](asked=request)
        with self.lock:
            found = [book for name, book in self.books.items() if name.startswith(request.parent)]
        answer.books.extend(found[: request.page_size or None])
        return answer

    def add(self, parent: str, book: Message) -> Message:
        with self.lock:
            added = self.Book()
            added.CopyFrom(book)
            added.name = f"{parent or 'shelves/0'}/books/{len(self.books) + 1}"
            self.books[added.name] = added
            self.lock.notify_all()
        return added

    def CreateBook(self, request: Message, context: Context) -> Message:
        if not request.book.title:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "A book has a title.")
        return self.add(request.parent, request.book)

    def UpdateBook(self, request: Message, context: Context) -> Message:
        with self.lock:
            book = self.books.get(request.book.name)
            if book is None:
                return gone(context, request.book.name)
            request.update_mask.MergeMessage(request.book, book, True, True)
        return book

    def DeleteBook(self, request: Message, context: Context) -> Message:
        with self.lock:
            if self.books.pop(request.name, None) is None:
                return gone(context, request.name)
        return self.answers["DeleteBook"]()

    def WatchBooks(self, request: Message, context: Context) -> Iterator[Message]:
        """The books of a shelf, then each as it is added, `count` in all (0: without end)."""
        sent: set[str] = set()
        while context.is_active():
            with self.lock:
                there = [book for name, book in self.books.items() if name.startswith(request.parent)]
                new = [book for book in there if book.name not in sent]
                if not new:
                    self.lock.wait(0.5)
            for book in new:
                yield book
                sent.add(book.name)
                if len(sent) == request.count:
                    return

    def ImportBooks(self, requests: Iterator[Message], context: Context) -> Message:
        answer = self.answers["ImportBooks"]()
        for request in requests:
            answer.parent = answer.parent or request.parent
            answer.titles.append(self.add(answer.parent, request.book).title)
            answer.count += 1
        return answer

    def DownloadBook(self, request: Message, context: Context) -> Message:
        return self.answers["DownloadBook"](content_type="text/plain", data=f"the text of {request.name}\n".encode())

    def UploadBook(self, request: Message, context: Context) -> Message:
        return self.Book(name=request.name, title=request.file.content_type, cover=request.file.data)

    def echo(self, request: Message, context: Context) -> Message:
        if request.wait_ms:
            time.sleep(min(request.wait_ms, MAX_WAIT_MS) / 1000)
        answer = self.answers["Echo"](text=request.text, tree=request.tree, struct=request.struct)
        answer.counts.update(request.counts)
        answer.filling = bytes(min(request.size, MAX_MESSAGE // 2))
        answer.metadata.update(
            {name: value for name, value in context.invocation_metadata() if not name.endswith("-bin")}
        )
        return answer

    def Echo(self, request: Message, context: Context) -> Message:
        return self.echo(request, context)

    def Chat(self, requests: Iterator[Message], context: Context) -> Iterator[Message]:
        for request in requests:
            yield self.echo(request, context)

    def Fail(self, request: Message, context: Context) -> Message:
        return fail(request, context)

    def FailLater(self, request: Message, context: Context) -> Iterator[Message]:
        for number in range(request.after):
            yield self.answers["FailLater"](text=str(number))
        fail(request, context)


def gone(context: Context, name: str) -> Message:
    context.abort(grpc.StatusCode.NOT_FOUND, f"There is no {name}.")


def fail(request: Message, context: Context) -> Message:
    """Ends the call as it was asked to."""
    status = status_pb2.Status(code=request.code, message=request.message)
    if request.details:
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason="ASKED_FOR", domain="demo"))
        context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    code = next((one for one in grpc.StatusCode if one.value[0] == request.code), grpc.StatusCode.UNKNOWN)
    context.abort(code, request.message)


def handler(method: Method, library: Library) -> Any:
    """What grpcio calls for one method."""
    kind = ("stream" if method.client_streaming else "unary", "stream" if method.server_streaming else "unary")
    make = getattr(grpc, f"{kind[0]}_{kind[1]}_rpc_method_handler")
    short = method.path.rpartition("/")[2]
    call: Callable[[Any, Context], Any] = getattr(library, short)

    def noted(request: Any, context: Context) -> Any:
        library.note(short, context)
        return call(request, context)

    return make(
        noted,
        request_deserializer=method.request.FromString,
        response_serializer=method.response.SerializeToString,
    )


def health(service: str) -> Any:
    """grpc.health.v1.Health/Check: this service is well."""
    name = service.encode()
    known = (b"", b"\x0a" + bytes((len(name),)) + name)      # HealthCheckRequest: its field 1 is the service

    def check(request: bytes, context: Context) -> bytes:
        if request not in known:
            context.abort(grpc.StatusCode.NOT_FOUND, "There is no such service.")
        return b"\x08\x01"                                  # HealthCheckResponse: status SERVING

    handlers = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    return grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers)


class LibraryServer:
    """The service on a socket of `host`; port 0 takes a free one. `reflection`: it tells its descriptors."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, reflection: bool = True, credentials: Any = None):
        assert httpbody_pb2  # its type is in messages of the set
        descriptors = Descriptors(DESCRIPTORS.read_bytes())
        ((self.service, methods),) = descriptors.services.items()
        self.library = Library({method.path.rpartition("/")[2]: method for method in methods})
        options = (("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE),
                   ("grpc.so_reuseport", 0))  # fmt: skip
        self.server = grpc.server(ThreadPoolExecutor(THREADS), options=options)
        handlers = {method.path.rpartition("/")[2]: handler(method, self.library) for method in methods}
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(self.service, handlers),))
        self.server.add_generic_rpc_handlers((health(self.service),))
        if reflection:
            from grpc_reflection.v1alpha.reflection import enable_server_reflection

            enable_server_reflection((self.service,), self.server, descriptors.pool)
        self.host = host
        address = f"{host}:{port}"
        try:
            if credentials is None:
                self.port = self.server.add_insecure_port(address)
            else:
                self.port = self.server.add_secure_port(address, credentials)
        except RuntimeError:
            raise OSError(f"cannot listen at {address}") from None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def __enter__(self) -> LibraryServer:
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop(0).wait(10)
