/* What the cache's shared memory needs of C: atomic words, a lock that survives its holder, whether a process lives,
 * and SipHash-2-4 with 128 bits (Aumasson and Bernstein). */
#ifndef FGW_CACHE_SHARED_H
#define FGW_CACHE_SHARED_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static inline uint32_t fgw_load32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void fgw_store32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint64_t fgw_load64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void fgw_store64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline uint16_t fgw_load16(const uint16_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
static inline void fgw_store16(uint16_t *p, uint16_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
static inline void fgw_add64(uint64_t *p, uint64_t v) { __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
static inline int fgw_cas32(uint32_t *p, uint32_t have, uint32_t want) {
  return __atomic_compare_exchange_n(p, &have, want, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}
/* Between a store and a load of another word: neither side may miss what the other did before. */
static inline void fgw_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
/* What was copied before it was copied while the sequence read after it was in force. */
static inline void fgw_fence_loads(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
static inline void fgw_fence_stores(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }

enum { FGW_LOCKED = 0, FGW_OWNER_DIED = 1, FGW_NOT_LOCKED = 2 };

static inline int fgw_mutex_format(void *place) {
  pthread_mutexattr_t how;
  int failed = pthread_mutexattr_init(&how) || pthread_mutexattr_setpshared(&how, PTHREAD_PROCESS_SHARED) ||
               pthread_mutexattr_setrobust(&how, PTHREAD_MUTEX_ROBUST) ||
               pthread_mutex_init((pthread_mutex_t *)place, &how);
  pthread_mutexattr_destroy(&how);
  return failed ? -1 : 0;
}

/* The wall clock may be set while somebody waits; not every C library can wait by another. */
#if defined(__GLIBC__) && defined(_GNU_SOURCE)
#if __GLIBC_PREREQ(2, 30)
#define FGW_LOCK_CLOCK CLOCK_MONOTONIC
#endif
#endif
#ifndef FGW_LOCK_CLOCK
#define FGW_LOCK_CLOCK CLOCK_REALTIME
#endif

/* Waits so many nanoseconds at most: a holder that is stopped must not stop everybody. How long it was is added to `waited`. */
static inline int fgw_mutex_lock(void *place, int64_t wait, uint64_t *waited) {
  pthread_mutex_t *lock = (pthread_mutex_t *)place;
  int got = pthread_mutex_trylock(lock);
  if (got == EBUSY) {
    struct timespec until, began, ended;
    clock_gettime(CLOCK_MONOTONIC, &began);
    clock_gettime(FGW_LOCK_CLOCK, &until);
    wait += until.tv_nsec;
    until.tv_sec += wait / 1000000000;
    until.tv_nsec = wait % 1000000000;
#if FGW_LOCK_CLOCK == CLOCK_MONOTONIC
    got = pthread_mutex_clocklock(lock, CLOCK_MONOTONIC, &until);
#else
    got = pthread_mutex_timedlock(lock, &until);
#endif
    clock_gettime(CLOCK_MONOTONIC, &ended);
    *waited += (uint64_t)((ended.tv_sec - began.tv_sec) * 1000000000 + ended.tv_nsec - began.tv_nsec);
  }
  return got == 0 ? FGW_LOCKED : got == EOWNERDEAD ? FGW_OWNER_DIED : FGW_NOT_LOCKED;
}
static inline void fgw_mutex_consistent(void *place) { pthread_mutex_consistent((pthread_mutex_t *)place); }
static inline void fgw_mutex_unlock(void *place) { pthread_mutex_unlock((pthread_mutex_t *)place); }

/* When a process began, in ticks since the start of the system; 0: it is gone, or dead and not waited for yet. */
static inline uint64_t fgw_life(uint32_t pid) {
  char name[32], text[1024];
  if (pid == 0 || (kill((pid_t)pid, 0) != 0 && errno == ESRCH)) return 0;
  snprintf(name, sizeof name, "/proc/%u/stat", pid);
  int fd = open(name, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return kill((pid_t)pid, 0) != 0 && errno == ESRCH ? 0 : 1;     /* without /proc: by its number alone */
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  if (n <= 0) return 0;
  text[n] = 0;
  char *p = strrchr(text, ')');              /* the name before it may hold anything */
  if (p == NULL || p[1] != ' ' || p[2] == 'Z' || p[2] == 'X') return 0;
  p += 2;
  for (int field = 3; field < 22 && p != NULL; field++) { p = strchr(p, ' '); if (p != NULL) p++; }
  return p == NULL ? 1 : strtoull(p, NULL, 10) + 1;
}
static inline int fgw_gone(uint32_t pid) { return pid == 0 || (kill((pid_t)pid, 0) != 0 && errno == ESRCH); }

#define FGW_SIP_ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define FGW_SIP_ROUND do { \
  v0 += v1; v1 = FGW_SIP_ROTL(v1, 13); v1 ^= v0; v0 = FGW_SIP_ROTL(v0, 32); \
  v2 += v3; v3 = FGW_SIP_ROTL(v3, 16); v3 ^= v2; \
  v0 += v3; v3 = FGW_SIP_ROTL(v3, 21); v3 ^= v0; \
  v2 += v1; v1 = FGW_SIP_ROTL(v1, 17); v1 ^= v2; v2 = FGW_SIP_ROTL(v2, 32); } while (0)

static inline uint64_t fgw_sip_word(const void *p) {
  uint64_t m;
  memcpy(&m, p, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
  m = __builtin_bswap64(m);
#endif
  return m;
}

static inline void fgw_siphash128(const void *data, size_t n, uint64_t k0, uint64_t k1, uint64_t *lo, uint64_t *hi) {
  const unsigned char *p = (const unsigned char *)data;
  uint64_t v0 = k0 ^ 0x736f6d6570736575ULL, v1 = k1 ^ 0x646f72616e646f6dULL ^ 0xee;
  uint64_t v2 = k0 ^ 0x6c7967656e657261ULL, v3 = k1 ^ 0x7465646279746573ULL;
  uint64_t m, tail = (uint64_t)n << 56;
  size_t left = n & 7;
  const unsigned char *end = p + (n - left);
  for (; p != end; p += 8) {
    m = fgw_sip_word(p);
    v3 ^= m; FGW_SIP_ROUND; FGW_SIP_ROUND; v0 ^= m;
  }
  for (size_t i = 0; i < left; i++) tail |= (uint64_t)p[i] << (8 * i);
  v3 ^= tail; FGW_SIP_ROUND; FGW_SIP_ROUND; v0 ^= tail;
  v2 ^= 0xee; FGW_SIP_ROUND; FGW_SIP_ROUND; FGW_SIP_ROUND; FGW_SIP_ROUND;
  *lo = v0 ^ v1 ^ v2 ^ v3;
  v1 ^= 0xdd; FGW_SIP_ROUND; FGW_SIP_ROUND; FGW_SIP_ROUND; FGW_SIP_ROUND;
  *hi = v0 ^ v1 ^ v2 ^ v3;
}

#endif
