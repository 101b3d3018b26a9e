/* rxt load: is the latency of a live server constant, however long its sessions are? */
#include "tools/rxt/cli.h"
#include "tools/rxt/load/baseline.h"
#include "tools/rxt/load/capacity.h"
#include "tools/rxt/load/options.h"
#include "tools/rxt/load/soak.h"

#include "kernels/base/clock.h"
#include "kernels/base/thread.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct load_options opt;
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
                                                .even = opt.even,
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
    if (!opt.half_rate)
        return RXT_OK;
    TRY(drive_probe(d, &turn_us, err));
    plan_set_rate(&plan, 0.5e6 / turn_us, opt.even);
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
    struct rxt_error err = {0};
    int code = load_options_parse(&opt, &plan, argc, argv);
    if (code >= 0)
        return code;
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
