/* rxt load: is the latency of a live server constant, however long its sessions are? */
#include "tools/rxt/cli.h"
#include "tools/rxt/connect.h"
#include "tools/rxt/load/baseline.h"
#include "tools/rxt/load/capacity.h"
#include "tools/rxt/load/soak.h"

#include "kernels/base/clock.h"
#include "kernels/base/thread.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define UNSAID INT32_MIN /* to tell what was said from a default */

static struct {
    const char *connect;
    struct connect_keys keys;
    const char *prefix, *query, *script, *words, *tokens, *think, *arrivals;
    const char *metrics, *store, *baseline;
    const char *faults, *server, *server_log, *disk_switch;
    const char *json, *csv, *png, *html, *colour;
    int32_t sessions, young, turns, connections, warmup, timeout_s, width, pid;
    uint64_t seed;
    double rate, find_rate_s, seconds, ramp_s, temperature;
    double fork, cancel, resend, slow, vanish;
    struct load_limits limits;
    bool keep, dry_run, turns_said, warmup_said;
} opt = {.connect = "tcp://127.0.0.1:7110",
         .query = "Tell me something about the weather by the sea.",
         .tokens = "8",
         .arrivals = "poisson",
         .sessions = 4,
         .turns = UNSAID,
         .connections = 1,
         .warmup = UNSAID,
         .timeout_s = 60,
         .width = -1,
         .seed = 1};

static const struct option options[] = {
    {"connect", OPTION_TEXT, &opt.connect, "ENDPOINT",
     "of the server (default: tcp://127.0.0.1:7110)"},
    {"sessions", OPTION_INT, &opt.sessions, "S", "at the same time (default 4)"},
    {"young", OPTION_INT, &opt.young, "K",
     "more sessions, fresh again after 50 turns: what they take is the measure of the others"},
    {"turns", OPTION_INT, &opt.turns, "N", "of each session (default 100)"},
    {"rate", OPTION_REAL, &opt.rate, "R",
     "turns a second, of all sessions (default: half of what one session alone gets)"},
    {"arrivals", OPTION_TEXT, &opt.arrivals, "HOW", "of --rate: poisson (default) or even"},
    {"find-rate", OPTION_REAL, &opt.find_rate_s, "T",
     "find the highest rate at which the memories keep up, in trials of T seconds"},
    {"think-ms", OPTION_TEXT, &opt.think, "DIST",
     "instead of --rate: from one turn of a session to its next"},
    {"seconds", OPTION_REAL, &opt.seconds, "T",
     "no turn is due later than that, so that not all --turns are said"},
    {"ramp-s", OPTION_REAL, &opt.ramp_s, "T", "the sessions begin one by one in this time"},
    {"query", OPTION_TEXT, &opt.query, "TEXT", "said at every turn"},
    {"words", OPTION_TEXT, &opt.words, "DIST", "instead: so many random words"},
    {"script", OPTION_TEXT, &opt.script, "FILE",
     "instead: questions of a transcript, lines {\"query\": ...}"},
    {"max-tokens", OPTION_TEXT, &opt.tokens, "DIST", "of an answer (default 8)"},
    {"temperature", OPTION_REAL, &opt.temperature, "T", "(default 0: greedy)"},
    {"cancel", OPTION_REAL, &opt.cancel, "SHARE", "of turns: cancelled at their first token"},
    {"resend", OPTION_REAL, &opt.resend, "SHARE", "of turns: asked for again afterwards"},
    {"fork", OPTION_REAL, &opt.fork, "SHARE", "of turns: the session is forked afterwards"},
    {"slow", OPTION_REAL, &opt.slow, "SHARE", "of sessions: read slowly, each 512 bytes every 250 ms"},
    {"vanish", OPTION_REAL, &opt.vanish, "SHARE",
     "of sessions: their connection goes in the middle of an answer, and comes back"},
    {"dry-run", OPTION_FLAG, &opt.dry_run, NULL,
     "the server only answers: nothing is journaled or remembered"},
    {"connections", OPTION_INT, &opt.connections, "N", "for the others (default 1)"},
    {"warmup", OPTION_INT, &opt.warmup, "N", "first turns that do not count (default 1)"},
    {"limit-first-token-ms", OPTION_INT, &opt.limits.first_token_ms, "N",
     "a good turn keeps it; also:"},
    {"limit-turn-ms", OPTION_INT, &opt.limits.turn_ms, "N", "to DONE"},
    {"limit-token-ms", OPTION_INT, &opt.limits.token_ms, "N", "mean of a token behind the first"},
    {"limit-memory-ms", OPTION_INT, &opt.limits.memory_ms, "N", "lag of the memory"},
    {"baseline", OPTION_TEXT, &opt.baseline, "history",
     "then the same turns without a kept memory: 1, 2, 5, 10 ... of them"},
    {"faults", OPTION_TEXT, &opt.faults, "PLAN",
     "soak: start the server, do to it what the plan says, look what was lost"},
    {"server", OPTION_TEXT, &opt.server, "COMMAND", "... starts it"},
    {"server-log", OPTION_TEXT, &opt.server_log, "FILE", "... what it says (default: nowhere)"},
    {"disk-switch", OPTION_TEXT, &opt.disk_switch, "FILE",
     "... says \"full\" while the disk is to be full (tests/conformance/disk.c)"},
    {"seed", OPTION_SEED, &opt.seed, "N", "of all that is drawn (default 1)"},
    {"prefix", OPTION_TEXT, &opt.prefix, "NAME", "of the sessions (default: a new one)"},
    {"keep", OPTION_FLAG, &opt.keep, NULL, "do not erase the sessions afterwards"},
    {"timeout-s", OPTION_INT, &opt.timeout_s, "T",
     "without a word of what is waited for: given up (default 60)"},
    {"metrics", OPTION_TEXT, &opt.metrics, "URL",
     "of the server, http://HOST:PORT/metrics: its gauges beside the run"},
    {"pid", OPTION_INT, &opt.pid, "N", "of the server: its memory, files and threads, too"},
    {"store", OPTION_TEXT, &opt.store, "FILE", "of the server: how much it grows"},
    {"json", OPTION_TEXT, &opt.json, "FILE", "all figures"},
    {"csv", OPTION_TEXT, &opt.csv, "FILE", "one line a turn"},
    {"png", OPTION_TEXT, &opt.png, "FILE", "the plots as a picture"},
    {"html", OPTION_TEXT, &opt.html, "FILE", "a page with plots and tables"},
    {"colour", OPTION_TEXT, &opt.colour, "WHEN", "auto (default), always or never"},
    {"width", OPTION_INT, &opt.width, "N", "columns to fill (default: of the terminal; 0 = any)"},
    {"server-key", OPTION_TEXT, &opt.keys.server_key, "KEY", "CURVE: the server's public key"},
    {"secret-key-file", OPTION_TEXT, &opt.keys.secret_key_file, "FILE", "CURVE: our secret key"},
    {0},
};

static struct load_plan plan;
static volatile sig_atomic_t stop;
static atomic_int server_pid;
static struct faults *faults; /* NULL: the server is not ours */
static struct soak soak;

static void on_interrupt(int number)
{
    (void)number;
    stop = 1;
}

/* ---- what is asked for -------------------------------------------------------------------- */

static bool is_share(double x)
{
    return x >= 0 && x <= 1;
}

/* What a trial of --find-rate decides by itself, or has no use for. */
static bool is_of_no_trial(void)
{
    const struct load_limits *l = &opt.limits;
    return opt.turns_said || opt.warmup_said || opt.seconds > 0 || opt.prefix || opt.csv ||
           opt.metrics || opt.store || opt.pid || l->first_token_ms || l->turn_ms || l->token_ms ||
           l->memory_ms || opt.faults || opt.baseline || opt.dry_run || opt.keep;
}

/* The sentence about options that make no sense; NULL if they do. */
static const char *contradiction(void)
{
    const struct load_limits *l = &opt.limits;
    if (opt.sessions < 1 || opt.sessions > 1000000 || opt.turns < 1 || opt.turns > 10000000)
        return "--sessions is 1 to 1,000,000, --turns 1 to 10,000,000";
    if (opt.young < 0 || opt.young > 1000000)
        return "--young is 0 to 1,000,000";
    if (opt.young > 0 && (opt.find_rate_s > 0 || opt.faults || opt.dry_run || opt.slow > 0 ||
                          opt.vanish > 0 || opt.ramp_s > 0))
        return "--young goes without --find-rate, --faults, --dry-run, --slow, --vanish and "
               "--ramp-s";
    if (opt.young > 0 && opt.turns < (int32_t)PLAN_YOUNG_LEAST)
        return "--young needs --turns 500 at least: sessions of fewer are not old beside them";
    if (((uint64_t)opt.sessions + (uint64_t)opt.young) * (uint64_t)opt.turns > PLAN_TURNS_MAX)
        return "more than 20,000,000 turns in all";
    if (opt.warmup < 0 || opt.warmup >= opt.turns || opt.timeout_s < 1 || opt.timeout_s > 86400)
        return "--warmup is 0 or more and less than --turns, --timeout-s 1 to 86,400";
    if (opt.connections < 1 || opt.connections > 62)
        return "--connections is 1 to 62";
    if (opt.rate < 0 || opt.seconds < 0 || opt.ramp_s < 0 || opt.temperature < 0)
        return "--rate, --seconds, --ramp-s and --temperature are not negative";
    if (!is_share(opt.fork) || !is_share(opt.cancel) || !is_share(opt.resend) ||
        !is_share(opt.slow) || !is_share(opt.vanish) || opt.slow + opt.vanish >= 1)
        return "--fork, --cancel, --resend, --slow and --vanish are shares, 0 to 1 (--slow and "
               "--vanish together less)";
    if (opt.dry_run && (opt.fork > 0 || opt.resend > 0 || opt.faults || opt.baseline))
        return "--dry-run leaves nothing to --fork, --resend, --faults and --baseline";
    if ((opt.rate > 0) + (opt.find_rate_s > 0) + (opt.think != NULL) > 1)
        return "one of --rate, --find-rate and --think-ms";
    if (opt.find_rate_s < 0 || opt.find_rate_s > 3600 || (opt.find_rate_s > 0 && is_of_no_trial()))
        return "--find-rate is 0 to 3600 seconds, without --turns, --warmup, --seconds, --prefix, "
               "--csv, --metrics, --pid, --store, --limit-*, --faults, --baseline, --dry-run and "
               "--keep";
    if (strcmp(opt.arrivals, "poisson") != 0 && strcmp(opt.arrivals, "even") != 0)
        return "--arrivals is poisson or even";
    if (l->first_token_ms < 0 || l->turn_ms < 0 || l->token_ms < 0 || l->memory_ms < 0)
        return "limits are not negative";
    if (!opt.faults != !opt.server || (opt.faults && opt.pid))
        return "--faults PLAN goes with --server COMMAND, and without --pid";
    if (opt.baseline && strcmp(opt.baseline, "history") != 0)
        return "--baseline knows history";
    if (!opt.query[0] || strlen(opt.query) >= PLAN_QUERY_MAX)
        return "--query has 1 to 8191 bytes";
    return NULL;
}

static bool take_spread(struct spread *s, const char *name, const char *text)
{
    if (spread_parse(s, text))
        return true;
    (void)fprintf(
        stderr,
        "rxt: --%s %s: use N, A-B, exp:MEAN or lognormal:MEDIAN:SIGMA, of numbers from 0 to "
        "%.0f (SIGMA: to %.0f)\n",
        name, text, SPREAD_MAX, SPREAD_SIGMA_MAX);
    return false;
}

/* A gap in microseconds from one in milliseconds. */
static void to_us(struct spread *s)
{
    s->a *= 1000;
    if (s->kind == SPREAD_UNIFORM)
        s->b *= 1000;
}

static bool take_plan(struct load_plan *p)
{
    *p = (struct load_plan){.n_session = (uint32_t)(opt.sessions + opt.young),
                            .n_young = (uint32_t)opt.young,
                            .n_turn = (uint32_t)opt.turns,
                            .seed = opt.seed,
                            .ramp_us = 1e6 * opt.ramp_s,
                            .end_us = 1e6 * opt.seconds,
                            .query = opt.query,
                            .temperature = opt.temperature,
                            .fork = opt.fork,
                            .cancel = opt.cancel,
                            .resend = opt.resend,
                            .slow = opt.slow,
                            .vanish = opt.vanish,
                            .dry_run = opt.dry_run};
    if (!take_spread(&p->tokens, "max-tokens", opt.tokens) ||
        (opt.words && !take_spread(&p->words, "words", opt.words)) ||
        (opt.think && !take_spread(&p->gap_us, "think-ms", opt.think)))
        return false;
    to_us(&p->gap_us);
    return true;
}

static bool is_even(void)
{
    return strcmp(opt.arrivals, "even") == 0;
}

/* ---- progress ----------------------------------------------------------------------------- */

struct live {
    struct drive *d;
    uint64_t shown_us;
    bool on;
};

static enum rxt_status on_tick(void *arg, struct rxt_error *err)
{
    struct live *l = arg;
    const struct drive *d = l->d;
    const uint64_t now = clock_us();
    if (faults && now > d->start_us)
        TRY(faults_tick(faults, now - d->start_us, d->client, err));
    if (!l->on || now - l->shown_us < 500000 || now <= d->start_us)
        return RXT_OK;
    l->shown_us = now;
    const struct histogram *h = &d->histogram[MEASURE_FIRST];
    (void)fprintf(
        stderr,
        "\r%" PRIu64 "/%zu turns, %u open, first token %.3g ms p99 %.3g, sent late p99 %.2g "
        "ms\033[K",
        d->n_done, drive_records(d), client_many_inflight(d->client), histogram_at(h, 0.5) / 1000,
        histogram_at(h, 0.99) / 1000, histogram_at(&d->histogram[MEASURE_SLIP], 0.99) / 1000);
    (void)fflush(stderr);
    return RXT_OK;
}

static void show_baseline(uint32_t turn)
{
    (void)fprintf(stderr, "\rwithout a memory: turn %u\033[K", turn);
    (void)fflush(stderr);
}

static void end_live(const struct live *l)
{
    if (l->on)
        (void)fprintf(stderr, "\r\033[K");
}

/* ---- results ------------------------------------------------------------------------------ */

static enum rxt_status write_json(const struct report *r, const char *path, struct rxt_error *err)
{
    json_t *o = report_json(r);
    if (!o)
        return RXT_ENOMEM;
    int bad = json_dump_file(o, path, JSON_COMPACT);
    json_decref(o);
    return bad ? rxt_fail(err, RXT_EIO, "cannot write %.180s", path) : RXT_OK;
}

/* Writes it as asked for, and prints it with a last line. */
static enum rxt_status put_report(const struct report *r, const char *line, struct rxt_error *err)
{
    enum rxt_status st = r->status;
    if (st == RXT_OK && opt.json)
        st = write_json(r, opt.json, err);
    if (st == RXT_OK && opt.png)
        st = report_png(r, opt.png, err);
    if (st == RXT_OK && opt.html)
        st = report_html(r, opt.html, err);
    if (st != RXT_OK)
        return st;
    struct text_style style = text_style_for(stdout, opt.width, opt.colour);
    report_text(r, &style, stdout);
    printf("\n%s\n", line);
    return fflush(stdout) == 0 ? RXT_OK : rxt_fail(err, RXT_EIO, "cannot write all of the output");
}

static enum rxt_status show(const struct load_outcome *o, const struct baseline *b,
                            struct rxt_error *err)
{
    struct report r;
    const struct load_plan *p = o->d->plan;
    report_open(&r, "rxt load: %u sessions of %u turns at %.100s", p->n_session - p->n_young,
                p->n_turn, opt.connect);
    outcome_report(o, &r);
    if (faults)
        soak_report(&soak, faults, &r);
    if (o->gauges)
        growth_report(o, &r);
    if (b)
        baseline_report(b, o, &r);
    outcome_plots(o, &r);
    enum rxt_status st = opt.csv ? outcome_csv(o->d, opt.csv, err) : RXT_OK;
    if (st == RXT_OK)
        st = put_report(&r, o->line, err);
    report_close(&r);
    return st;
}

/* ---- --find-rate -------------------------------------------------------------------------- */

static void show_rate(double rate)
{
    if (isatty(STDERR_FILENO))
        (void)fprintf(stderr, "\r%.1f turns a second\033[K", rate);
}

static enum rxt_status find_capacity(const struct drive *like, const struct client_config *server,
                                     int *code, struct rxt_error *err)
{
    struct capacity c;
    struct report r;
    char line[80];
    TRY(capacity_find(&c,
                      &(struct capacity_config){.plan = &plan,
                                                .server = server,
                                                .like = like,
                                                .seconds = opt.find_rate_s,
                                                .even = is_even(),
                                                .show = show_rate},
                      err));
    report_open(&r, "rxt load: what %u sessions at %.100s get", plan.n_session, opt.connect);
    capacity_report(&c, &r);
    (void)snprintf(line, sizeof line,
                   c.interrupted ? "INTERRUPTED: %.1f turns a second are borne, perhaps more"
                                 : "BORNE: %.1f turns a second",
                   c.rate);
    enum rxt_status st = put_report(&r, line, err);
    report_close(&r);
    *code = c.interrupted ? LOAD_NOT_SHOWN : c.rate > 0 ? 0 : LOAD_ERRORS_CAME;
    return st;
}

/* ---- the run ------------------------------------------------------------------------------ */

/* Without --rate and --think-ms: half of what one session gets that asks again as soon as its turn
 * is remembered. */
static enum rxt_status find_rate(struct drive *d, struct rxt_error *err)
{
    double turn_us = 0;
    if (opt.rate > 0 || opt.think)
        return RXT_OK;
    TRY(drive_probe(d, &turn_us, err));
    plan_set_rate(&plan, 0.5e6 / turn_us, is_even());
    schedule_destroy(&d->schedule);
    return schedule_create(&d->schedule, d->plan);
}

/* They would be none if they had turns of an earlier run with the same --prefix. */
static enum rxt_status check_young(const struct drive *d, struct rxt_error *err)
{
    for (uint32_t i = d->plan->n_session - d->plan->n_young; i < plan_places(d->plan); i++)
        if (d->session[i].n_before > 0)
            return rxt_fail(err, RXT_EEXIST,
                            "young session %s-%06u has turns already: use another --prefix",
                            d->prefix, i);
    return RXT_OK;
}

/* After the faults: the first requests find the server again, or wait for it. */
static enum rxt_status check_repeats(struct drive *d, struct rxt_error *err)
{
    TRY(faults_settle(faults, err));
    TRY(drive_verify(d, err));
    return soak_repeat(&soak, d, err);
}

static enum rxt_status measure(struct drive *d, int *code, struct rxt_error *err)
{
    struct live live = {.d = d, .on = isatty(STDERR_FILENO)};
    struct load_outcome o = {.code = LOAD_ERRORS_CAME};
    struct baseline baseline = {0};
    struct gauges *gauges = NULL;
    const struct gauges_config beside = {.metrics = opt.metrics,
                                         .store = opt.store,
                                         .pid = faults ? faults_pid(faults) : &server_pid};
    d->tick = on_tick;
    d->arg = &live;
    atomic_store(&server_pid, opt.pid);
    TRY(find_rate(d, err));
    TRY(drive_prepare(d, err));
    TRY(check_young(d, err));
    enum rxt_status st = RXT_OK;
    if (opt.metrics || opt.store || opt.pid || faults)
        st = gauges_start(&gauges, &beside, err);
    if (st == RXT_OK)
        st = drive_run(d, err);
    end_live(&live);
    if (gauges)
        gauges_stop(gauges);
    if (st == RXT_OK && faults)
        st = check_repeats(d, err);
    if (st == RXT_OK)
        st = drive_verify(d, err);
    if (st == RXT_OK)
        st = outcome_make(&o, d, gauges, &opt.limits, (uint32_t)opt.warmup);
    if (st == RXT_OK && faults)
        soak_judge(&soak, faults, &o);
    if (st == RXT_OK && opt.baseline)
        st = baseline_measure(&baseline, d, &o, live.on ? show_baseline : NULL, err);
    end_live(&live);
    if (st == RXT_OK)
        st = show(&o, opt.baseline ? &baseline : NULL, err);
    if (st == RXT_OK && !opt.keep)
        st = drive_erase(d, err);
    gauges_free(&gauges);
    *code = o.code;
    return st;
}

static enum rxt_status load(int *code, struct rxt_error *err)
{
    char key[64];
    struct client_config server = {
        .endpoint = opt.connect, .name = "rxt load", .timeout_ms = 10000};
    struct drive d = {.plan = &plan,
                      .faults = opt.faults != NULL,
                      .keep_answers = opt.baseline != NULL,
                      .n_connection = (uint32_t)opt.connections,
                      .timeout_us = (uint64_t)opt.timeout_s * 1000000,
                      .stop = &stop};
    TRY(connect_use_keys(&server, &opt.keys, key, err));
    if (opt.script)
        TRY(plan_read_script(&plan, opt.script, err));
    if (opt.find_rate_s > 0)
        return find_capacity(&d, &server, code, err);
    if (opt.prefix)
        (void)snprintf(d.prefix, sizeof d.prefix, "%s", opt.prefix);
    enum rxt_status st = RXT_OK;
    if (opt.faults)
        st = faults_start(&faults,
                          &(struct faults_config){.plan = opt.faults,
                                                  .command = opt.server,
                                                  .log = opt.server_log,
                                                  .disk_switch = opt.disk_switch,
                                                  .server = server,
                                                  .n_connection = d.n_connection},
                          err);
    if (st == RXT_OK)
        st = drive_open(&d, &server, err);
    if (st == RXT_OK)
        st = measure(&d, code, err);
    drive_close(&d);
    faults_stop(&faults);
    return st;
}

int command_load(int argc, char **argv)
{
    struct command_line line = {
        .usage = "rxt load [--connect ENDPOINT] [OPTIONS]",
        .about =
            "Asks a live server on a schedule that does not wait for answers, and says whether the "
            "latency\n"
            "depends on the number of the turn. docs/load.md says what that proves. DIST is N, A-B "
            "(uniform),\n"
            "exp:MEAN or lognormal:MEDIAN:SIGMA. Exit code: 0 constant, 1 not constant, 2 not "
            "shown, 3 "
            "errors.",
        .options = options,
    };
    struct rxt_error err = {0};
    int code = command_line_parse(&line, argc, argv);
    if (code >= 0)
        return code == EXIT_USAGE ? LOAD_ERRORS_CAME : code;
    opt.turns_said = opt.turns != UNSAID;
    if (!opt.turns_said)
        opt.turns = 100;
    opt.warmup_said = opt.warmup != UNSAID;
    if (!opt.warmup_said)
        opt.warmup = 1;
    const char *wrong = contradiction();
    if (wrong) {
        (void)fprintf(stderr, "rxt: %s\nusage: %s\n", wrong, line.usage);
        return LOAD_ERRORS_CAME;
    }
    if (!take_plan(&plan))
        return LOAD_ERRORS_CAME;
    if (!opt.think)
        plan_set_rate(&plan, opt.rate > 0 ? opt.rate : 1, is_even());
    (void)signal(SIGINT, on_interrupt);
    /* on the server's own cores it would measure its own waiting otherwise */
    (void)thread_slice(THREAD_WAITS_US);
    code = LOAD_ERRORS_CAME;
    if (load(&code, &err) != RXT_OK) {
        (void)complain(RXT_EIO, &err);
        code = LOAD_ERRORS_CAME;
    }
    plan_free(&plan);
    return code;
}
