#ifndef FASTGW_BUCKET_H
#define FASTGW_BUCKET_H

/* one 128-bit compare-and-swap, and SipHash-2-4 (Aumasson and Bernstein) */
#include <stdint.h>
#include <string.h>

typedef struct { uint64_t lo, hi; } __attribute__((aligned(16))) fgw_pair;

static inline uint64_t fgw_load(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }

/* Replaces *p by `want` if it is `have`: one atomic step over both words. 1 when it did. */
static inline int fgw_cas(fgw_pair *p, fgw_pair have, fgw_pair want) {
#if defined(__x86_64__)
  unsigned char ok;
  __asm__ __volatile__("lock cmpxchg16b %1\n\tsetz %0"
                       : "=q"(ok), "+m"(*p), "+a"(have.lo), "+d"(have.hi)
                       : "b"(want.lo), "c"(want.hi) : "cc", "memory");
  return ok;
#elif defined(__aarch64__)
  uint64_t lo, hi; uint32_t failed;
  do {
    __asm__ __volatile__("ldaxp %0, %1, %2" : "=&r"(lo), "=&r"(hi) : "Q"(*p) : "memory");
    int same = lo == have.lo && hi == have.hi;
    /* storing back what was read makes the pair of loads one atomic read */
    uint64_t wl = same ? want.lo : lo, wh = same ? want.hi : hi;
    __asm__ __volatile__("stlxp %w0, %2, %3, %1" : "=&r"(failed), "=Q"(*p) : "r"(wl), "r"(wh) : "memory");
    if (!failed) return same;
  } while (1);
#else
#error "fastgw needs a 128-bit compare-and-swap: x86-64 or aarch64"
#endif
}

#define FGW_ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define FGW_ROUND do { \
  v0 += v1; v1 = FGW_ROTL(v1, 13); v1 ^= v0; v0 = FGW_ROTL(v0, 32); \
  v2 += v3; v3 = FGW_ROTL(v3, 16); v3 ^= v2; \
  v0 += v3; v3 = FGW_ROTL(v3, 21); v3 ^= v0; \
  v2 += v1; v1 = FGW_ROTL(v1, 17); v1 ^= v2; v2 = FGW_ROTL(v2, 32); } while (0)

static inline uint64_t fgw_siphash(const void *data, size_t n, uint64_t k0, uint64_t k1) {
  const unsigned char *p = (const unsigned char *)data;
  uint64_t v0 = k0 ^ 0x736f6d6570736575ULL, v1 = k1 ^ 0x646f72616e646f6dULL;
  uint64_t v2 = k0 ^ 0x6c7967656e657261ULL, v3 = k1 ^ 0x7465646279746573ULL;
  uint64_t m, tail = (uint64_t)n << 56;
  size_t left = n & 7;
  const unsigned char *end = p + (n - left);
  for (; p != end; p += 8) {
    memcpy(&m, p, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    m = __builtin_bswap64(m);
#endif
    v3 ^= m; FGW_ROUND; FGW_ROUND; v0 ^= m;
  }
  for (size_t i = 0; i < left; i++) tail |= (uint64_t)p[i] << (8 * i);
  v3 ^= tail; FGW_ROUND; FGW_ROUND; v0 ^= tail;
  v2 ^= 0xff; FGW_ROUND; FGW_ROUND; FGW_ROUND; FGW_ROUND;
  return v0 ^ v1 ^ v2 ^ v3;
}

static inline void fgw_add(uint64_t *p, uint64_t n) { __atomic_add_fetch(p, n, __ATOMIC_RELAXED); }

static inline void fgw_prefetch(const void *p) { __builtin_prefetch(p, 1); }

/* A bijection of 64 bits (the finaliser of SplitMix64): keys that differ stay different. */
static inline uint64_t fgw_mix(uint64_t x) {
  x ^= x >> 30; x *= 0xbf58476d1ce4e5b9ULL;
  x ^= x >> 27; x *= 0x94d049bb133111ebULL;
  x ^= x >> 31;
  return x ? x : 1;
}

/* a * b / c, rounded up and down; what is multiplied may take 128 bits, what comes out takes 63 */
static inline int64_t fgw_share_up(int64_t a, int64_t b, int64_t c) {
  int64_t product;
  if (!__builtin_mul_overflow(a, b, &product)) return (int64_t)(((uint64_t)product + (uint64_t)c - 1) / (uint64_t)c);
  return (int64_t)(((unsigned __int128)a * b + c - 1) / c);
}

static inline int64_t fgw_share(int64_t a, int64_t b, int64_t c) {
  int64_t product;
  if (!__builtin_mul_overflow(a, b, &product)) return product / c;
  return (int64_t)((unsigned __int128)a * b / c);
}

#endif
