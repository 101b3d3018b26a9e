/* Replays a corpus: feeds every file of a folder, in the order of their names, to the fuzz target
 * this is linked with. A crash, a sanitizer report or an empty folder fails the test.
 * usage: replay_X FOLDER */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int is_file(const struct dirent *d)
{
    return d->d_name[0] != '.';
}

/* The block has the size of the file, so that the address sanitizer sees a read past its end. */
static int replay(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0)
        goto fail;
    long size = ftell(f);
    if (size < 0 || fseek(f, 0, SEEK_SET) != 0)
        goto fail;
    uint8_t *data = malloc(size > 0 ? (size_t)size : 1);
    if (!data || fread(data, 1, (size_t)size, f) != (size_t)size) {
        free(data);
        goto fail;
    }
    (void)fclose(f);
    (void)LLVMFuzzerTestOneInput(data, (size_t)size);
    free(data);
    return 0;
fail:
    perror(path);
    if (f)
        (void)fclose(f);
    return 1;
}

int main(int argc, char **argv)
{
    struct dirent **entry = NULL;
    int n = argc == 2 ? scandir(argv[1], &entry, is_file, alphasort) : -1;
    if (n < 0) {
        (void)fprintf(stderr, "%s: cannot list %s\n", argv[0], argc == 2 ? argv[1] : "(no folder)");
        return 1;
    }
    int failed = n == 0;
    for (int i = 0; i < n; i++) {
        char path[4096];
        (void)snprintf(path, sizeof path, "%s/%s", argv[1], entry[i]->d_name);
        failed |= replay(path);
        free(entry[i]);
    }
    free(entry);
    printf("%d inputs\n", n);
    return failed;
}
