#include "kernels/cpu/rope_impl.h"

#include "kernels/base/mem.h"
#include "kernels/cpu/ops_impl.h"

#include <math.h>

/* 1/n! and its alternating sums: next terms below 5e-17 on |r| <= pi/4. */
static double sine(double r)
{
    static const double c[] = {-1.0 / 6,        1.0 / 120,        -1.0 / 5040,         1.0 / 362880,
                               -1.0 / 39916800, 1.0 / 6227020800, -1.0 / 1307674368000};
    double r2 = r * r, p = c[6];
    for (int i = 5; i >= 0; i--)
        p = fma(p, r2, c[i]);
    return fma(r * r2, p, r);
}

static double cosine(double r)
{
    static const double c[] = {
        -1.0 / 2,       1.0 / 24,        -1.0 / 720,         1.0 / 40320,
        -1.0 / 3628800, 1.0 / 479001600, -1.0 / 87178291200, 1.0 / 20922789888000};
    double r2 = r * r, p = c[7];
    for (int i = 6; i >= 0; i--)
        p = fma(p, r2, c[i]);
    return fma(r2, p, 1.0);
}

void rope_sincos(float angle, float *sin, float *cos)
{
    /* angle = q pi/2 + r; pi/2 in two parts, the first product exact inside the fma */
    double q = rint((double)angle * 0x1.45f306dc9c883p-1);
    double r = fma(-q, 0x1.921fb54442d18p0, (double)angle);
    r = fma(-q, 0x1.1a62633145c07p-54, r);
    double s = sine(r), c = cosine(r);
    switch ((int64_t)q & 3) {
    case 0:
        *sin = (float)s, *cos = (float)c;
        break;
    case 1:
        *sin = (float)c, *cos = (float)-s;
        break;
    case 2:
        *sin = (float)-s, *cos = (float)-c;
        break;
    default:
        *sin = (float)-c, *cos = (float)s;
    }
}

enum rxt_status cpu_weight_rope(struct weight **out, struct backend *be, const float *angle,
                                int32_t n_pos, int32_t half_dim)
{
    (void)be;
    size_t n = (size_t)n_pos * (size_t)half_dim;
    struct cpu_rope *w = mem_alloc(sizeof *w);
    float *tables = mem_alloc_n(n, 2 * sizeof *tables);
    if (!w || !tables) {
        mem_free(w);
        mem_free(tables);
        return RXT_ENOMEM;
    }
    w->cos = tables;
    w->sin = tables + n;
    for (size_t i = 0; i < n; i++)
        rope_sincos(angle[i], &w->sin[i], &w->cos[i]);
    w->base.bytes = sizeof *w + 2 * n * sizeof *tables;
    *out = &w->base;
    return RXT_OK;
}

void cpu_rope_destroy(struct weight *w)
{
    mem_free(((struct cpu_rope *)w)->cos);
    mem_free(w);
}

struct rotation rope_rotation(const struct weight *rope)
{
    const struct cpu_rope *w = (const struct cpu_rope *)rope;
    return w ? (struct rotation){w->cos, w->sin} : (struct rotation){NULL, NULL};
}
