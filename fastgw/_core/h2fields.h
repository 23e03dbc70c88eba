/* Which fields a client may send, and where: RFC 9113 8.1 to 8.3, RFC 8441 4. libnghttp2 does the same when it is not told
 * otherwise (and does it for what services answer), a byte at a time; here eight are looked at together, on the way into
 * the block. 0: allowed; -1: the message is malformed. */
#pragma once
#include "h2block.h"

enum {
  FGW_METHOD = 1, FGW_PATH = 2, FGW_AUTHORITY = 4, FGW_SCHEME = 8, FGW_PROTOCOL = 16, FGW_HOST = 32,
  FGW_REGULAR = 64,                                  /* no pseudo-header comes after it */
};

/* RFC 9113 8.2.1: a token of RFC 9110 5.6.2, in lower case */
static const uint8_t fgw_name_byte[256] = {
  ['!'] = 1, ['#'] = 1, ['$'] = 1, ['%'] = 1, ['&'] = 1, ['\''] = 1, ['*'] = 1, ['+'] = 1, ['-'] = 1, ['.'] = 1,
  ['^'] = 1, ['_'] = 1, ['`'] = 1, ['|'] = 1, ['~'] = 1,
  ['0'] = 1, ['1'] = 1, ['2'] = 1, ['3'] = 1, ['4'] = 1, ['5'] = 1, ['6'] = 1, ['7'] = 1, ['8'] = 1, ['9'] = 1,
  ['a'] = 1, ['b'] = 1, ['c'] = 1, ['d'] = 1, ['e'] = 1, ['f'] = 1, ['g'] = 1, ['h'] = 1, ['i'] = 1, ['j'] = 1,
  ['k'] = 1, ['l'] = 1, ['m'] = 1, ['n'] = 1, ['o'] = 1, ['p'] = 1, ['q'] = 1, ['r'] = 1, ['s'] = 1, ['t'] = 1,
  ['u'] = 1, ['v'] = 1, ['w'] = 1, ['x'] = 1, ['y'] = 1, ['z'] = 1,
};

#define FGW_EACH(b) (0x0101010101010101ull * (b))

/* Is there a byte below 0x20, or 0x7f? */
static inline int fgw_control(uint64_t w) {
  uint64_t low = (w - FGW_EACH(0x20)) & ~w;          /* "hasless" of Anderson's Bit Twiddling Hacks: exact about whether */
  uint64_t del = w ^ FGW_EACH(0x7f);
  return ((low | ((del - FGW_EACH(1)) & ~del)) & FGW_EACH(0x80)) != 0;
}

/* RFC 9110 5.5 and RFC 9113 8.2.1: no control characters but the tab, no blank at either end. */
static int fgw_value_ok(const uint8_t *p, size_t n) {
  size_t i = 0;
  uint64_t w;
  if (n == 0) return 1;
  if (*p == ' ' || *p == '\t' || p[n - 1] == ' ' || p[n - 1] == '\t') return 0;
  for (; i + 8 <= n; i += 8) {
    memcpy(&w, p + i, 8);
    if (!fgw_control(w)) continue;
    for (size_t k = i; k < i + 8; k++) if ((p[k] < 0x20 && p[k] != '\t') || p[k] == 0x7f) return 0;
  }
  for (; i < n; i++) if ((p[i] < 0x20 && p[i] != '\t') || p[i] == 0x7f) return 0;
  return 1;
}

/* A word of the request line: nothing in it may end it. */
static int fgw_word_ok(const uint8_t *p, size_t n) {
  if (n == 0) return 0;
  for (size_t i = 0; i < n; i++) if (p[i] <= 0x20 || p[i] == 0x7f) return 0;
  return 1;
}

/* RFC 3986 3.1 */
static int fgw_scheme_ok(const uint8_t *p, size_t n) {
  if (n == 0 || !((p[0] | 32) >= 'a' && (p[0] | 32) <= 'z')) return 0;
  for (size_t i = 1; i < n; i++)
    if (!(((p[i] | 32) >= 'a' && (p[i] | 32) <= 'z') || (p[i] >= '0' && p[i] <= '9') || p[i] == '+' || p[i] == '-' || p[i] == '.'))
      return 0;
  return 1;
}

static int fgw_seen(fgw_block *b, int what) {
  if (b->seen & what) return -1;
  b->seen |= what;
  return 0;
}

static int fgw_pseudo_check(fgw_block *b, const uint8_t *name, size_t nl, const uint8_t *value, size_t vl) {
  if (b->seen & FGW_REGULAR) return -1;              /* RFC 9113 8.3: all of them come first */
  if (!fgw_word_ok(value, vl)) return -1;
  if (nl == 5 && !memcmp(name, ":path", 5)) return fgw_seen(b, FGW_PATH);
  if (nl == 7 && !memcmp(name, ":method", 7)) return fgw_seen(b, FGW_METHOD);
  if (nl == 7 && !memcmp(name, ":scheme", 7)) return fgw_scheme_ok(value, vl) ? fgw_seen(b, FGW_SCHEME) : -1;
  if (nl == 10 && !memcmp(name, ":authority", 10)) return fgw_seen(b, FGW_AUTHORITY);
  if (nl == 9 && !memcmp(name, ":protocol", 9)) return fgw_seen(b, FGW_PROTOCOL);
  return -1;
}

/* RFC 9110 8.6: digits; RFC 9112 6.3 says of several what holds here of two: malformed. */
static int fgw_length(fgw_block *b, const uint8_t *value, size_t vl) {
  int64_t n = 0;
  if (b->length >= 0 || vl == 0 || vl > 18) return -1;
  for (size_t i = 0; i < vl; i++) {
    if (value[i] < '0' || value[i] > '9') return -1;
    n = n * 10 + (value[i] - '0');
  }
  b->length = n;
  return 0;
}

static int fgw_field_check(fgw_block *b, const uint8_t *name, size_t nl, const uint8_t *value, size_t vl, int trailer) {
  if (nl == 0) return -1;
  if (name[0] == ':') return trailer ? -1 : fgw_pseudo_check(b, name, nl, value, vl);
  b->seen |= FGW_REGULAR;
  for (size_t i = 0; i < nl; i++) if (!fgw_name_byte[name[i]]) return -1;
  if (!fgw_value_ok(value, vl)) return -1;
  switch (nl) {
  case 2:
    /* RFC 9113 8.2.2: TE may be there, and say nothing else; the rest belongs to one connection of HTTP/1.1 */
    return memcmp(name, "te", 2) || (vl == 8 && !strncasecmp((const char *)value, "trailers", 8)) ? 0 : -1;
  case 4:
    if (memcmp(name, "host", 4)) return 0;
    return vl ? fgw_seen(b, FGW_HOST) : -1;
  case 7:
    return memcmp(name, "upgrade", 7) ? 0 : -1;
  case 10:
    return memcmp(name, "connection", 10) && memcmp(name, "keep-alive", 10) ? 0 : -1;
  case 14:
    if (memcmp(name, "content-length", 14)) return 0;
    return trailer ? -1 : fgw_length(b, value, vl);
  case 16:
    return memcmp(name, "proxy-connection", 16) ? 0 : -1;
  case 17:
    return memcmp(name, "transfer-encoding", 17) ? 0 : -1;
  }
  return 0;
}

/* The whole head of a request is here; `end`: no body follows. */
static int fgw_request_check(fgw_block *b, int end) {
  const int all = FGW_METHOD | FGW_SCHEME | FGW_PATH;
  if (b->bad || b->over) return b->bad ? -1 : 0;     /* what was left out because it is too much is answered as that */
  int connect = b->method_n == 7 && !memcmp(b->pseudo + b->method_at, "CONNECT", 7);
  if (connect && !(b->seen & FGW_PROTOCOL))          /* RFC 9113 8.5 */
    return (b->seen & (FGW_SCHEME | FGW_PATH)) || !(b->seen & FGW_AUTHORITY) ? -1 : 0;
  if ((b->seen & all) != all || !(b->seen & (FGW_AUTHORITY | FGW_HOST))) return -1;
  if ((b->seen & FGW_PROTOCOL) && !(connect && (b->seen & FGW_AUTHORITY))) return -1;   /* RFC 8441 4 */
  /* RFC 9113 8.3.1: of http and https the path begins with a slash; OPTIONS may have an asterisk */
  int web = (b->scheme_n == 4 && !strncasecmp(b->pseudo + b->scheme_at, "http", 4))
         || (b->scheme_n == 5 && !strncasecmp(b->pseudo + b->scheme_at, "https", 5));
  int options = b->method_n == 7 && !memcmp(b->pseudo + b->method_at, "OPTIONS", 7);
  if (web && b->pseudo[b->path_at] != '/' && !(options && b->path_n == 1 && b->pseudo[b->path_at] == '*')) return -1;
  return end && b->length > 0 ? -1 : 0;              /* RFC 9113 8.1.1 */
}
