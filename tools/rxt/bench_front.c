/* rxt bench --front: what the server's front can carry, without a model behind it. */
#include "tools/rxt/bench_front.h"

#include "tools/rxt/cli.h"

#include <stdio.h>

static enum rxt_status measure(bool curve, double rate, int32_t n_stream, double seconds,
                               struct server_bench_result *r, struct rxt_error *err)
{
    const struct server_bench cfg = {
        .seconds = seconds, .rate = rate, .curve = curve, .n_stream = n_stream};
    return server_bench_front(&cfg, r, err);
}

static void report(bool json, bool curve, const char *load, const struct server_bench_result *r)
{
    const char *kind = curve ? "curve" : "plain";
    if (json)
        print_json(json_pack("{ss ss sf sf sf sf}", "front", kind, "load", load, "messages_s",
                             r->messages_s, "tokens_s", r->tokens_s, "p50_us", r->p50_us, "p99_us",
                             r->p99_us));
    else
        printf("%-6s %-5s %10.0f token messages/s %10.0f tokens/s   added p50 %7.1f us  p99 %7.1f "
               "us\n",
               kind, load, r->messages_s, r->tokens_s, r->p50_us, r->p99_us);
}

enum rxt_status bench_front(bool json, double seconds, struct rxt_error *err)
{
    static const double asked[] = {100000, 30000}; /* token messages/s, plain and with CURVE */
    for (int curve = 0; curve < 2; curve++) {
        struct server_bench_result most, half;
        TRY(measure(curve, 0, 64, seconds, &most, err));
        report(json, curve, "most", &most);
        TRY(measure(curve, asked[curve] / 2, 16, seconds, &half, err));
        report(json, curve, "half", &half);
    }
    return RXT_OK;
}
