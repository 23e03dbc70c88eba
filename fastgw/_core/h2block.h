/* A block of header fields as HPACK gives them out, put together as the text of an HTTP/1.1 head. */
#pragma once
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

typedef struct {
  char *lines; uint32_t n, cap;
  char *pseudo; uint32_t pseudo_n;
  uint32_t method_at, method_n, path_at, path_n, authority_at, authority_n, scheme_at, scheme_n;
  uint32_t host_at, host_n, protocol_at, protocol_n;
  char *cookie; uint32_t cookie_n, cookie_cap;
  int status;
  uint32_t size, limit;
  int count, most, over, bad;
  int32_t stream;
  int seen;                                          /* pseudo-headers and others, see h2fields.h */
  int64_t length;                                    /* Content-Length; -1: none */
} fgw_block;

#define FGW_PSEUDO 32768

static void fgw_block_begin(fgw_block *b, int32_t stream) {
  b->n = b->pseudo_n = b->cookie_n = b->size = 0;
  b->method_n = b->path_n = b->authority_n = b->scheme_n = b->host_n = b->protocol_n = 0;
  b->status = b->count = b->over = b->bad = b->seen = 0;
  b->length = -1;
  b->stream = stream;
}

static int fgw_block_room(char **p, uint32_t *cap, size_t need) {
  if (need > *cap) {
    size_t more = (need + need / 2 + 1023) & ~(size_t)1023;
    char *grown = realloc(*p, more);
    if (grown == NULL) return -1;
    *p = grown; *cap = (uint32_t)more;
  }
  return 0;
}

static int fgw_block_keep(fgw_block *b, uint32_t *at, uint32_t *n, const uint8_t *value, size_t vl) {
  /* these become words of one line: nothing in them may end it, whatever the library let through */
  for (size_t i = 0; i < vl; i++) if (value[i] <= 0x20 || value[i] == 0x7f) b->bad = 1;
  if (b->pseudo == NULL && (b->pseudo = malloc(FGW_PSEUDO)) == NULL) return -1;
  if (b->pseudo_n + vl > FGW_PSEUDO) { b->over |= 1; return 0; }
  if (vl) memcpy(b->pseudo + b->pseudo_n, value, vl);
  *at = b->pseudo_n; *n = (uint32_t)vl; b->pseudo_n += (uint32_t)vl;
  return 0;
}

/* 0, or -1 without memory. What is beyond the limits is not kept, but counted. */
static int fgw_block_add(fgw_block *b, const uint8_t *name, size_t nl, const uint8_t *value, size_t vl) {
  char *o;
  b->size += (uint32_t)(nl + vl + 32);
  b->count++;
  if (b->size > b->limit || b->count > b->most) {
    b->over |= 1;
    if (b->size > 4 * (uint64_t)b->limit + 65536 || b->count > 4 * b->most + 100) b->over |= 2;
    return 0;
  }
  if (nl && name[0] == ':') {
    b->count--;
    if (nl == 7 && !memcmp(name, ":method", 7)) return fgw_block_keep(b, &b->method_at, &b->method_n, value, vl);
    if (nl == 5 && !memcmp(name, ":path", 5)) return fgw_block_keep(b, &b->path_at, &b->path_n, value, vl);
    if (nl == 10 && !memcmp(name, ":authority", 10))
      return fgw_block_keep(b, &b->authority_at, &b->authority_n, value, vl);
    if (nl == 7 && !memcmp(name, ":scheme", 7)) return fgw_block_keep(b, &b->scheme_at, &b->scheme_n, value, vl);
    if (nl == 9 && !memcmp(name, ":protocol", 9))
      return fgw_block_keep(b, &b->protocol_at, &b->protocol_n, value, vl);
    if (nl == 7 && !memcmp(name, ":status", 7) && vl == 3) {
      b->status = (value[0] - '0') * 100 + (value[1] - '0') * 10 + (value[2] - '0');
      return 0;
    }
    b->bad = 1;
    return 0;
  }
  if (nl == 4 && !memcmp(name, "host", 4)) {
    if (b->host_n) b->bad = 1;
    return fgw_block_keep(b, &b->host_at, &b->host_n, value, vl);
  }
  /* RFC 9113 8.2.3: cookie crumbs are one cookie to whoever does not speak HTTP/2 */
  if (nl == 6 && !memcmp(name, "cookie", 6)) {
    if (fgw_block_room(&b->cookie, &b->cookie_cap, b->cookie_n + vl + 2) < 0) return -1;
    if (b->cookie_n) { memcpy(b->cookie + b->cookie_n, "; ", 2); b->cookie_n += 2; }
    if (vl) memcpy(b->cookie + b->cookie_n, value, vl);
    b->cookie_n += (uint32_t)vl;
    return 0;
  }
  if (fgw_block_room(&b->lines, &b->cap, b->n + nl + vl + 4) < 0) return -1;
  o = b->lines + b->n;
  if (nl) { memcpy(o, name, nl); o += nl; }
  *o++ = ':'; *o++ = ' ';
  if (vl) { memcpy(o, value, vl); o += vl; }
  *o++ = '\r'; *o++ = '\n';
  b->n = (uint32_t)(o - b->lines);
  return 0;
}

static void fgw_block_free(fgw_block *b) {
  free(b->lines); free(b->pseudo); free(b->cookie);
  memset(b, 0, sizeof *b);
}

static size_t fgw_block_request_size(fgw_block *b) { return (size_t)b->n + b->pseudo_n + b->cookie_n + 192; }

/* "METHOD path HTTP/1.1", Host, the lines, one Cookie, and the empty line. */
static size_t fgw_block_request(fgw_block *b, const char *method, const char *more, char *o) {
  char *begin = o;
  if (b->pseudo == NULL) return 0;                   /* no pseudo-headers: there is no request in it */
  if (method) { memcpy(o, method, strlen(method)); o += strlen(method); }
  else { memcpy(o, b->pseudo + b->method_at, b->method_n); o += b->method_n; }
  *o++ = ' ';
  memcpy(o, b->pseudo + b->path_at, b->path_n); o += b->path_n;
  memcpy(o, " HTTP/1.1\r\nhost: ", 17); o += 17;
  if (b->authority_n) { memcpy(o, b->pseudo + b->authority_at, b->authority_n); o += b->authority_n; }
  else { memcpy(o, b->pseudo + b->host_at, b->host_n); o += b->host_n; }
  memcpy(o, "\r\n", 2); o += 2;
  if (b->n) { memcpy(o, b->lines, b->n); o += b->n; }
  if (b->cookie_n) {
    memcpy(o, "cookie: ", 8); o += 8;
    memcpy(o, b->cookie, b->cookie_n); o += b->cookie_n;
    memcpy(o, "\r\n", 2); o += 2;
  }
  if (more) { memcpy(o, more, strlen(more)); o += strlen(more); }
  memcpy(o, "\r\n", 2); o += 2;
  return (size_t)(o - begin);
}

/* "HTTP/1.1 status", the lines, and the empty line. */
static size_t fgw_block_response(fgw_block *b, char *o) {
  char *begin = o;
  memcpy(o, "HTTP/1.1 ", 9); o += 9;
  *o++ = (char)('0' + b->status / 100); *o++ = (char)('0' + b->status / 10 % 10); *o++ = (char)('0' + b->status % 10);
  memcpy(o, " \r\n", 3); o += 3;
  if (b->n) { memcpy(o, b->lines, b->n); o += b->n; }
  memcpy(o, "\r\n", 2); o += 2;
  return (size_t)(o - begin);
}

static int fgw_has_trailers(const char *value, size_t n) {
  for (size_t i = 0; i + 8 <= n; i++)
    if (!strncasecmp(value + i, "trailers", 8) && (i == 0 || value[i - 1] == ' ' || value[i - 1] == ',')) return 1;
  return 0;
}
