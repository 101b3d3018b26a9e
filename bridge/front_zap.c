#include "bridge/front_zap_impl.h"

#include "kernels/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <zmq.h>

/* ---- the file ---------------------------------------------------------------------------- */

static enum rxt_status read_line(struct zap_keys *k, const char *path, int number, char *line,
                                 struct rxt_error *err)
{
    char *save = NULL;
    line[strcspn(line, ";\r\n")] = '\0';
    const char *key = strtok_r(line, " \t", &save);
    if (!key)
        return RXT_OK;
    const char *tenant = strtok_r(NULL, " \t", &save);
    if (!tenant || strtok_r(NULL, " \t", &save))
        return rxt_fail(err, RXT_EINVAL, "%.150s, line %d: write PUBLIC-KEY TENANT", path, number);
    if (strlen(tenant) >= BRIDGE_NAME_MAX)
        return rxt_fail(err, RXT_EINVAL, "%.150s, line %d: a tenant has at most %d bytes", path,
                        number, BRIDGE_NAME_MAX - 1);
    struct zap_client c = {0};
    if (strlen(key) != SERVER_KEY_TEXT || !zmq_z85_decode(c.key, key))
        return rxt_fail(err, RXT_EINVAL, "%.150s, line %d: not a public key of %d characters", path,
                        number, SERVER_KEY_TEXT);
    (void)snprintf(c.tenant, sizeof c.tenant, "%s", tenant);
    if (zap_tenant(k, c.key))
        return rxt_fail(err, RXT_EINVAL, "%.150s, line %d: this key was there before", path,
                        number);
    struct zap_client *more = mem_realloc(k->client, (k->n + 1) * sizeof *more);
    if (!more)
        return RXT_ENOMEM;
    k->client = more;
    k->client[k->n++] = c;
    return RXT_OK;
}

enum rxt_status zap_read(struct zap_keys *k, const char *path, struct rxt_error *err)
{
    struct zap_keys fresh = {0};
    char line[512];
    FILE *f = fopen(path, "re");
    if (!f)
        return rxt_fail(err, RXT_EIO, "cannot read the clients in %.150s: %s", path,
                        strerror(errno));
    enum rxt_status st = RXT_OK;
    for (int number = 1; st == RXT_OK && fgets(line, sizeof line, f); number++)
        st = strchr(line, '\n') || feof(f)
                 ? read_line(&fresh, path, number, line, err)
                 : rxt_fail(err, RXT_EINVAL, "%.150s, line %d: too long", path, number);
    if (st == RXT_OK && ferror(f))
        st = rxt_fail(err, RXT_EIO, "cannot read the clients in %.150s", path);
    (void)fclose(f);
    if (st != RXT_OK) {
        zap_free(&fresh);
        return st;
    }
    zap_free(k);
    *k = fresh;
    return RXT_OK;
}

void zap_free(struct zap_keys *k)
{
    mem_free(k->client);
    *k = (struct zap_keys){0};
}

const char *zap_tenant(const struct zap_keys *k, const uint8_t key[ZAP_KEY_BYTES])
{
    for (size_t i = 0; i < k->n; i++)
        if (memcmp(k->client[i].key, key, ZAP_KEY_BYTES) == 0)
            return k->client[i].tenant;
    return NULL;
}

enum rxt_status server_keygen(char public_key[SERVER_KEY_TEXT + 1],
                              char secret_key[SERVER_KEY_TEXT + 1], struct rxt_error *err)
{
    if (zmq_curve_keypair(public_key, secret_key) != 0)
        return rxt_fail(err, RXT_EUNSUPPORTED, "this libzmq was built without CURVE");
    return RXT_OK;
}

/* ---- the exchange ------------------------------------------------------------------------ */

enum { ZAP_VERSION, ZAP_REQUEST, ZAP_DOMAIN, ZAP_ADDRESS, ZAP_IDENTITY, ZAP_MECHANISM, ZAP_KEY };

struct zap_frames {
    uint8_t bytes[ZAP_KEY + 1][256];
    size_t size[ZAP_KEY + 1];
    int n;
};

static bool receive(void *socket, struct zap_frames *z)
{
    int more = 1;
    for (z->n = 0; more; z->n++) {
        uint8_t rest[256];
        bool keep = z->n <= ZAP_KEY;
        int n = zmq_recv(socket, keep ? z->bytes[z->n] : rest, sizeof rest, ZMQ_DONTWAIT);
        if (n < 0)
            return false;
        if (keep)
            z->size[z->n] = (size_t)n > sizeof rest ? sizeof rest : (size_t)n;
        size_t size = sizeof more;
        if (zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &size) != 0)
            return false;
    }
    return true;
}

static bool is(const struct zap_frames *z, int frame, const char *text)
{
    return z->size[frame] == strlen(text) && memcmp(z->bytes[frame], text, z->size[frame]) == 0;
}

static void send_part(void *socket, const void *p, size_t n, bool more)
{
    (void)zmq_send(socket, p, n, more ? ZMQ_SNDMORE : 0);
}

void zap_answer(void *socket, const struct zap_keys *k)
{
    static struct zap_frames z; /* of the front's thread */
    while (receive(socket, &z)) {
        const char *tenant = NULL;
        if (z.n == ZAP_KEY + 1 && is(&z, ZAP_VERSION, "1.0") && is(&z, ZAP_MECHANISM, "CURVE") &&
            z.size[ZAP_KEY] == ZAP_KEY_BYTES)
            tenant = zap_tenant(k, z.bytes[ZAP_KEY]);
        const char *code = tenant ? "200" : "400", *text = tenant ? "OK" : "unknown key";
        send_part(socket, "1.0", 3, true);
        send_part(socket, z.bytes[ZAP_REQUEST], z.n > ZAP_REQUEST ? z.size[ZAP_REQUEST] : 0, true);
        send_part(socket, code, 3, true);
        send_part(socket, text, strlen(text), true);
        send_part(socket, tenant ? tenant : "", tenant ? strlen(tenant) : 0, true);
        send_part(socket, "", 0, false);
    }
}
