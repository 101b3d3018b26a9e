/* What works in a server instead of a store at hand: rxt chat --connect, rxt inspect --connect. */
#ifndef RXT_TOOLS_CONNECT_H
#define RXT_TOOLS_CONNECT_H

#include "bridge/client.h"

#include <signal.h>

struct connect_keys { /* of CURVE: both or none */
    const char *server_key, *secret_key_file;
};
/* Puts them into *cfg; room, for the secret one, lives as long as that. EINVAL, EIO. */
enum rxt_status connect_use_keys(struct client_config *cfg, const struct connect_keys *keys,
                                 char room[64], struct rxt_error *err);
/* Gives *out: a client named `name` in the server's log. */
enum rxt_status connect_open(struct client **out, const char *endpoint,
                             const struct connect_keys *keys, const char *name,
                             struct rxt_error *err);

struct connect_options {
    const char *endpoint;
    struct connect_keys keys;
    const char *session, *script; /* script NULL = a terminal, or standard input as it comes */
    bool json, keep_going;
    struct client_request turn; /* of every question, which is put in */
};

/* Talks until the script or the input ends; the exit code of the program. *interrupted: Ctrl-C,
 * which ends the answer. */
int chat_connected(const struct connect_options *o, volatile sig_atomic_t *interrupted);

#endif
