#include "tools/rxt/options.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_table(const struct option *table)
{
    for (const struct option *o = table; o->name; o++) {
        if (!*o->name) {
            print_table(o->value);
            continue;
        }
        char left[40];
        (void)snprintf(left, sizeof left, "--%s%s%s", o->name, o->arg ? " " : "",
                       o->arg ? o->arg : "");
        printf("  %-24s %s\n", left, o->help);
    }
}

static const struct option *find(const struct option *table, const char *name, size_t n)
{
    for (const struct option *o = table; o->name; o++) {
        if (!*o->name) {
            const struct option *more = find(o->value, name, n);
            if (more)
                return more;
        } else if (strncmp(o->name, name, n) == 0 && o->name[n] == '\0') {
            return o;
        }
    }
    return NULL;
}

/* The whole text must be a number of the kind; "12x" and "" are not. */
static bool set_value(const struct option *o, const char *text)
{
    char *end = NULL;
    errno = 0;
    switch (o->kind) {
    case OPTION_FLAG:
        *(bool *)o->value = true;
        return true;
    case OPTION_TEXT:
        *(const char **)o->value = text;
        return true;
    case OPTION_INT: {
        long v = strtol(text, &end, 10);
        if (errno || v < INT32_MIN || v > INT32_MAX)
            return false;
        *(int32_t *)o->value = (int32_t)v;
        break;
    }
    case OPTION_SEED:
        if (text[0] == '-')
            return false;
        *(uint64_t *)o->value = strtoull(text, &end, 0);
        break;
    case OPTION_REAL:
        *(double *)o->value = strtod(text, &end);
        if (!isfinite(*(double *)o->value))
            return false;
        break;
    }
    return errno == 0 && end != text && *end == '\0';
}

bool option_set(const struct option *table, const char *name, const char *text, bool *known)
{
    const struct option *o = find(table, name, strlen(name));
    *known = o != NULL;
    if (!o)
        return false;
    if (o->kind != OPTION_FLAG)
        return set_value(o, text);
    bool on = strcmp(text, "true") == 0;
    if (on || strcmp(text, "false") == 0)
        *(bool *)o->value = on;
    return on || strcmp(text, "false") == 0;
}

static int parse_option(struct command_line *c, int argc, char **argv, int *at)
{
    const char *name = argv[*at] + 2;
    const char *equals = strchr(name, '=');
    const struct option *o =
        find(c->options, name, equals ? (size_t)(equals - name) : strlen(name));
    if (!o) {
        (void)fprintf(stderr, "unknown option %s\nusage: %s\n", argv[*at], c->usage);
        return EXIT_USAGE;
    }
    const char *text = equals ? equals + 1 : NULL;
    if (o->kind == OPTION_FLAG && text) {
        (void)fprintf(stderr, "--%s takes no value\n", o->name);
        return EXIT_USAGE;
    }
    if (o->kind != OPTION_FLAG && !text) {
        if (*at + 1 == argc) {
            (void)fprintf(stderr, "--%s needs a value: %s\n", o->name, o->arg);
            return EXIT_USAGE;
        }
        text = argv[++*at];
    }
    if (!set_value(o, text)) {
        (void)fprintf(stderr, "--%s %s: not a value for %s\n", o->name, text, o->arg);
        return EXIT_USAGE;
    }
    return -1;
}

int command_line_parse(struct command_line *c, int argc, char **argv)
{
    c->n_arg = 0;
    bool only_args = false;
    for (int i = 1; i < argc; i++) {
        if (!only_args && (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)) {
            printf("usage: %s\n\n%s\n\n", c->usage, c->about);
            print_table(c->options);
            return 0;
        }
        if (!only_args && strcmp(argv[i], "--") == 0) {
            only_args = true;
        } else if (!only_args && argv[i][0] == '-' && argv[i][1] == '-') {
            int code = parse_option(c, argc, argv, &i);
            if (code >= 0)
                return code;
        } else if (c->n_arg < c->max_args) {
            c->arg[c->n_arg++] = argv[i];
        } else {
            (void)fprintf(stderr, "one argument too many: %s\nusage: %s\n", argv[i], c->usage);
            return EXIT_USAGE;
        }
    }
    if (c->n_arg < c->min_args) {
        (void)fprintf(stderr, "usage: %s\n", c->usage);
        return EXIT_USAGE;
    }
    return -1;
}
