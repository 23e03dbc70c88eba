/* Memory for libnghttp2. Every stream takes some dozen small pieces and gives them back at its end: they are kept, by
 * size, and the next stream takes them again. One thread uses it at a time, the one that holds the interpreter's lock. */
#pragma once
#include <nghttp2/nghttp2.h>
#include <stdlib.h>
#include <string.h>

#define FGW_STEP 32
#define FGW_SIZES 33                        /* pieces up to 1,024 bytes are kept */
#if defined(__SANITIZE_ADDRESS__)
#define FGW_KEPT 0                          /* what is used after its end would not be seen */
#else
#define FGW_KEPT (2 << 20)                  /* bytes that lie here for the next stream at most */
#endif

typedef struct fgw_piece {                  /* stands before the bytes that are given out, which stay aligned to 16 */
  struct fgw_piece *next;
  size_t size;                              /* its place among `fgw_pieces`; 0: libc's alone */
} fgw_piece;

static fgw_piece *fgw_pieces[FGW_SIZES];
static size_t fgw_kept;

static void *fgw_take(size_t n, void *unused) {
  size_t k = (n + FGW_STEP - 1) / FGW_STEP;
  fgw_piece *piece;
  if (k == 0) k = 1;
  if (k < FGW_SIZES) {
    piece = fgw_pieces[k];
    if (piece != NULL) {
      fgw_pieces[k] = piece->next;
      fgw_kept -= k * FGW_STEP;
      return piece + 1;
    }
    piece = malloc(sizeof *piece + k * FGW_STEP);
  } else {
    if (n > (size_t)-1 - sizeof *piece) return NULL;
    piece = malloc(sizeof *piece + n);
    k = 0;
  }
  if (piece == NULL) return NULL;
  piece->size = k;
  return piece + 1;
}

static void fgw_give(void *p, void *unused) {
  fgw_piece *piece;
  if (p == NULL) return;
  piece = (fgw_piece *)p - 1;
  if (piece->size == 0 || fgw_kept >= FGW_KEPT) { free(piece); return; }
  piece->next = fgw_pieces[piece->size];
  fgw_pieces[piece->size] = piece;
  fgw_kept += piece->size * FGW_STEP;
}

static void *fgw_zeroed(size_t count, size_t size, void *unused) {
  void *p;
  if (size && count > (size_t)-1 / size) return NULL;
  p = fgw_take(count * size, NULL);
  if (p != NULL) memset(p, 0, count * size);
  return p;
}

static void *fgw_grown(void *p, size_t n, void *unused) {
  fgw_piece *piece;
  void *grown;
  if (p == NULL) return fgw_take(n, NULL);
  piece = (fgw_piece *)p - 1;
  if (piece->size == 0) {                   /* it stays libc's, also when it shrinks */
    if (n > (size_t)-1 - sizeof *piece) return NULL;
    piece = realloc(piece, sizeof *piece + n);
    return piece == NULL ? NULL : piece + 1;
  }
  if (n <= piece->size * FGW_STEP) return p;
  grown = fgw_take(n, NULL);
  if (grown == NULL) return NULL;
  memcpy(grown, p, piece->size * FGW_STEP);
  fgw_give(p, NULL);
  return grown;
}

static nghttp2_mem fgw_h2_memory = {NULL, fgw_take, fgw_give, fgw_zeroed, fgw_grown};
