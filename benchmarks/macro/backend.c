/* The upstream of the benchmarks: an HTTP/1.1 server on epoll, light enough not to be what is measured.
 *
 *   usage: backend PORT            listens on 127.0.0.1, one process, ends on TERM
 *
 *   GET /.../bytes/N    N bytes of 'x' (application/octet-stream)
 *   GET /.../kept/N     the same for caches: good for an hour, with the number of this answer in X-Serial
 *   GET /.../echo       the request head as it arrived here (text/plain), for checks
 *   GET /.../socket     with the key of RFC 6455 1.3: a WebSocket that sends back what it gets. Masks must be 0.
 *   anything else       154 bytes of JSON
 *
 * Request bodies with Content-Length are read and thrown away; a chunked one is answered with 411. Heads larger than
 * IN_SIZE end the connection. It trusts its peers (the gateways under test) more than a real server may.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { IN_SIZE = 16384, HEAD_SIZE = 256, FILLER_SIZE = 1 << 18, EVENTS = 256, BACKLOG = 4096 };

static const char JSON[] =
    "{\"id\":\"c0ffee00-0000-4000-8000-000000000042\",\"name\":\"widget\",\"price\":1299,\"currency\":\"EUR\","
    "\"stock\":17,\"tags\":[\"a\",\"b\",\"c\"],\"note\":\"from the test backend\"}";
_Static_assert(sizeof JSON - 1 == 154, "every figure is for an answer of 154 bytes");

static char filler[FILLER_SIZE];

struct connection {
    int fd;
    int writing;                 /* waits for EPOLLOUT */
    size_t filled;               /* bytes of `in` that are received and not yet used */
    unsigned long long skip;     /* bytes of a request body still to be thrown away */
    unsigned long long body;     /* bytes of filler still to be sent */
    size_t head_at, head_len;    /* what is unsent of `head` */
    int socket;                  /* a WebSocket: */
    unsigned long long payload;  /* bytes of a frame's payload still to come */
    char head[HEAD_SIZE];
    char in[IN_SIZE];
};

static int epoll;

static void end(struct connection *c) {
    close(c->fd);
    free(c);
}

static void watch(struct connection *c, int operation) {
    struct epoll_event event = {.events = c->writing ? EPOLLOUT : EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll, operation, c->fd, &event);
}

/* Sends what is pending. 1: all is sent; 0: the socket is full; -1: the peer is gone. */
static int flush(struct connection *c) {
    while (c->head_len || c->body) {
        size_t piece = c->body < FILLER_SIZE ? c->body : FILLER_SIZE;
        struct iovec parts[2] = {{c->head + c->head_at, c->head_len}, {filler, piece}};
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
        ssize_t sent = sendmsg(c->fd, &message, MSG_NOSIGNAL);
        if (sent < 0)
            return errno == EAGAIN ? 0 : -1;
        size_t of_head = (size_t)sent < c->head_len ? (size_t)sent : c->head_len;
        c->head_at += of_head;
        c->head_len -= of_head;
        c->body -= (size_t)sent - of_head;
    }
    return 1;
}

/* Small answers go out in one call; one that does not fit (a peer that stopped reading) ends the connection. */
static int send_small(struct connection *c, const char *type, const char *body, size_t length) {
    char head[HEAD_SIZE];
    int n = snprintf(head, sizeof head,
                     "HTTP/1.1 200 OK\r\nServer: backend\r\nDate: Fri, 20 Nov 2026 12:00:00 GMT\r\n"
                     "Content-Type: %s\r\nContent-Length: %zu\r\nX-Powered-By: bench\r\n\r\n", type, length);
    struct iovec parts[2] = {{head, (size_t)n}, {(void *)body, length}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    return sendmsg(c->fd, &message, MSG_NOSIGNAL) == n + (ssize_t)length ? 1 : -1;
}

static const char ORDINARY[] =
    "HTTP/1.1 200 OK\r\nServer: backend\r\nDate: Fri, 20 Nov 2026 12:00:00 GMT\r\n"
    "Content-Type: application/json\r\nContent-Length: 154\r\nX-Powered-By: bench\r\n\r\n";

static const char SWITCH[] =
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

static char ordinary[sizeof ORDINARY - 1 + sizeof JSON - 1];

/* Answers the head in.[0, length). 1: answered; 0: more to send; -1: end the connection. */
static int answer(struct connection *c, size_t length) {
    char *line_end = memchr(c->in, '\r', length);
    char *target = memchr(c->in, ' ', length);
    if (!target || target > line_end)
        return -1;
    target++;
    char *target_end = memchr(target, ' ', (size_t)(line_end - target));
    if (!target_end)
        return -1;
    char kept = c->in[length - 1];  /* strcasestr wants an end */
    c->in[length - 1] = 0;
    if (strcasestr(line_end, "\r\ntransfer-encoding:")) {
        static const char refused[] = "HTTP/1.1 411 Length Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        ssize_t sent = send(c->fd, refused, sizeof refused - 1, MSG_NOSIGNAL);
        (void)sent;
        return -1;
    }
    char *declared = strcasestr(line_end, "\r\ncontent-length:");
    c->skip = declared ? strtoull(declared + 17, NULL, 10) : 0;
    c->in[length - 1] = kept;

    size_t path_len = (size_t)(target_end - target);
    if (path_len >= 7 && !memcmp(target_end - 7, "/socket", 7)) {
        int size = 1 << 20;
        setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
        c->socket = 1;
        return send(c->fd, SWITCH, sizeof SWITCH - 1, MSG_NOSIGNAL) == (ssize_t)sizeof SWITCH - 1 ? 1 : -1;
    }
    if (path_len >= 5 && !memcmp(target_end - 5, "/echo", 5))
        return send_small(c, "text/plain", c->in, length);
    char *kept_bytes = memmem(target, path_len, "/kept/", 6);
    if (kept_bytes) {
        static unsigned long serial;
        char date[40];
        time_t now = time(NULL);  /* a cache counts from it */
        strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime(&now));
        c->body = strtoull(kept_bytes + 6, NULL, 10);
        c->head_at = 0;
        c->head_len = (size_t)snprintf(c->head, HEAD_SIZE,
                                       "HTTP/1.1 200 OK\r\nServer: backend\r\nDate: %s\r\n"
                                       "Content-Type: application/json\r\nCache-Control: public, max-age=3600\r\nX-Serial: %lu\r\n"
                                       "Content-Length: %llu\r\n\r\n", date, ++serial, c->body);
        return flush(c);
    }
    char *bytes = memmem(target, path_len, "/bytes/", 7);
    if (bytes) {
        c->body = strtoull(bytes + 7, NULL, 10);
        c->head_at = 0;
        c->head_len = (size_t)snprintf(c->head, HEAD_SIZE,
                                       "HTTP/1.1 200 OK\r\nServer: backend\r\nDate: Fri, 20 Nov 2026 12:00:00 GMT\r\n"
                                       "Content-Type: application/octet-stream\r\nContent-Length: %llu\r\n\r\n", c->body);
        return flush(c);
    }
    return send(c->fd, ordinary, sizeof ordinary, MSG_NOSIGNAL) == (ssize_t)sizeof ordinary ? 1 : -1;
}

static void take(struct connection *c, size_t count) {
    memmove(c->in, c->in + count, c->filled - count);
    c->filled -= count;
}

/* Frames back as they came, without their masks (which are 0: nothing is to be undone). As `answer`. */
static int echo(struct connection *c) {
    char out[IN_SIZE];
    size_t at = 0, length = 0;
    while (at < c->filled) {
        if (!c->payload) {
            unsigned char *head = (unsigned char *)c->in + at;
            size_t left = c->filled - at, wide = left < 2 ? 0 : (head[1] & 127) == 126 ? 2 : (head[1] & 127) == 127 ? 8 : 0;
            if (left < 2 || left < 2 + wide + 4)
                break;
            c->payload = head[1] & 127;
            if (wide)
                for (size_t i = c->payload = 0; i < wide; i++)
                    c->payload = c->payload << 8 | head[2 + i];
            memcpy(out + length, head, 2 + wide);
            out[length + 1] &= 127;
            length += 2 + wide;
            at += 2 + wide + 4;
        }
        size_t piece = c->filled - at < c->payload ? c->filled - at : c->payload;
        memcpy(out + length, c->in + at, piece);
        length += piece;
        at += piece;
        c->payload -= piece;
    }
    take(c, at);
    return !length || send(c->fd, out, length, MSG_NOSIGNAL) == (ssize_t)length ? 1 : -1;
}

/* Uses what was received: bodies are skipped, complete heads answered in order. As `answer`. */
static int serve(struct connection *c) {
    for (;;) {
        if (c->socket)
            return echo(c);
        if (c->skip) {
            size_t count = c->skip < c->filled ? c->skip : c->filled;
            take(c, count);
            c->skip -= count;
            if (c->skip)
                return 1;
        }
        char *end_of_head = memmem(c->in, c->filled, "\r\n\r\n", 4);
        if (!end_of_head)
            return c->filled == IN_SIZE ? -1 : 1;
        size_t length = (size_t)(end_of_head - c->in) + 4;
        int state = answer(c, length);
        if (state < 0)
            return -1;
        take(c, length);
        if (!state)
            return 0;
    }
}

static void ready(struct connection *c, unsigned events) {
    int state = 1;
    if (c->writing) {
        state = flush(c);
        if (!state)
            return;
        if (state > 0)
            state = serve(c);  /* requests that waited behind the long answer */
    } else if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        ssize_t count = recv(c->fd, c->in + c->filled, IN_SIZE - c->filled, 0);
        if (count < 0 && errno == EAGAIN)
            return;
        if (count > 0) {
            c->filled += (size_t)count;
            state = serve(c);
        } else {
            state = -1;
        }
    }
    if (state < 0) {
        end(c);
    } else if (c->writing != !state) {
        c->writing = !state;
        watch(c, EPOLL_CTL_MOD);
    }
}

static void accept_all(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        if (!c) {
            close(fd);
            return;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        c->fd = fd;
        watch(c, EPOLL_CTL_ADD);
    }
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: %s PORT\n", argv[0]);
        return 2;
    }
    memset(filler, 'x', sizeof filler);
    memcpy(ordinary, ORDINARY, sizeof ORDINARY - 1);
    memcpy(ordinary + sizeof ORDINARY - 1, JSON, sizeof JSON - 1);

    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, BACKLOG)) {
        perror("backend");
        return 1;
    }
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event events[EVENTS], accepting = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &accepting);
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr)
                ready(events[i].data.ptr, events[i].events);
            else
                accept_all(listener);
        }
    }
}
