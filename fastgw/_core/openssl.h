/* What Cython cannot say of OpenSSL: macros as functions, and a few steps that belong together. */
#pragma once
#include <string.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>


/* RFC 5077 4: AES-256-CBC and HMAC-SHA-256 under keys that all workers have. key: 16 name, 32 HMAC, 32 AES */
static int fgw_ticket(const char *keys, size_t n, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                      EVP_MAC_CTX *mac, int enc) {
  OSSL_PARAM params[3];
  const char *key = keys; size_t at;
  if (enc) {
    if (n == 0 || RAND_bytes(iv, 16) != 1) return 0;
    memcpy(name, key, 16);
  } else {
    for (at = 0; at < n && memcmp(keys + at, name, 16); at += 80) ;
    if (at >= n) return 0;
    key = keys + at;
  }
  params[0] = OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, (void *)(key + 16), 32);
  params[1] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *)"SHA256", 0);
  params[2] = OSSL_PARAM_construct_end();
  if (EVP_MAC_CTX_set_params(mac, params) != 1) return -1;
  if (EVP_CipherInit_ex(cipher, EVP_aes_256_cbc(), NULL, (const unsigned char *)key + 48, iv, enc) != 1) return -1;
  return !enc && key != keys ? 2 : 1;            /* 2: good, and a new one is to be given */
}
static int fgw_store_pem(X509_STORE *store, const char *pem, size_t n, int *lists, STACK_OF(X509_NAME) *names) {
  BIO *b = BIO_new_mem_buf(pem, (int)n); int count = 0, i;
  STACK_OF(X509_INFO) *all = PEM_X509_INFO_read_bio(b, NULL, NULL, NULL);
  BIO_free(b);
  if (all == NULL) return -1;
  for (i = 0; i < sk_X509_INFO_num(all); i++) {
    X509_INFO *one = sk_X509_INFO_value(all, i);
    if (one->x509) {
      count += X509_STORE_add_cert(store, one->x509) == 1;
      if (names) sk_X509_NAME_push(names, X509_NAME_dup(X509_get_subject_name(one->x509)));
    }
    if (one->crl) { X509_STORE_add_crl(store, one->crl); (*lists)++; }
  }
  sk_X509_INFO_pop_free(all, X509_INFO_free);
  return count;
}
/* A certificate with its chain, and its key: 1, or 0 with OpenSSL's error. *leaf is not owned. */
static int fgw_use_pem(SSL_CTX *ctx, const char *chain, size_t cn, const char *key, size_t kn, X509 **leaf) {
  BIO *b = BIO_new_mem_buf(chain, (int)cn); EVP_PKEY *k; X509 *x; int good;
  x = PEM_read_bio_X509(b, NULL, NULL, (void *)"");
  if (x == NULL) { BIO_free(b); return 0; }
  good = SSL_CTX_use_certificate(ctx, x) == 1;
  *leaf = SSL_CTX_get0_certificate(ctx);
  X509_free(x);
  if (good) SSL_CTX_clear_chain_certs(ctx);
  while (good && (x = PEM_read_bio_X509(b, NULL, NULL, (void *)"")) != NULL) {
    good = SSL_CTX_add1_chain_cert(ctx, x) == 1;
    X509_free(x);
  }
  BIO_free(b);
  if (!good) return 0;
  ERR_clear_error();                             /* "no start line" at the end of the chain */
  b = BIO_new_mem_buf(key, (int)kn);
  k = PEM_read_bio_PrivateKey(b, NULL, NULL, (void *)"");
  BIO_free(b);
  if (k == NULL) return 0;
  good = SSL_CTX_use_PrivateKey(ctx, k) == 1 && SSL_CTX_check_private_key(ctx) == 1;
  EVP_PKEY_free(k);
  return good;
}
#define fgw_peer(ssl) SSL_get0_peer_certificate(ssl)
#define fgw_set_min(ctx, v) SSL_CTX_set_min_proto_version(ctx, v)
#define fgw_set_max(ctx, v) SSL_CTX_set_max_proto_version(ctx, v)
#define fgw_set_groups(ctx, s) SSL_CTX_set1_groups_list(ctx, s)
#define fgw_set_mode(ctx, m) SSL_CTX_set_mode(ctx, m)
#define fgw_cache_mode(ctx, m) SSL_CTX_set_session_cache_mode(ctx, m)
#define fgw_set_name(ssl, s) SSL_set_tlsext_host_name(ssl, s)
#define fgw_staple(ssl, p, n) SSL_set_tlsext_status_ocsp_resp(ssl, p, n)
#define fgw_on_name(ctx, f, arg) (SSL_CTX_set_tlsext_servername_callback(ctx, f), \
                                  SSL_CTX_set_tlsext_servername_arg(ctx, arg))
#define fgw_on_status(ctx, f, arg) (SSL_CTX_set_tlsext_status_cb(ctx, f), SSL_CTX_set_tlsext_status_arg(ctx, arg))
#define fgw_owner(ssl) SSL_get_app_data(ssl)
#define fgw_set_owner(ssl, p) SSL_set_app_data(ssl, p)
#define fgw_of_ctx(ctx) SSL_CTX_get_app_data(ctx)
#define fgw_set_of_ctx(ctx, p) SSL_CTX_set_app_data(ctx, p)
