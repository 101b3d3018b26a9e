#include "kernels/base/utf8.h"

#include "tests/lib/test.h"

/* Every code point there is goes out and comes back; surrogates do not come back. */
static void every_code_point(void **state)
{
    (void)state;
    for (int32_t cp = 0; cp <= 0x10FFFF; cp++) {
        char s[4];
        size_t n = utf8_put(cp, s), len = 0;
        assert_int_equal(n, cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4);
        struct utf8_step got = utf8_next(s, n);
        if (cp >= 0xD800 && cp < 0xE000) {
            assert_int_equal(got.cp, UTF8_BAD);
            assert_int_equal(utf8_valid(s, n), 0);
            continue;
        }
        assert_int_equal(got.cp, cp);
        assert_int_equal(got.len, n);
        assert_int_equal(utf8_read(s, &len), cp);
        assert_int_equal(len, n);
        for (size_t cut = 1; cut < n; cut++)
            assert_int_equal(utf8_next(s, cut).cp, UTF8_CUT);
    }
}

/* Maximal subparts: the examples of Unicode 15, tables 3-8 to 3-11, as lengths of the steps. */
static void bad_bytes(void **state)
{
    (void)state;
    const struct {
        const char *bytes;
        const char *lens; /* digits; capital B where the step is bad, C where it is cut */
    } table[] = {
        {"\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", "B1B1B1B1B1B1B1B1 1"},
        {"\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41", "B1B1B1B1B1B1B1B1 1"},
        {"\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42", "B1B1B1B1B1 1B1B1 1"},
        {"\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41", "B2B1B3B2 1"},
        {"\xF5\x80\xFE\xC2", "B1B1B1C1"},
        {"\xE2\x82", "C2"},
        {"\xF0\x9F\x98", "C3"},
    };
    for (size_t t = 0; t < sizeof table / sizeof *table; t++) {
        const char *s = table[t].bytes, *want = table[t].lens;
        size_t n = strlen(s);
        for (; n > 0; want += 2) {
            struct utf8_step got = utf8_next(s, n);
            assert_int_equal(want[0], got.cp == UTF8_BAD ? 'B' : got.cp == UTF8_CUT ? 'C' : ' ');
            assert_int_equal(want[1], '0' + got.len);
            s += got.len;
            n -= got.len;
        }
        assert_int_equal(*want, '\0');
    }
}

/* The first bad byte is found wherever it stands against the eight-byte stride. */
static void valid_up_to(void **state)
{
    (void)state;
    for (size_t at = 0; at < 40; at++) {
        char s[48];
        memset(s, 'a', sizeof s);
        assert_int_equal(utf8_valid(s, sizeof s), sizeof s);
        (void)utf8_put(0x20AC, s + at);
        assert_int_equal(utf8_valid(s, sizeof s), sizeof s);
        assert_int_equal(utf8_valid(s, at + 2), at);
        s[at + 2] = 'a';
        assert_int_equal(utf8_valid(s, sizeof s), at);
    }
    assert_int_equal(utf8_valid("", 0), 0);
    assert_int_equal(utf8_valid("\0\0", 2), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_point),
        cmocka_unit_test(bad_bytes),
        cmocka_unit_test(valid_up_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
