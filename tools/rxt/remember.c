/* rxt remember: absorb given turns, as if they had been said. */
#include "tools/rxt/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static struct {
    bool json, keep_going;
} opt;

static const struct option options[] = {
    {"json", OPTION_FLAG, &opt.json, NULL, "one object a turn"},
    {"keep-going", OPTION_FLAG, &opt.keep_going, NULL, "go on after a refused line"},
    OPTION_MORE(session_options),
    {0},
};

/* {"ids": [...]} exactly, or {"q", "a"} put into the template. */
static enum rxt_status absorb(struct bridge *b, const json_t *o, struct bridge_session_info *info,
                              struct rxt_error *err)
{
    struct bridge_request r;
    const json_t *ids = json_object_get(o, "ids");
    size_t n = json_array_size(ids);
    TRY(session_request(&r, BRIDGE_REMEMBER, common.session, err));
    if (!ids) {
        r.question = json_string_value(json_object_get(o, "q"));
        r.answer = json_string_value(json_object_get(o, "a"));
        if (!r.question || !r.answer)
            return rxt_fail(err, RXT_EFORMAT,
                            "a line needs strings \"q\" and \"a\", or an array \"ids\"");
        return bridge_call(b, &r, keep_info, info, err);
    }
    if (n == 0)
        return rxt_fail(err, RXT_EFORMAT, "\"ids\" must be a non-empty array of numbers");
    int32_t *copy = malloc(n * sizeof *copy);
    if (!copy)
        return RXT_ENOMEM;
    enum rxt_status st = RXT_OK;
    for (size_t i = 0; i < n && st == RXT_OK; i++) {
        const json_t *id = json_array_get(ids, i);
        json_int_t v = json_integer_value(id);
        if (!json_is_integer(id) || v < 0 || v > INT32_MAX)
            st = rxt_fail(err, RXT_EFORMAT, "\"ids\"[%zu] is not a token id", i);
        else
            copy[i] = (int32_t)v;
    }
    r.ids = copy;
    r.n_ids = n;
    if (st == RXT_OK)
        st = bridge_call(b, &r, keep_info, info, err);
    free(copy);
    return st;
}

static bool absorb_line(struct bridge *b, const char *text, size_t number)
{
    struct rxt_error err = {0};
    struct bridge_session_info info = {0};
    json_error_t where;
    json_t *o = json_loads(text, JSON_REJECT_DUPLICATES, &where);
    enum rxt_status st = json_is_object(o)
                             ? absorb(b, o, &info, &err)
                             : rxt_fail(&err, RXT_EFORMAT, "not a JSON object: %s", where.text);
    json_decref(o);
    if (st == RXT_OK && opt.json)
        print_json(json_pack("{sI so}", "version", (json_int_t)info.version, "stm_hash",
                             json_hash(info.stm_hash)));
    if (st != RXT_OK && opt.json)
        print_json(json_pack("{ss sI}", "error", err.text[0] ? err.text : rxt_status_text(st),
                             "line", (json_int_t)number));
    else if (st != RXT_OK)
        (void)fprintf(stderr, "rxt: line %zu: %s\n", number,
                      err.text[0] ? err.text : rxt_status_text(st));
    return st == RXT_OK;
}

/* 0 for what has no size: a pipe, a terminal. */
static size_t file_bytes(FILE *f)
{
    struct stat s;
    return fstat(fileno(f), &s) == 0 && S_ISREG(s.st_mode) ? (size_t)s.st_size : 0;
}

/* Absorbs the lines of a file (its path is arg) into the session of the options. */
static enum rxt_status absorb_file(const struct app *a, void *arg, int *code, struct rxt_error *err)
{
    const char *path = arg;
    bool from_stdin = strcmp(path, "-") == 0;
    struct bridge_request r;
    TRY(session_request(&r, BRIDGE_OPEN, common.session, err));
    TRY(bridge_call(a->bridge, &r, NULL, NULL, err));
    FILE *f = from_stdin ? stdin : fopen(path, "r");
    if (!f)
        return rxt_fail(err, RXT_EIO, "cannot read %.180s: %s", path, strerror(errno));
    struct progress bar;
    size_t bytes = file_bytes(f), done = 0;
    progress_start(&bar, "remember");
    bar.on = bar.on && bytes > 0 && !opt.json; /* else every turn prints a line */
    char *line = NULL;
    size_t cap = 0, number = 0, absorbed = 0;
    for (ssize_t n; (n = getline(&line, &cap, f)) >= 0; progress_step(&bar, done, bytes)) {
        number++;
        done += (size_t)n;
        if (line[strspn(line, " \t\r\n")] == '\0')
            continue;
        if (absorb_line(a->bridge, line, number)) {
            absorbed++;
        } else {
            *code = 1;
            if (!opt.keep_going)
                break;
        }
    }
    progress_end(&bar);
    free(line);
    if (!from_stdin)
        (void)fclose(f);
    if (!opt.json)
        printf("%zu turns remembered in session \"%s\"\n", absorbed, common.session);
    return RXT_OK;
}

int command_remember(int argc, char **argv)
{
    struct command_line line = {
        .usage = "rxt remember [--session NAME] FILE.jsonl",
        .about = "Absorbs given turns into a session, one object a line: {\"q\": ..., \"a\": ...} "
                 "(put into\n"
                 "the template of the model) or {\"ids\": [...]} (exactly these tokens). The "
                 "session is\n"
                 "made if it is not there. FILE - is standard input.",
        .options = options,
        .min_args = 1,
        .max_args = 1,
    };
    int code = command_line_parse(&line, argc, argv);
    if (code >= 0)
        return code;
    return run_command(&(struct bridge_config){0}, absorb_file, (void *)line.arg[0]);
}
