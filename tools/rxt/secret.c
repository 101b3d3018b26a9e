#include "tools/rxt/secret.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static enum rxt_status read_line(char key[SERVER_KEY_TEXT + 1], FILE *f, const char *path,
                                 struct rxt_error *err)
{
    char line[SERVER_KEY_TEXT + 3]; /* one more than a key with a line end of two */
    struct stat s;
    if (fstat(fileno(f), &s) != 0 || !fgets(line, sizeof line, f))
        return rxt_fail(err, RXT_EIO, "cannot read the secret key in %.150s", path);
    if (s.st_mode & 077)
        return rxt_fail(err, RXT_EINVAL, "%.150s can be read by others: chmod 600 it", path);
    line[strcspn(line, "\r\n")] = '\0';
    if (strlen(line) != SERVER_KEY_TEXT)
        return rxt_fail(err, RXT_EINVAL,
                        "%.150s is no secret key of %d characters: rxt keygen "
                        "makes one",
                        path, SERVER_KEY_TEXT);
    memcpy(key, line, SERVER_KEY_TEXT + 1);
    return RXT_OK;
}

enum rxt_status secret_read(char key[SERVER_KEY_TEXT + 1], const char *path, struct rxt_error *err)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return rxt_fail(err, RXT_EIO, "cannot read the secret key in %.150s: %s", path,
                        strerror(errno));
    enum rxt_status st = read_line(key, f, path, err);
    (void)fclose(f);
    return st;
}
