/* An open-loop load: requests leave at fixed times, whether or not earlier ones were answered.
 *
 *   usage: paced PORT RATE SECONDS CONNECTIONS ROUTES
 *
 * Sends RATE requests a second to 127.0.0.1:PORT, GET /api/svcNNNNNN/1 over ROUTES routes, one in flight on each of
 * CONNECTIONS keep-alive connections. The latency of a request counts from the time it was due, so one that had to
 * wait for a connection, or for us, is not flattered. The first half second is sent and not counted. Prints
 *
 *   PACED requests=N errors=N p50_ns=N p99_ns=N p999_ns=N max_ns=N late_p99_ns=N
 *
 * where errors are answers other than 200, broken connections and answers that did not come within 5 s of the end, and
 * `late` is how long after its due time a request was written: our own share of the latencies.
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
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { IN_SIZE = 16384, CONNECTIONS_MAX = 1024, EVENTS = 64 };
#define SECOND 1000000000LL
#define WARM (SECOND / 2)
#define PATIENCE (5 * SECOND)

struct connection {
    int fd;
    int busy;
    int64_t due;
    int64_t number;
    size_t filled;
    char in[IN_SIZE];
};

static const char HEAD[] =
    "GET /api/svc%06lld/1 HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json, text/plain, */*\r\n"
    "Accept-Language: en-GB,en;q=0.9,de;q=0.7\r\nAccept-Encoding: gzip, deflate, br\r\n"
    "User-Agent: paced/1\r\nX-Api-Key: client-0001\r\n\r\n";

static struct connection *lines, *idle[CONNECTIONS_MAX];
static int idles, next_idle, count, broken;
static int64_t *latencies, *delays, counted, errors, warm, routes;

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

/* In turn, so that all workers have some of it. */
static struct connection *take_idle(void) {
    struct connection *c = idle[next_idle];
    next_idle = (next_idle + 1) % count;
    idles--;
    return c;
}

static void give_idle(struct connection *c) {
    idle[(next_idle + idles++) % count] = c;
}

/* A broken connection ends the run: there is nothing to measure any more. */
static void fail(void) {
    errors++;
    broken = 1;
}

static void ask(struct connection *c, int64_t number, int64_t due) {
    char head[512];
    int n = snprintf(head, sizeof head, HEAD, (long long)(number * 7919 % routes));
    c->busy = 1;
    c->due = due;
    c->number = number;
    c->filled = 0;
    if (number >= warm)
        delays[number - warm] = now() - due;
    if (send(c->fd, head, (size_t)n, MSG_NOSIGNAL) != n)
        fail();
}

/* 1: a whole answer is there; 0: not yet; -1: not one we understand. */
static int complete(struct connection *c) {
    c->in[c->filled] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end)
        return 0;
    char *length = strcasestr(c->in, "\r\ncontent-length:");
    if (!length || length > end)
        return -1;
    return c->filled >= (size_t)(end + 4 - c->in) + strtoul(length + 17, NULL, 10);
}

static void take(struct connection *c) {
    for (;;) {
        ssize_t n = recv(c->fd, c->in + c->filled, IN_SIZE - 1 - c->filled, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0 || !c->busy) {
            fail();
            return;
        }
        c->filled += (size_t)n;
        int done = complete(c);
        if (done < 0) {
            fail();
            return;
        }
        if (done) {
            int64_t took = now() - c->due;
            if (strncmp(c->in, "HTTP/1.1 200", 12) != 0)
                errors++;
            else if (c->number >= warm)
                latencies[counted++] = took;
            c->busy = 0;
            give_idle(c);
            return;
        }
    }
}

static int by_value(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static long long share(int64_t *values, int64_t count, double part) {
    int64_t at = (int64_t)((double)count * part);
    return count ? values[at < count ? at : count - 1] : 0;
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: paced PORT RATE SECONDS CONNECTIONS ROUTES\n");
        return 2;
    }
    int64_t rate = atoll(argv[2]), total, sent = 0;
    count = atoi(argv[4]);
    routes = atoll(argv[5]);
    if (rate < 1 || count < 1 || count > CONNECTIONS_MAX || routes < 1) {
        fprintf(stderr, "paced: what is asked for cannot be done\n");
        return 2;
    }
    warm = rate * WARM / SECOND;
    total = warm + rate * atoll(argv[3]);
    latencies = calloc((size_t)total, sizeof *latencies);
    delays = calloc((size_t)total, sizeof *delays);
    lines = calloc((size_t)count, sizeof *lines);
    int epoll = epoll_create1(0), one = 1;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1])),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    prctl(PR_SET_TIMERSLACK, 1000);
    for (int i = 0; i < count; i++) {
        struct connection *c = &lines[i];
        c->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0) {
            perror("paced: connect");
            return 1;
        }
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event) < 0) {
            perror("paced: epoll_ctl");
            return 1;
        }
        give_idle(c);
    }
    int64_t start = now() + SECOND / 100;
    int64_t until = start + total * SECOND / rate + PATIENCE;
    while (!broken && (sent < total || idles < count)) {
        int64_t at = now(), due = start + sent * SECOND / rate;
        if (at > until)
            break;
        while (!broken && sent < total && idles && due <= at) {
            ask(take_idle(), sent++, due);
            due = start + sent * SECOND / rate;
        }
        int64_t wait = sent < total && idles ? due - now() : SECOND / 10;
        if (wait < 0)
            wait = 0;
        struct timespec pause = {wait / SECOND, wait % SECOND};
        struct epoll_event events[EVENTS];
        int n = epoll_pwait2(epoll, events, EVENTS, &pause, NULL);
        for (int i = 0; i < n; i++)
            take(events[i].data.ptr);
    }
    errors += total - sent;
    for (int i = 0; i < count; i++)
        errors += lines[i].busy;
    int64_t written = sent > warm ? sent - warm : 0;
    qsort(latencies, (size_t)counted, sizeof *latencies, by_value);
    qsort(delays, (size_t)written, sizeof *delays, by_value);
    printf("PACED requests=%lld errors=%lld p50_ns=%lld p99_ns=%lld p999_ns=%lld max_ns=%lld late_p99_ns=%lld\n",
           (long long)counted, (long long)errors, share(latencies, counted, 0.5), share(latencies, counted, 0.99),
           share(latencies, counted, 0.999), share(latencies, counted, 1.0), share(delays, written, 0.99));
    return 0;
}
