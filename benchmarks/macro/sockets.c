/* A load of WebSockets: on each one message is under way, and the next one leaves when its echo is here.
 *
 *   usage: sockets PORT CONNECTIONS SIZE SECONDS
 *
 * Opens CONNECTIONS sockets to ws://127.0.0.1:PORT/api/socket (see backend.c) and sends binary messages of SIZE bytes.
 * The first tenth of a second is sent and not counted. Prints
 *
 *   SOCKETS messages=N duration_us=N bytes=N mean_us=N p50_us=N p99_us=N
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 4096, EVENTS = 256, IN_SIZE = 1 << 18, LATENCIES = 1 << 22 };

struct socket { int fd; size_t sent, got; int64_t begun; int writing; };

static char *frame, in[IN_SIZE];
static size_t frame_size, echo_size;
static int epoll;
static struct socket sockets[MOST];
static uint32_t *latencies;
static int64_t messages, counted, total_us, from;

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void fail(const char *what) {
    fprintf(stderr, "sockets: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void push(struct socket *s) {
    while (s->sent < frame_size) {
        ssize_t n = send(s->fd, frame + s->sent, frame_size - s->sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0)
            fail("send");
        s->sent += (size_t)n;
    }
    int writing = s->sent < frame_size;
    if (writing != s->writing) {
        struct epoll_event event = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = s};
        s->writing = writing;
        epoll_ctl(epoll, EPOLL_CTL_MOD, s->fd, &event);
    }
}

static void begin(struct socket *s) {
    s->sent = s->got = 0;
    s->begun = now();
    push(s);
}

static void pull(struct socket *s) {
    ssize_t n = recv(s->fd, in, IN_SIZE, MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0)
        fail("the socket ended");
    if (s->got == 0 && (unsigned char)in[0] != 0x82)
        fail("not the echo");
    s->got += (size_t)n;
    if (s->got < echo_size)
        return;
    if (s->got > echo_size)
        fail("more than the echo");
    if (s->begun >= from) {
        uint32_t us = (uint32_t)((now() - s->begun) / 1000);
        if (counted < LATENCIES)
            latencies[counted++] = us;
        messages++;
        total_us += us;
    }
    begin(s);
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv) {
    if (argc != 5 || atoi(argv[2]) < 1 || atoi(argv[2]) > MOST) {
        fprintf(stderr, "usage: %s PORT CONNECTIONS SIZE SECONDS\n", argv[0]);
        return 2;
    }
    int connections = atoi(argv[2]), one = 1;
    size_t size = strtoul(argv[3], NULL, 10), wide = size > 65535 ? 8 : size > 125 ? 2 : 0;
    double seconds = atof(argv[4]);
    frame_size = 2 + wide + 4 + size;
    echo_size = 2 + wide + size;
    frame = calloc(1, frame_size);
    latencies = malloc(LATENCIES * sizeof *latencies);
    frame[0] = (char)0x82;
    frame[1] = (char)(0x80 | (wide == 8 ? 127 : wide == 2 ? 126 : size));
    for (size_t i = 0; i < wide; i++)
        frame[2 + i] = (char)(size >> 8 * (wide - 1 - i));
    memset(frame + 2 + wide + 4, 'x', size);

    char head[512];
    int head_n = snprintf(head, sizeof head,
        "GET /api/socket HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", argv[1]);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1])),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    epoll = epoll_create1(0);
    for (int i = 0; i < connections; i++) {
        struct socket *s = &sockets[i];
        s->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(s->fd, (struct sockaddr *)&to, sizeof to))
            fail("connect");
        setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (send(s->fd, head, (size_t)head_n, MSG_NOSIGNAL) != head_n)
            fail("handshake");
        size_t got = 0;
        do {
            ssize_t n = recv(s->fd, in + got, 1, 0);
            if (n <= 0)
                fail("handshake");
            got++;
        } while (got < 4096 && (got < 4 || memcmp(in + got - 4, "\r\n\r\n", 4)));
        if (memcmp(in, "HTTP/1.1 101", 12))
            fail("no 101");
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};
        epoll_ctl(epoll, EPOLL_CTL_ADD, s->fd, &event);
    }
    from = now() + 100000000LL;
    int64_t end = from + (int64_t)(seconds * 1e9);
    for (int i = 0; i < connections; i++)
        begin(&sockets[i]);
    struct epoll_event events[EVENTS];
    while (now() < end) {
        int n = epoll_wait(epoll, events, EVENTS, 100);
        for (int i = 0; i < n; i++) {
            struct socket *s = events[i].data.ptr;
            if (events[i].events & EPOLLOUT)
                push(s);
            if (events[i].events & ~EPOLLOUT)
                pull(s);
        }
    }
    double lasted = (double)(now() - from) / 1e3;
    if (!counted)
        fail("no message");
    qsort(latencies, (size_t)counted, sizeof *latencies, ascending);
    printf("SOCKETS messages=%lld duration_us=%.0f bytes=%lld mean_us=%.1f p50_us=%u p99_us=%u\n", (long long)messages,
           lasted, (long long)messages * (long long)size, (double)total_us / (double)messages,
           latencies[counted / 2], latencies[counted * 99 / 100]);
    return 0;
}
