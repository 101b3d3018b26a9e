#include "tools/rxt/load/options.h"

#include "tools/rxt/options.h"

#include <stdio.h>
#include <string.h>

#define UNSAID INT32_MIN /* to tell what was said from a default */

static struct {
    struct load_options run;
    const char *query, *words, *tokens, *think, *arrivals;
    int32_t sessions, young, turns;
    uint64_t seed;
    double rate, seconds, ramp_s, temperature;
    double fork, cancel, resend, slow, vanish;
    bool dry_run, turns_said, warmup_said;
} opt = {.run = {.connect = "tcp://127.0.0.1:7110",
                 .connections = 1,
                 .warmup = UNSAID,
                 .timeout_s = 60,
                 .width = -1},
         .query = "Tell me something about the weather by the sea.",
         .tokens = "8",
         .arrivals = "poisson",
         .sessions = 4,
         .turns = UNSAID,
         .seed = 1};

static const struct option options[] = {
    {"connect", OPTION_TEXT, &opt.run.connect, "ENDPOINT",
     "of the server (default: tcp://127.0.0.1:7110)"},
    {"sessions", OPTION_INT, &opt.sessions, "S", "at the same time (default 4)"},
    {"young", OPTION_INT, &opt.young, "K",
     "more sessions, fresh again after 50 turns: what they take is the measure of the others"},
    {"turns", OPTION_INT, &opt.turns, "N", "of each session (default 100)"},
    {"rate", OPTION_REAL, &opt.rate, "R",
     "turns a second, of all sessions (default: half of what one session alone gets)"},
    {"arrivals", OPTION_TEXT, &opt.arrivals, "HOW", "of --rate: poisson (default) or even"},
    {"find-rate", OPTION_REAL, &opt.run.find_rate_s, "T",
     "find the highest rate at which the memories keep up, in trials of T seconds"},
    {"think-ms", OPTION_TEXT, &opt.think, "DIST",
     "instead of --rate: from one turn of a session to its next"},
    {"seconds", OPTION_REAL, &opt.seconds, "T",
     "no turn is due later than that, so that not all --turns are said"},
    {"ramp-s", OPTION_REAL, &opt.ramp_s, "T", "the sessions begin one by one in this time"},
    {"query", OPTION_TEXT, &opt.query, "TEXT", "said at every turn"},
    {"words", OPTION_TEXT, &opt.words, "DIST", "instead: so many random words"},
    {"script", OPTION_TEXT, &opt.run.script, "FILE",
     "instead: questions of a transcript, lines {\"query\": ...}"},
    {"max-tokens", OPTION_TEXT, &opt.tokens, "DIST", "of an answer (default 8)"},
    {"temperature", OPTION_REAL, &opt.temperature, "T", "(default 0: greedy)"},
    {"cancel", OPTION_REAL, &opt.cancel, "SHARE", "of turns: cancelled at their first token"},
    {"resend", OPTION_REAL, &opt.resend, "SHARE", "of turns: asked for again afterwards"},
    {"fork", OPTION_REAL, &opt.fork, "SHARE", "of turns: the session is forked afterwards"},
    {"slow", OPTION_REAL, &opt.slow, "SHARE",
     "of sessions: read slowly, each 512 bytes every 250 ms"},
    {"vanish", OPTION_REAL, &opt.vanish, "SHARE",
     "of sessions: their connection goes in the middle of an answer, and comes back"},
    {"dry-run", OPTION_FLAG, &opt.dry_run, NULL,
     "the server only answers: nothing is journaled or remembered"},
    {"connections", OPTION_INT, &opt.run.connections, "N", "for the others (default 1)"},
    {"warmup", OPTION_INT, &opt.run.warmup, "N", "first turns that do not count (default 1)"},
    {"limit-first-token-ms", OPTION_INT, &opt.run.limits.first_token_ms, "N",
     "a good turn keeps it; also:"},
    {"limit-turn-ms", OPTION_INT, &opt.run.limits.turn_ms, "N", "to DONE"},
    {"limit-token-ms", OPTION_INT, &opt.run.limits.token_ms, "N",
     "mean of a token behind the first"},
    {"limit-memory-ms", OPTION_INT, &opt.run.limits.memory_ms, "N", "lag of the memory"},
    {"baseline", OPTION_TEXT, &opt.run.baseline, "history",
     "then the same turns without a kept memory: 1, 2, 5, 10 ... of them"},
    {"faults", OPTION_TEXT, &opt.run.faults, "PLAN",
     "soak: start the server, do to it what the plan says, look what was lost"},
    {"server", OPTION_TEXT, &opt.run.server, "COMMAND", "... starts it"},
    {"server-log", OPTION_TEXT, &opt.run.server_log, "FILE", "... what it says (default: nowhere)"},
    {"disk-switch", OPTION_TEXT, &opt.run.disk_switch, "FILE",
     "... says \"full\" while the disk is to be full (tests/conformance/disk.c)"},
    {"seed", OPTION_SEED, &opt.seed, "N", "of all that is drawn (default 1)"},
    {"prefix", OPTION_TEXT, &opt.run.prefix, "NAME", "of the sessions (default: a new one)"},
    {"keep", OPTION_FLAG, &opt.run.keep, NULL, "do not erase the sessions afterwards"},
    {"timeout-s", OPTION_INT, &opt.run.timeout_s, "T",
     "without a word of what is waited for: given up (default 60)"},
    {"metrics", OPTION_TEXT, &opt.run.metrics, "URL",
     "of the server, http://HOST:PORT/metrics: its gauges beside the run"},
    {"pid", OPTION_INT, &opt.run.pid, "N", "of the server: its memory, files and threads, too"},
    {"store", OPTION_TEXT, &opt.run.store, "FILE", "of the server: how much it grows"},
    {"json", OPTION_TEXT, &opt.run.json, "FILE", "all figures"},
    {"csv", OPTION_TEXT, &opt.run.csv, "FILE", "one line a turn"},
    {"png", OPTION_TEXT, &opt.run.png, "FILE", "the plots as a picture"},
    {"html", OPTION_TEXT, &opt.run.html, "FILE", "a page with plots and tables"},
    {"colour", OPTION_TEXT, &opt.run.colour, "WHEN", "auto (default), always or never"},
    {"width", OPTION_INT, &opt.run.width, "N",
     "columns to fill (default: of the terminal; 0 = any)"},
    {"server-key", OPTION_TEXT, &opt.run.keys.server_key, "KEY", "CURVE: the server's public key"},
    {"secret-key-file", OPTION_TEXT, &opt.run.keys.secret_key_file, "FILE",
     "CURVE: our secret key"},
    {0},
};

/* ---- whether it makes sense --------------------------------------------------------------- */

static bool is_share(double x)
{
    return x >= 0 && x <= 1;
}

/* What a trial of --find-rate decides by itself, or has no use for. */
static bool is_of_no_trial(void)
{
    const struct load_limits *l = &opt.run.limits;
    return opt.turns_said || opt.warmup_said || opt.seconds > 0 || opt.run.prefix || opt.run.csv ||
           opt.run.metrics || opt.run.store || opt.run.pid || l->first_token_ms || l->turn_ms ||
           l->token_ms || l->memory_ms || opt.run.faults || opt.run.baseline || opt.dry_run ||
           opt.run.keep;
}

/* The sentence about options that make no sense; NULL if they do. */
static const char *contradiction(void)
{
    const struct load_limits *l = &opt.run.limits;
    if (opt.sessions < 1 || opt.sessions > 1000000 || opt.turns < 1 || opt.turns > 10000000)
        return "--sessions is 1 to 1,000,000, --turns 1 to 10,000,000";
    if (opt.young < 0 || opt.young > 1000000)
        return "--young is 0 to 1,000,000";
    if (opt.young > 0 && (opt.run.find_rate_s > 0 || opt.run.faults || opt.dry_run ||
                          opt.slow > 0 || opt.vanish > 0 || opt.ramp_s > 0))
        return "--young goes without --find-rate, --faults, --dry-run, --slow, --vanish and "
               "--ramp-s";
    if (opt.young > 0 && opt.turns < (int32_t)PLAN_YOUNG_LEAST)
        return "--young needs --turns 500 at least: sessions of fewer are not old beside them";
    if (((uint64_t)opt.sessions + (uint64_t)opt.young) * (uint64_t)opt.turns > PLAN_TURNS_MAX)
        return "more than 20,000,000 turns in all";
    if (opt.run.warmup < 0 || opt.run.warmup >= opt.turns || opt.run.timeout_s < 1 ||
        opt.run.timeout_s > 86400)
        return "--warmup is 0 or more and less than --turns, --timeout-s 1 to 86,400";
    if (opt.run.connections < 1 || opt.run.connections > 62)
        return "--connections is 1 to 62";
    if (opt.rate < 0 || opt.seconds < 0 || opt.ramp_s < 0 || opt.temperature < 0)
        return "--rate, --seconds, --ramp-s and --temperature are not negative";
    if (!is_share(opt.fork) || !is_share(opt.cancel) || !is_share(opt.resend) ||
        !is_share(opt.slow) || !is_share(opt.vanish) || opt.slow + opt.vanish >= 1)
        return "--fork, --cancel, --resend, --slow and --vanish are shares, 0 to 1 (--slow and "
               "--vanish together less)";
    if (opt.dry_run && (opt.fork > 0 || opt.resend > 0 || opt.run.faults || opt.run.baseline))
        return "--dry-run leaves nothing to --fork, --resend, --faults and --baseline";
    if ((opt.rate > 0) + (opt.run.find_rate_s > 0) + (opt.think != NULL) > 1)
        return "one of --rate, --find-rate and --think-ms";
    if (opt.run.find_rate_s < 0 || opt.run.find_rate_s > 3600 ||
        (opt.run.find_rate_s > 0 && is_of_no_trial()))
        return "--find-rate is 0 to 3600 seconds, without --turns, --warmup, --seconds, --prefix, "
               "--csv, --metrics, --pid, --store, --limit-*, --faults, --baseline, --dry-run and "
               "--keep";
    if (strcmp(opt.arrivals, "poisson") != 0 && strcmp(opt.arrivals, "even") != 0)
        return "--arrivals is poisson or even";
    if (l->first_token_ms < 0 || l->turn_ms < 0 || l->token_ms < 0 || l->memory_ms < 0)
        return "limits are not negative";
    if (!opt.run.faults != !opt.run.server || (opt.run.faults && opt.run.pid))
        return "--faults PLAN goes with --server COMMAND, and without --pid";
    if (opt.run.baseline && strcmp(opt.run.baseline, "history") != 0)
        return "--baseline knows history";
    if (!opt.query[0] || strlen(opt.query) >= PLAN_QUERY_MAX)
        return "--query has 1 to 8191 bytes";
    return NULL;
}

/* ---- as a plan ---------------------------------------------------------------------------- */

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
    opt.run.even = strcmp(opt.arrivals, "even") == 0;
    opt.run.half_rate = !opt.think && opt.rate == 0;
    if (!opt.think)
        plan_set_rate(p, opt.rate > 0 ? opt.rate : 1, opt.run.even);
    return true;
}

/* ------------------------------------------------------------------------------------------- */

int load_options_parse(struct load_options *o, struct load_plan *p, int argc, char **argv)
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
    int code = command_line_parse(&line, argc, argv);
    if (code >= 0)
        return code == EXIT_USAGE ? LOAD_ERRORS_CAME : code;
    opt.turns_said = opt.turns != UNSAID;
    if (!opt.turns_said)
        opt.turns = 100;
    opt.warmup_said = opt.run.warmup != UNSAID;
    if (!opt.warmup_said)
        opt.run.warmup = 1;
    const char *wrong = contradiction();
    if (wrong) {
        (void)fprintf(stderr, "rxt: %s\nusage: %s\n", wrong, line.usage);
        return LOAD_ERRORS_CAME;
    }
    if (!take_plan(p))
        return LOAD_ERRORS_CAME;
    *o = opt.run;
    return -1;
}
