"""Messages that are almost HTTP: grammar with odd words in it, then bytes changed at random."""

from hypothesis import strategies as st


def mostly(good, odd):
    """`good` three times out of four."""
    return st.one_of(good, good, good, odd)


def words(*values):
    return st.sampled_from([value.encode("latin-1") for value in values])


EOL = mostly(st.just(b"\r\n"), words("\r\n", "\r\n", "\n", "\r", "\r\r\n", "\r\n "))
SPACE = mostly(st.just(b" "), words(" ", " ", "  ", "\t", ""))
COLON = mostly(st.just(b": "), words(":", ":  ", ":\t", " : ", " :", "\t:", ": \t ", ""))
METHODS = mostly(
    words("GET", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS"),
    words("get", "FOO", "G ET", "CONNECT", "TRACE", "PRI", "QUERY", "", "GE\0T", "M-SEARCH", "A" * 40),
)
TARGETS = mostly(
    words("/", "/a", "/a/b?c=d", "/a?", "/%41", "/a//b", "/a/../b", "http://h/x", "http://h", "/?a=%2F"),
    words("", "*", "a", "/a b", "/a#b", "/\\a", "/%zz", "/%00", "/\xe9", "http://u@h/", "ftp://h/", "h:443", "/\x7f"),
)
VERSIONS = mostly(
    words("HTTP/1.1"), words("HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1.1 ", "HTTP/11", "")
)
HOSTS = mostly(
    words("h", "h:80", "example.com", "[::1]:8080"), words("", "a b", "a,b", "u@h", "h/", "h:x", "a%41", "\xe9", "[::1")
)
NAMES = mostly(
    words("X", "Accept", "Cookie", "x-a", "X-A", "Content-Type", "!#$%&'*+-.^`|~"),
    words("X Y", "X_Y", "X\0", "", "X\xe9", "(X)", "Content_Length", "X\r", "Transfer-Encodings"),
)
VALUES = mostly(
    words("", "a", "a b", "a, b", '"q"', "text/html;q=0.8"),
    words("\xe9", "a\tb", "a\0b", "a\x01", "a\x7f", "a\rb", " a "),
)
LENGTHS = mostly(
    words("0", "1", "3", "5", "10"), words("+3", "-1", "3, 3", "3,4", "0x3", "", "03", "3 3", "99999999999999999999")
)
CODINGS = mostly(
    words("chunked", "Chunked"), words("gzip", "gzip, chunked", "chunked, chunked", "xchunked", "", "identity")
)
SIZES = mostly(
    words("0", "1", "3", "a", "A"), words("", "00000003", "-1", "+3", "0x3", "3 ", " 3", "g", "1" * 17, "1" * 25)
)
EXTENSIONS = mostly(st.just(b""), words(";", ";a", ";a=b", ';a="b"', ";a\nb", ";\0", " ;a", ";\xe9"))
OPTIONS = words("close", "keep-alive", "X", "x-a", "Upgrade", "close, X", "Content-Length", "Host", "")


@st.composite
def header(draw):
    kind = draw(st.integers(0, 9))
    if kind == 0:
        name, value = b"Content-Length", draw(LENGTHS)
    elif kind == 1:
        name, value = b"Transfer-Encoding", draw(CODINGS)
    elif kind == 2:
        name, value = b"Connection", draw(OPTIONS)
    elif kind == 3:
        name, value = (
            draw(words("Expect", "Upgrade", "TE", "Trailer", "Keep-Alive")),
            draw(words("100-continue", "x", "h2c")),
        )
    else:
        name, value = draw(NAMES), draw(VALUES)
    return name + draw(COLON) + value + draw(EOL)


@st.composite
def chunks(draw):
    parts = []
    for _ in range(draw(st.integers(0, 3))):
        size = draw(SIZES)
        data = draw(st.one_of(st.just(None), st.binary(max_size=12)))
        if data is None:
            try:
                data = b"d" * min(int(size, 16), 20)
            except ValueError:
                data = b"ddd"
        parts.append(size + draw(EXTENSIONS) + draw(EOL) + data + draw(EOL))
    trailers = draw(st.lists(header(), max_size=1))
    return b"".join(parts) + b"0" + draw(EXTENSIONS) + draw(EOL) + b"".join(trailers) + draw(EOL)


@st.composite
def body(draw):
    """(headers that frame it, its bytes)"""
    kind = draw(st.integers(0, 5))
    if kind < 3:
        return b"", b""
    if kind == 3:
        data = draw(st.binary(max_size=20))
        return b"Content-Length: %d\r\n" % len(data), data
    if kind == 4:
        return b"Transfer-Encoding: chunked\r\n", draw(chunks())
    return draw(header()), draw(st.binary(max_size=20))


@st.composite
def request(draw):
    line = draw(METHODS) + draw(SPACE) + draw(TARGETS) + draw(SPACE) + draw(VERSIONS) + draw(EOL)
    host = draw(mostly(st.just(b"Host: h\r\n"), st.one_of(st.just(b""), HOSTS.map(lambda h: b"Host: " + h + b"\r\n"))))
    framing, data = draw(body())
    return line + host + b"".join(draw(st.lists(header(), max_size=3))) + framing + draw(EOL) + data


STATUSES = mostly(
    words("200", "404", "204", "304", "500", "299"), words("100", "103", "101", "20", "2000", "abc", "099", "-1")
)
REASONS = mostly(words("OK", "Not Found", ""), words("O\0K", "\xe9", "a\tb", "a\rb", "\x01"))


@st.composite
def response(draw):
    line = draw(VERSIONS) + draw(SPACE) + draw(STATUSES) + draw(SPACE) + draw(REASONS) + draw(EOL)
    framing, data = draw(body())
    return line + b"".join(draw(st.lists(header(), max_size=3))) + framing + draw(EOL) + data


@st.composite
def mutated(draw, messages):
    """One to three messages in a row; a byte or two inserted, replaced, removed or doubled now and then."""
    data = b"".join(draw(st.lists(messages, min_size=1, max_size=3)))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 2]))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.integers(0, 3))
        byte = draw(
            st.one_of(words("\r", "\n", "\0", " ", ":", "0", ",", "\t", ";"), st.binary(min_size=1, max_size=1))
        )
        if kind == 0:
            data = data[:at] + byte + data[at:]
        elif kind == 1:
            data = data[:at] + byte + data[at + 1 :]
        elif kind == 2:
            data = data[:at] + data[at + 1 :]
        else:
            data = data[: at + 1] + data[at:]
    return data
