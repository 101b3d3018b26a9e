#include "tests/rxt/beta.h"

#include "tests/lib/test.h"
#include "tests/ref/model_random.h"

#include <jansson.h>

static const char *const names[] = {"[PAD]", "[BOS]", "[EOS]", "[Q]", "[A]",
                                    "[T]",   "[C]",   "[U]",   "[I]", "[UNK]"};

/* The character of the byte alphabet that stands for byte b, as UTF-8. Spec 4, step 4. */
static void byte_character(int b, char out[3])
{
    int code = b, rank = 0;
    for (int i = 0; i <= b; i++) {
        bool own = (i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174;
        if (i == b && !own)
            code = 256 + rank;
        rank += !own;
    }
    snprintf(out, 3, code < 128 ? "%c" : "%c%c", code < 128 ? code : 0xC0 | code >> 6,
             0x80 | (code & 0x3F));
}

static void write_tokenizer(const char *dir, bool prefix_space)
{
    json_t *added = json_array(), *vocab = json_object();
    assert_true(added && vocab);
    for (int i = 0; i < BETA_BYTE; i++) {
        json_t *one =
            json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", i, "content", names[i],
                      "single_word", 0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", 1);
        assert_int_equal(json_array_append_new(added, one), 0);
        assert_int_equal(json_object_set_new(vocab, names[i], json_integer(i)), 0);
    }
    for (int b = 0; b < 256; b++) {
        char text[3];
        byte_character(b, text);
        assert_int_equal(json_object_set_new(vocab, text, json_integer(BETA_BYTE + b)), 0);
    }
    json_t *root =
        json_pack("{s:s, s:o, s:n, s:{s:s, s:b, s:b, s:b}, s:n, s:n, s:{s:s, s:n, s:s, s:o, s:[]}}",
                  "version", "1.0", "added_tokens", added, "normalizer", "pre_tokenizer", "type",
                  "ByteLevel", "add_prefix_space", prefix_space, "trim_offsets", 1, "use_regex", 1,
                  "post_processor", "decoder", "model", "type", "BPE", "dropout", "unk_token",
                  "[UNK]", "vocab", vocab, "merges");
    assert_non_null(root);
    char path[512];
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    assert_int_equal(json_dump_file(root, path, 0), 0);
    json_decref(root);
}

void beta_write(const char *dir, uint64_t seed, bool prefix_space, int max_seq_len)
{
    char patch[600];
    snprintf(patch, sizeof patch,
             "{\"decoder_config\":{\"vocab_size\":%d},\"encoder_config\":{\"vocab_size\":%d},"
             "\"max_seq_len\":%d,\"stm_init\":\"noise\",\"tokenizer_config\":{"
             "\"pad_token_id\":%d,\"bos_token_id\":%d,\"eos_token_id\":%d,\"query_token_id\":%d,"
             "\"answer_token_id\":%d,\"think_token_id\":%d,\"tool_call_token_id\":%d,"
             "\"tool_use_token_id\":%d,\"internal_token_id\":%d}}",
             BETA_VOCAB, BETA_VOCAB, max_seq_len ? max_seq_len : 64, BETA_PAD, BETA_BOS, BETA_EOS,
             BETA_Q, BETA_A, BETA_T, BETA_C, BETA_U, BETA_I);
    random_model_write(dir, &(struct random_model){.patch = patch, .seed = seed});
    write_tokenizer(dir, prefix_space);
}

int beta_bytes(int32_t *ids, int n, const char *text)
{
    for (; *text; text++)
        ids[n++] = BETA_BYTE + (unsigned char)*text;
    return n;
}
