"""The frames of a WebSocket (RFC 6455) as they pass: where each begins and ends, and what is wrong with it."""
from libc.stdint cimport int64_t, uint8_t, uint64_t

cdef enum WayState:
    W_HEAD                   # between frames, or within the head of one
    W_PAYLOAD
    W_CONTROL                # within a control frame that is held until it is whole
    W_ENDED                  # a close frame went: nothing follows it
    W_LOST                   # what comes is no frame: where others begin is not known

cdef enum Opcode:
    O_CONTINUATION = 0
    O_TEXT = 1
    O_BINARY = 2
    O_CLOSE = 8
    O_PING = 9
    O_PONG = 10

cdef enum CloseCode:
    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    NO_CODE = 1005           # a close frame without one
    ABNORMAL = 1006          # no close frame
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN = 1013

cdef enum:
    FORWARD = 0              # what Reader.control answers beside a close code
    SWALLOW = 1
    CONTROL_MAX = 125        # RFC 6455 5.5
    HEAD_MAX = 14


cdef class Reader:
    """The frames of one direction."""
    cdef int state
    cdef uint8_t head[HEAD_MAX]
    cdef uint8_t payload[CONTROL_MAX]     # of a control frame, as it came; of a close frame that only passes: its code
    cdef int head_n, payload_n
    cdef int64_t rest                     # payload bytes of this frame that are still to come
    cdef uint8_t opcode, rsv
    cdef bint fin, masked, minimal
    cdef bint fragmented                  # a message has begun and its last frame has not
    cdef int64_t message                  # payload bytes of that message so far
    cdef int close_code                   # of the close frame that passed; 0: none did
    cdef uint64_t *frames                 # counters, NULL: nobody counts
    cdef uint64_t *messages
    # what is allowed
    cdef bint want_mask
    cdef uint8_t rsv_allowed              # bits 4 (RSV1), 2, 1, in the first frame of a message
    cdef bint rsv_anywhere                # an extension that is not known: its bits are its own
    cdef int64_t max_frame, max_message   # bytes, 0 = any
    cdef int64_t every_ns, burst_ns       # messages: one in so much time, so far ahead; 0 = any
    cdef int64_t paid_until
    cdef int64_t now                      # set by whoever feeds
    cdef size_t follow(self, const uint8_t *p, size_t n, bint to_border) noexcept
    cdef int read(self, const uint8_t *p, size_t n) except -1     # 0, or the code to close with
    cdef bint border(self) noexcept       # what went on so far ends with a frame; of `read`, not of `follow`
    cdef int payload_code(self) noexcept
    cdef bint _head(self, const uint8_t **p, size_t *n) noexcept
    cdef int _judge(self) noexcept
    cdef int _judge_close(self) except -1
    cdef int _refuse(self, const uint8_t *start, const uint8_t *at, int code) except -1
    cdef int _forward_whole(self) except -1
    cdef int unmasked(self, char *out) noexcept
    # for whoever reads
    cdef int forward(self, const uint8_t *p, size_t n) except -1
    cdef int control(self) except -1      # a whole control frame: FORWARD, SWALLOW, or the code to close with


cdef class FrameReader(Reader):
    cdef bytearray passed


cdef size_t put_control(char *out, int opcode, const char *payload, size_t n, const uint8_t *mask) noexcept
