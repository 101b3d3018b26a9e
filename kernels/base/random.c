#include "kernels/base/random.h"

#include <assert.h>
#include <math.h>
#include <string.h>

static uint32_t mul_hi(uint32_t a, uint32_t b)
{
    return (uint32_t)(((uint64_t)a * b) >> 32);
}

struct random_block random_philox(uint64_t key, const uint32_t counter[4])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint32_t h0 = mul_hi(0xD2511F53u, c0), l0 = 0xD2511F53u * c0;
        uint32_t h1 = mul_hi(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
        c0 = h1 ^ c1 ^ k0;
        c1 = l1;
        c2 = h0 ^ c3 ^ k1;
        c3 = l0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (struct random_block){{c0, c1, c2, c3}};
}

struct random_block random_at(uint64_t seed, enum random_purpose purpose, uint64_t turn,
                              uint64_t index)
{
    assert(index < (uint64_t)1 << 48);
    const uint32_t counter[4] = {
        (uint32_t)index,
        (uint32_t)(index >> 32) | ((uint32_t)purpose << 16),
        (uint32_t)turn,
        (uint32_t)(turn >> 32),
    };
    return random_philox(seed, counter);
}

double random_uniform(uint32_t hi, uint32_t lo)
{
    uint64_t k = (((uint64_t)hi << 32) | lo) >> 11;
    return ((double)k + 0.5) * 0x1p-53;
}

/* Natural logarithm of a normal positive double: x = m 2^e with m in [sqrt 1/2, sqrt 2), then
 * log m = 2 atanh(s), s = (m-1)/(m+1), |s| < 0.172, odd series to s^21 (next term 2e-18). */
static double exact_log(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    int e = (int)(u >> 52) - 1023;
    u = (u & 0x000FFFFFFFFFFFFFu) | 0x3FF0000000000000u;
    double m;
    memcpy(&m, &u, sizeof m);
    if (m > 0x1.6a09e667f3bcdp0) {
        m *= 0.5;
        e++;
    }
    double s = (m - 1.0) / (m + 1.0), s2 = s * s;
    double p = 1.0 / 21.0;
    for (int k = 19; k >= 1; k -= 2)
        p = fma(p, s2, 1.0 / k);
    return fma((double)e, 0x1.62e42fefa39efp-1, 2.0 * s * p);
}

static double horner(const double *c, int n, double x)
{
    double p = c[n - 1];
    for (int i = n - 2; i >= 0; i--)
        p = fma(p, x, c[i]);
    return p;
}

double random_normal(double u)
{
    static const double a[] = {3.3871328727963666080e0,  1.3314166789178437745e+2,
                               1.9715909503065514427e+3, 1.3731693765509461125e+4,
                               4.5921953931549871457e+4, 6.7265770927008700853e+4,
                               3.3430575583588128105e+4, 2.5090809287301226727e+3};
    static const double b[] = {1.0,
                               4.2313330701600911252e+1,
                               6.8718700749205790830e+2,
                               5.3941960214247511077e+3,
                               2.1213794301586595867e+4,
                               3.9307895800092710610e+4,
                               2.8729085735721942674e+4,
                               5.2264952788528545610e+3};
    static const double c[] = {1.42343711074968357734e0,  4.63033784615654529590e0,
                               5.76949722146069140550e0,  3.64784832476320460504e0,
                               1.27045825245236838258e0,  2.41780725177450611770e-1,
                               2.27238449892691845833e-2, 7.74545014278341407640e-4};
    static const double d[] = {1.0,
                               2.05319162663775882187e0,
                               1.67638483018380384940e0,
                               6.89767334985100004550e-1,
                               1.48103976427480074590e-1,
                               1.51986665636164571966e-2,
                               5.47593808499534494600e-4,
                               1.05075007164441684324e-9};
    static const double e[] = {6.65790464350110377720e0,  5.46378491116411436990e0,
                               1.78482653991729133580e0,  2.96560571828504891230e-1,
                               2.65321895265761230930e-2, 1.24266094738807843860e-3,
                               2.71155556874348757815e-5, 2.01033439929228813265e-7};
    static const double f[] = {1.0,
                               5.99832206555887937690e-1,
                               1.36929880922735805310e-1,
                               1.48753612908506148525e-2,
                               7.86869131145613259100e-4,
                               1.84631831751005468180e-5,
                               1.42151175831644588870e-7,
                               2.04426310338993978564e-15};
    double q = u - 0.5;
    if (fabs(q) <= 0.425) {
        double r = 0.180625 - q * q;
        return q * horner(a, 8, r) / horner(b, 8, r);
    }
    double r = sqrt(-exact_log(q < 0.0 ? u : 1.0 - u));
    double x = r <= 5.0 ? horner(c, 8, r - 1.6) / horner(d, 8, r - 1.6)
                        : horner(e, 8, r - 5.0) / horner(f, 8, r - 5.0);
    return q < 0.0 ? -x : x;
}

void random_normal_fill(float *out, uint64_t n, uint64_t seed, enum random_purpose purpose,
                        uint64_t turn, uint64_t first)
{
    struct random_block block = {{0}};
    for (uint64_t i = 0; i < n; i++) {
        uint64_t index = first + i;
        unsigned half = (unsigned)(index & 1u) * 2u;
        if (i == 0 || half == 0)
            block = random_at(seed, purpose, turn, index / 2);
        out[i] = (float)random_normal(random_uniform(block.v[half], block.v[half + 1]));
    }
}
