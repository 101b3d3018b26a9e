#include "tools/rxt/cli.h"

#include "kernels/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void print_json(json_t *object)
{
    (void)json_dumpf(object, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
    (void)putchar('\n');
    (void)fflush(stdout);
    json_decref(object);
}

json_t *json_ids(const int32_t *ids, int32_t n)
{
    json_t *array = json_array();
    for (int32_t i = 0; i < n; i++)
        (void)json_array_append_new(array, json_integer(ids[i]));
    return array;
}

json_t *json_hash(const uint8_t hash[16])
{
    char hex[33];
    for (size_t i = 0; i < 16; i++)
        (void)snprintf(hex + 2 * i, 3, "%02x", hash[i]);
    return json_string(hex);
}

char *text_of_ids(const struct rxt_model *m, const int32_t *ids, int32_t n)
{
    struct rxt_text state = {0};
    size_t used = 0;
    char *text = malloc(((size_t)n + 1) * RXT_PIECE_MAX + 1);
    if (!text)
        return NULL;
    for (int32_t i = 0; i < n; i++)
        used += rxt_decode(m, &state, ids[i], text + used);
    used += rxt_decode_end(&state, text + used);
    text[used] = '\0';
    return text;
}

void progress_start(struct progress *p, const char *what)
{
    *p = (struct progress){.what = what, .start_us = clock_us(), .on = isatty(STDERR_FILENO)};
}

void progress_step(struct progress *p, size_t done, size_t all)
{
    uint64_t now = clock_us();
    if (!p->on || now - p->start_us < 1000000 || now - p->shown_us < 100000)
        return;
    enum { WIDTH = 30 };
    char bar[WIDTH + 1];
    size_t full = all ? done * WIDTH / all : 0;
    for (size_t i = 0; i < WIDTH; i++)
        bar[i] = i < full ? '#' : '.';
    bar[WIDTH] = '\0';
    double elapsed = (double)(now - p->start_us) / 1e6;
    double left = done ? elapsed * (double)(all - done) / (double)done : 0;
    (void)fprintf(stderr, "\r%s [%s] %zu/%zu, %.0f s left \033[K", p->what, bar, done, all, left);
    p->shown_us = now;
}

void progress_end(struct progress *p)
{
    if (p->on && p->shown_us)
        (void)fprintf(stderr, "\r\033[K");
}
