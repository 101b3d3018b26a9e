/* Reads config.json from its folder. */
#include "rxt/config_impl.h"

#include "kernels/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* All of fd, at most cap bytes. */
static enum rxt_status read_all(int fd, char *text, size_t cap, size_t *n, struct rxt_error *err)
{
    *n = 0;
    while (*n < cap) {
        ssize_t got = read(fd, text + *n, cap - *n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return rxt_fail(err, RXT_EIO, "config.json: %s", strerror(errno));
        if (got == 0)
            break;
        *n += (size_t)got;
    }
    return RXT_OK;
}

enum rxt_status config_read(struct rxt_config *out, const char *dir, struct rxt_error *err)
{
    enum rxt_status st;
    char path[4096];
    size_t n = 0, cap = CONFIG_MAX_BYTES + 1;
    int len = snprintf(path, sizeof path, "%s/config.json", dir);
    if (len < 0 || (size_t)len >= sizeof path)
        return rxt_fail(err, RXT_EINVAL, "config.json: path of the folder is too long");
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not stop us */
    if (fd < 0)
        return rxt_fail(err, errno == ENOENT ? RXT_ENOTFOUND : RXT_EIO, "%.150s/config.json: %s",
                        dir, strerror(errno));
    char *text = mem_alloc(cap);
    if (!text) {
        close(fd);
        return rxt_fail(err, RXT_ENOMEM, "config.json: out of memory");
    }
    TRY_OR(done, read_all(fd, text, cap, &n, err));
    TRY_OR(done, config_parse(out, text, n, err));
done:
    mem_free(text);
    close(fd);
    return st;
}
