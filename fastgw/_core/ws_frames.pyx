"""The frames of a WebSocket (RFC 6455) as they pass: where each begins and ends, and what is wrong with it.

A reader keeps no message. It has two ways of looking: `follow` only keeps count of where frames end, whatever they
hold, while its caller passes the bytes on; `read` passes them on itself, after a look at each head, so that a frame
that is refused ends at a border of frames for whoever gets the others. Data is passed on as it comes; control frames,
125 bytes at most, when they are whole.
"""
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8


cdef size_t put_control(char *out, int opcode, const char *payload, size_t n, const uint8_t *mask) noexcept:
    """A control frame of at most 125 bytes of payload; `mask` (4 bytes) where it goes to a service, else NULL."""
    cdef size_t i, at = 2
    out[0] = <char>(0x80 | opcode)
    out[1] = <char>(n | (0x80 if mask != NULL else 0))
    if mask != NULL:
        memcpy(out + 2, mask, 4)
        at = 6
    for i in range(n):
        out[at + i] = <char>(<uint8_t>payload[i] ^ mask[i & 3]) if mask != NULL else payload[i]
    return at + n


cdef class Reader:
    # ------------------------------------------------------------------ heads

    cdef bint _head(self, const uint8_t **p, size_t *n) noexcept:
        """Takes bytes of a head; True when it is whole, and what it says stands in the fields."""
        cdef size_t k
        cdef int need, i, length
        cdef uint64_t size
        if self.head_n == 0 and n[0] >= HEAD_MAX:
            # nearly always: all of it is here
            memcpy(self.head, p[0], HEAD_MAX)
            length = self.head[1] & 0x7f
            need = 2 + (2 if length == 126 else 8 if length == 127 else 0) + (4 if self.head[1] & 0x80 else 0)
            self.head_n = need
            p[0] += need
            n[0] -= need
        while True:
            need = 2
            if self.head_n >= 2:
                length = self.head[1] & 0x7f
                need = 2 + (2 if length == 126 else 8 if length == 127 else 0) + (4 if self.head[1] & 0x80 else 0)
                if self.head_n == need:
                    break
            k = need - self.head_n
            if k > n[0]:
                k = n[0]
            if k == 0:
                return False
            memcpy(self.head + self.head_n, p[0], k)
            self.head_n += k
            p[0] += k
            n[0] -= k
        self.fin = self.head[0] & 0x80 != 0
        self.rsv = self.head[0] >> 4 & 7
        self.opcode = self.head[0] & 15
        self.masked = self.head[1] & 0x80 != 0
        size = length
        if length >= 126:
            size = 0
            for i in range(2 if length == 126 else 8):
                size = size << 8 | self.head[2 + i]
        # RFC 6455 5.2: the least number of bytes that can hold the length, and its highest bit is 0
        self.minimal = length < 126 or (length == 126 and size > 125) or (length == 127 and size > 65535)
        self.rest = <int64_t>size
        self.payload_n = 0
        return True

    cdef int _judge(self) noexcept:
        """RFC 6455 5.2 to 5.5, and the route's own bounds: 0, or the code to close with."""
        cdef bint control = self.opcode & 8 != 0
        if self.masked != self.want_mask or not self.minimal or self.rest < 0:
            return PROTOCOL_ERROR
        if self.opcode > O_PONG or 2 < self.opcode < O_CLOSE:
            return PROTOCOL_ERROR
        # 5.2, RFC 7692 6: RSV1 of permessage-deflate stands in the first frame of a message and nowhere else
        if self.rsv and not self.rsv_anywhere \
                and (self.rsv & ~self.rsv_allowed or control or self.opcode == O_CONTINUATION):
            return PROTOCOL_ERROR
        if control:
            if not self.fin or self.rest > CONTROL_MAX:
                return PROTOCOL_ERROR
        elif self.fragmented != (self.opcode == O_CONTINUATION):
            return PROTOCOL_ERROR
        elif self.max_frame and self.rest > self.max_frame:
            return TOO_BIG
        if not control:
            if self.opcode != O_CONTINUATION:
                self.message = 0
            if self.max_message and self.rest > self.max_message - self.message:
                return TOO_BIG
            self.message += self.rest
        # a message, or a control frame: what follows the first frame of a message has been paid for by it
        if self.every_ns and self.opcode != O_CONTINUATION:
            if self.paid_until < self.now:
                self.paid_until = self.now
            self.paid_until += self.every_ns
            if self.paid_until - self.now > self.burst_ns:
                return POLICY_VIOLATION
        return 0

    cdef int payload_code(self) noexcept:
        """The code of a close frame."""
        cdef uint8_t a = self.payload[0], b = self.payload[1]
        if self.payload_n < 2:
            return NO_CODE
        if self.masked:
            a ^= self.head[self.head_n - 4]
            b ^= self.head[self.head_n - 3]
        return a << 8 | b

    cdef int _judge_close(self) except -1:
        """RFC 6455 5.5.1 and 7.4: 0, or the code to close with."""
        cdef int code
        cdef char text[CONTROL_MAX]
        if self.payload_n == 0:
            return 0
        if self.payload_n == 1:
            return PROTOCOL_ERROR
        code = self.payload_code()
        if not (1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999):
            return PROTOCOL_ERROR
        self.unmasked(text)
        try:
            PyUnicode_DecodeUTF8(text + 2, self.payload_n - 2, NULL)
        except UnicodeDecodeError:
            return INVALID_DATA
        return 0

    # ------------------------------------------------------------------ only where frames end

    cdef size_t follow(self, const uint8_t *p, size_t n, bint to_border) noexcept:
        """Keeps count; `to_border`: of the frame under way only. How many bytes were looked at."""
        cdef const uint8_t *start = p
        cdef size_t k
        cdef int i
        while n and self.state != W_LOST:
            if self.state == W_HEAD or self.state == W_ENDED:
                if not self._head(&p, &n):
                    break
                self.state = W_PAYLOAD
                if self.rest < 0:
                    self.state = W_LOST
                    break
                if self.frames != NULL:
                    self.frames[0] += 1
                    self.messages[0] += self.fin and self.opcode < O_CLOSE
            k = n if <int64_t>n < self.rest else <size_t>self.rest
            if self.opcode == O_CLOSE:
                i = 0
                while self.payload_n < 2 and i < <int>k:
                    self.payload[self.payload_n] = p[i]
                    self.payload_n += 1
                    i += 1
            self.rest -= k
            p += k
            n -= k
            if self.rest == 0:
                self.state = W_HEAD
                if self.opcode == O_CLOSE and self.close_code == 0:
                    self.close_code = self.payload_code()
                self.head_n = 0
                if to_border:
                    break
        return p - start

    cdef bint border(self) noexcept:
        return self.state == W_HEAD or self.state == W_CONTROL or self.state == W_ENDED

    # ------------------------------------------------------------------ frame by frame

    cdef int read(self, const uint8_t *p, size_t n) except -1:
        """Passes on what may pass: 0, or the code to close with. Bytes after that are not looked at."""
        cdef const uint8_t *start = p             # from here on nothing was passed on
        cdef const uint8_t *at = p                # where the frame under way begins in these bytes,
        cdef bint carried = self.state != W_PAYLOAD and self.head_n != 0    # or it began in those before
        cdef size_t k
        cdef int code
        while n and self.state < W_ENDED:
            if self.state == W_HEAD:
                if not self._head(&p, &n):
                    break
                code = self._judge()
                if code:
                    return self._refuse(start, at, code)
                if self.frames != NULL:
                    self.frames[0] += 1
                    self.messages[0] += self.fin and self.opcode < O_CLOSE
                if self.opcode < O_CLOSE:
                    self.fragmented = not self.fin
                    self.state = W_PAYLOAD
                    if carried:
                        self.forward(self.head, self.head_n)
                        start = p
                else:
                    self.state = W_CONTROL
            k = n if <int64_t>n < self.rest else <size_t>self.rest
            if self.state == W_CONTROL:
                memcpy(self.payload + self.payload_n, p, k)
                self.payload_n += k
            self.rest -= k
            p += k
            n -= k
            if self.rest:
                break
            if self.state == W_CONTROL:
                code = self._judge_close() if self.opcode == O_CLOSE else 0
                if code == 0:
                    code = self.control()
                if code > SWALLOW:
                    return self._refuse(start, at, code)
                if carried or code == SWALLOW:
                    if at > start:
                        self.forward(start, at - start)
                    start = p
                    if code == FORWARD:
                        self._forward_whole()
            self.state = W_HEAD
            if self.opcode == O_CLOSE:
                # RFC 6455 5.5.1: after it no more data is sent
                self.close_code = self.payload_code()
                self.state = W_ENDED
            self.head_n = 0
            at = p
            carried = False
        # a head, or a control frame, that is not whole yet is not passed on
        if self.state == W_PAYLOAD:
            at = p
        if at > start:
            self.forward(start, at - start)
        return 0

    cdef int _refuse(self, const uint8_t *start, const uint8_t *at, int code) except -1:
        if at > start:
            self.forward(start, at - start)
        self.state = W_LOST
        return code

    cdef int _forward_whole(self) except -1:
        """The control frame that was held."""
        cdef uint8_t frame[HEAD_MAX + CONTROL_MAX]
        memcpy(frame, self.head, self.head_n)
        memcpy(frame + self.head_n, self.payload, self.payload_n)
        return self.forward(frame, self.head_n + self.payload_n)

    cdef int unmasked(self, char *out) noexcept:
        """The payload of the control frame that is whole, at most 125 bytes: how many."""
        cdef int i
        for i in range(self.payload_n):
            out[i] = <char>(self.payload[i] ^ (self.head[self.head_n - 4 + (i & 3)] if self.masked else 0))
        return self.payload_n

    cdef int forward(self, const uint8_t *p, size_t n) except -1:
        return 0

    cdef int control(self) except -1:
        return FORWARD


cdef class FrameReader(Reader):
    """`FrameReader(mask, max_frame, max_message, rsv)`: for tests. `feed(data)` gives (what passed, code or 0)."""

    def __init__(self, bint mask=False, int64_t max_frame=0, int64_t max_message=0, int rsv=0):
        self.want_mask = mask
        self.max_frame = max_frame
        self.max_message = max_message
        self.rsv_allowed = rsv

    cdef int forward(self, const uint8_t *p, size_t n) except -1:
        self.passed += (<const char*>p)[:n]
        return 0

    def feed(self, bytes data):
        self.passed = bytearray()
        code = self.read(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        return bytes(self.passed), code

    def look(self, bytes data, bint to_border=False):
        """Bytes that were looked at, by `follow`; then whether they end with a frame."""
        cdef size_t used = self.follow(<const uint8_t*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), to_border)
        return used, self.state == W_HEAD and self.head_n == 0

    @property
    def ended(self):
        """The code of the close frame that passed, or 0."""
        return self.close_code
