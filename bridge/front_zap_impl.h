/* Who may connect, and as whom: the file of clients, and the ZAP exchange (ZeroMQ RFC 27) in which
 * libzmq asks about each CURVE handshake. A key decides the tenant; nothing else does. */
#ifndef RXT_BRIDGE_FRONT_ZAP_IMPL_H
#define RXT_BRIDGE_FRONT_ZAP_IMPL_H

#include "bridge/server.h"

#define ZAP_KEY_BYTES 32

struct zap_client {
    uint8_t key[ZAP_KEY_BYTES];
    char tenant[BRIDGE_NAME_MAX];
};
struct zap_keys {
    struct zap_client *client;
    size_t n;
};

/* Reads "PUBLIC-KEY TENANT" lines; ';' begins a comment ('#' can stand in a key). EIO, EINVAL
 * naming the line, ENOMEM; *k is unchanged then. */
enum rxt_status zap_read(struct zap_keys *k, const char *path, struct rxt_error *err);
void zap_free(struct zap_keys *k);
/* NULL: no such client. */
const char *zap_tenant(const struct zap_keys *k, const uint8_t key[ZAP_KEY_BYTES]);

/* Answers what waits on the socket of inproc://zeromq.zap.01. */
void zap_answer(void *socket, const struct zap_keys *k);

#endif
