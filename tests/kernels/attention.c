#include "tests/kernels/attention.h"

bool way_open(struct setting *s, int i)
{
    static const char *const isa[] = {"scalar", "avx2", "avx512"};
    if (!setting_open(s, isa[i / 2], 1 + i % 2))
        return false;
    lane_destroy(&s->ln);
    const struct lane_limits limits = {
        .max_rows = 1024, .max_seq = 64, .max_keys = MAX_POS, .max_width = 1024};
    assert_ok(lane_create(&s->ln, s->be, LANE_ANSWER, &limits));
    return true;
}

float *angles_of(int dim)
{
    float *a = malloc(MAX_POS * (size_t)(dim / 2) * sizeof *a);
    assert_non_null(a);
    for (int p = 0; p < MAX_POS; p++)
        for (int i = 0; i < dim / 2; i++)
            a[p * (dim / 2) + i] = (float)p * (1.0f / (float)pow(10000, 2.0 * i / dim));
    return a;
}

struct weight *rope_of(struct backend *be, const float *angle, int dim)
{
    struct weight *w = NULL;
    assert_ok(weight_rope(&w, be, angle, MAX_POS, dim / 2));
    return w;
}

int small_number(uint64_t *state, int n)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return 1 + (int)((*state >> 33) % (uint64_t)n);
}

void assert_near_all(const float *got, const float *want, size_t n, double bound)
{
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        if (!(d <= worst))
            worst = d;
    }
    if (!(worst <= bound))
        fail_msg("%g from the reference, allowed %g", worst, bound);
}
