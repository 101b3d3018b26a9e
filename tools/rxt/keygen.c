/* rxt keygen: a CURVE key pair, for a server or for one of its clients. */
#include "tools/rxt/cli.h"

#include "bridge/server.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *out;

static const struct option options[] = {
    {"out", OPTION_TEXT, &out, "FILE", "the secret key goes here; must not exist"},
    {0},
};

/* Readable for its owner only, and never over another key. */
static enum rxt_status write_secret(const char *key, struct rxt_error *err)
{
    char line[SERVER_KEY_TEXT + 2];
    int n = snprintf(line, sizeof line, "%s\n", key);
    int fd = open(out, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return rxt_fail(err, RXT_EIO, "cannot make %.150s: %s", out, strerror(errno));
    bool whole = write(fd, line, (size_t)n) == n && fsync(fd) == 0;
    if (close(fd) != 0 || !whole) {
        (void)unlink(out);
        return rxt_fail(err, RXT_EIO, "cannot write %.150s", out);
    }
    return RXT_OK;
}

int command_keygen(int argc, char **argv)
{
    char public_key[SERVER_KEY_TEXT + 1], secret_key[SERVER_KEY_TEXT + 1];
    struct rxt_error err = {""};
    struct command_line c = {
        .usage = "rxt keygen --out FILE",
        .about =
            "Makes a CURVE key pair. The secret key goes into FILE (rxtd: secret-key-file), the "
            "public key to standard output: clients of a server need the server's, and the "
            "server's file of clients has a line \"PUBLIC-KEY TENANT\" for each of theirs.",
        .options = options,
    };
    int code = command_line_parse(&c, argc, argv);
    if (code >= 0)
        return code;
    if (!out) {
        (void)fprintf(stderr, "rxt keygen: where to? Use --out FILE\n");
        return EXIT_USAGE;
    }
    enum rxt_status st = server_keygen(public_key, secret_key, &err);
    if (st == RXT_OK)
        st = write_secret(secret_key, &err);
    if (st != RXT_OK)
        return complain(st, &err);
    printf("%s\n", public_key);
    return 0;
}
