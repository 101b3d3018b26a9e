/* The server with its threads and sockets: a client on libzmq alone talks to it over loopback. */
#include "bridge/server.h"
#include "bridge/wire_impl.h"
#include "tests/lib/test.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <zmq.h>

struct served {
    struct rxt_model *model;
    struct server *server;
    pthread_t engine;
    char *dir;
    char store[256], admin[300], clients[300];
    void *context;
};

static struct served served;

static void *run_engine(void *arg)
{
    server_run(((struct served *)arg)->server);
    return NULL;
}

static void prepare(struct served *s)
{
    *s = (struct served){.model = s->model, .context = zmq_ctx_new(), .dir = test_dir_make()};
    (void)snprintf(s->store, sizeof s->store, "%s/store.db", s->dir);
    (void)snprintf(s->admin, sizeof s->admin, "ipc://%s/admin", s->dir);
    (void)snprintf(s->clients, sizeof s->clients, "%s/clients", s->dir);
}

static void start(struct served *s, struct server_config cfg)
{
    struct rxt_error err = {""};
    const struct bridge_config bridge = {.store_path = s->store, .sync = STORE_SYNC_NORMAL};
    cfg.turn = cfg.state = "tcp://127.0.0.1:*";
    cfg.admin = s->admin;
    enum rxt_status st = server_open(&s->server, s->model, &bridge, &cfg, &err);
    if (st != RXT_OK)
        fail_msg("%s", err.text);
    assert_int_equal(pthread_create(&s->engine, NULL, run_engine, s), 0);
}

static void stop(struct served *s)
{
    server_drain(s->server);
    assert_int_equal(pthread_join(s->engine, NULL), 0);
    server_close(&s->server);
    assert_null(s->server);
}

static int finish(void **state)
{
    struct served *s = &served;
    (void)state;
    assert_int_equal(zmq_ctx_term(s->context), 0);
    test_dir_remove(s->dir);
    return 0;
}

/* ---- a client ---------------------------------------------------------------------------- */

struct got {
    struct wire_header h;
    struct wire_body b;
    uint8_t body[4096];
    size_t raw_bytes;
};

struct keys {
    char public_key[SERVER_KEY_TEXT + 1], secret_key[SERVER_KEY_TEXT + 1];
};

static void *dealer(const char *endpoint, const struct keys *own, const struct keys *servers)
{
    const int linger = 0, patience = 20000;
    void *s = zmq_socket(served.context, ZMQ_DEALER);
    assert_non_null(s);
    assert_int_equal(zmq_setsockopt(s, ZMQ_LINGER, &linger, sizeof linger), 0);
    assert_int_equal(zmq_setsockopt(s, ZMQ_RCVTIMEO, &patience, sizeof patience), 0);
    if (own) {
        const char *server_key = servers->public_key;
        size_t n = SERVER_KEY_TEXT + 1;
        assert_int_equal(zmq_setsockopt(s, ZMQ_CURVE_SERVERKEY, server_key, n), 0);
        assert_int_equal(zmq_setsockopt(s, ZMQ_CURVE_PUBLICKEY, own->public_key, n), 0);
        assert_int_equal(zmq_setsockopt(s, ZMQ_CURVE_SECRETKEY, own->secret_key, n), 0);
    }
    assert_int_equal(zmq_connect(s, endpoint), 0);
    return s;
}

static void send_message(void *socket, uint8_t type, uint8_t id, const struct wire_body *b)
{
    uint8_t header[WIRE_HEADER_BYTES], body[4096];
    size_t n = 0;
    assert_ok(wire_encode(type, b, body, sizeof body, &n));
    struct wire_header h = {.version = WIRE_VERSION, .type = type, .body_bytes = (uint32_t)n};
    memset(h.id, id, sizeof h.id);
    wire_header_put(&h, header);
    assert_int_equal(zmq_send(socket, header, sizeof header, ZMQ_SNDMORE), sizeof header);
    assert_int_equal(zmq_send(socket, body, n, 0), n);
}

/* The next message; false: none came in time. */
static bool receive(void *socket, struct got *g)
{
    uint8_t header[WIRE_HEADER_BYTES];
    struct wire_fault fault;
    static uint8_t raw[WIRE_CHUNK_BYTES];
    int more = 0;
    size_t size = sizeof more;
    *g = (struct got){0};
    if (zmq_recv(socket, header, sizeof header, 0) != sizeof header)
        return false;
    assert_true(wire_header_get(header, sizeof header, &g->h));
    int n = zmq_recv(socket, g->body, sizeof g->body, 0);
    assert_int_equal(n, g->h.body_bytes);
    assert_int_equal(wire_decode(g->h.type, g->body, (size_t)n, &g->b, &fault), WIRE_OK);
    assert_int_equal(zmq_getsockopt(socket, ZMQ_RCVMORE, &more, &size), 0);
    if (more)
        g->raw_bytes = (size_t)zmq_recv(socket, raw, sizeof raw, 0);
    return true;
}

/* PINGs of the server need no answer. */
static void expect(void *socket, uint8_t type, struct got *g)
{
    if (!receive(socket, g))
        fail_msg("no %s came", wire_type_name(type));
    if (g->h.type != type)
        fail_msg("%s came, not %s: %.*s", wire_type_name(g->h.type), wire_type_name(type),
                 (int)g->b.detail.n, g->b.detail.p ? g->b.detail.p : "");
}

static void hello(void *socket, struct got *g)
{
    const int32_t versions[] = {WIRE_VERSION};
    struct wire_body b = {0};
    wire_init(WIRE_HELLO, &b);
    b.versions = (struct wire_ids){.v = versions, .n = 1};
    send_message(socket, WIRE_HELLO, 0, &b);
    expect(socket, WIRE_WELCOME, g);
}

static void of_session(void *socket, uint8_t type, uint8_t id, const char *session)
{
    struct wire_body b = {0};
    wire_init(type, &b);
    b.session = wire_string(session);
    b.query = type == WIRE_TURN ? wire_string("Hello, who are you?") : (struct wire_text){0};
    b.max_tokens = type == WIRE_TURN ? 12 : 0;
    send_message(socket, type, id, &b);
}

/* A whole turn: gives the answer's text, its tokens and the hash of the memory it made. */
static void turn(void *socket, uint8_t id, const char *session, char text[1024], uint8_t hash[16])
{
    struct got g;
    uint32_t n = 0;
    text[0] = '\0';
    of_session(socket, WIRE_TURN, id, session);
    assert_true(receive(socket, &g));
    if (g.h.type == WIRE_ACCEPTED) /* not if it is stored */
        assert_true(receive(socket, &g));
    for (; g.h.type == WIRE_TOKEN; assert_true(receive(socket, &g))) {
        assert_int_equal(g.h.sequence, n);
        n += g.b.ids.n;
        strncat(text, g.b.text.p, g.b.text.n);
    }
    if (g.h.type != WIRE_DONE)
        fail_msg("%s: %.*s", wire_type_name(g.h.type), (int)g.b.detail.n, g.b.detail.p);
    assert_int_equal(g.b.n_answer, n);
    if (g.h.flags & WIRE_FINAL)
        return;
    expect(socket, WIRE_MEMORY, &g);
    assert_int_equal(g.h.flags, WIRE_FINAL);
    memcpy(hash, g.b.stm_hash.p, 16);
}

/* ---- tests ------------------------------------------------------------------------------- */

static void test_turns(void **state)
{
    (void)state;
    struct got g;
    char text[1024], again[1024], stored[1024];
    uint8_t hash[16] = {0}, twin[16] = {0}, none[16] = {0};
    prepare(&served);
    start(&served, (struct server_config){0});
    void *c = dealer(server_turn_endpoint(served.server), NULL, NULL);
    hello(c, &g);
    assert_memory_equal(g.b.tenant.p, "default", 7);
    assert_int_equal(g.b.max_seq_len, rxt_model_info(served.model)->max_seq_len);
    of_session(c, WIRE_TURN, 9, "nobody");
    expect(c, WIRE_ERROR, &g);
    assert_int_equal(g.b.code, WIRE_E_NO_SESSION);
    struct wire_body b = {0};
    for (uint8_t i = 1; i < 3; i++) {
        wire_init(WIRE_OPEN, &b);
        b.session = wire_string(i == 1 ? "anna" : "bert");
        b.seed = 7;
        send_message(c, WIRE_OPEN, i, &b);
        expect(c, WIRE_DONE, &g);
        assert_int_equal(g.h.flags, WIRE_FINAL);
    }
    turn(c, 3, "anna", text, hash);
    assert_true(strlen(text) > 0);
    turn(c, 3, "anna", again, hash); /* kept by the front */
    assert_string_equal(text, again);
    turn(c, 4, "bert", again, twin);
    assert_string_equal(text, again);
    assert_memory_equal(hash, twin, 16);
    assert_int_equal(zmq_close(c), 0);
    stop(&served);

    /* Another process life: the same request is answered out of the journal. */
    start(&served, (struct server_config){0});
    c = dealer(server_turn_endpoint(served.server), NULL, NULL);
    hello(c, &g);
    turn(c, 3, "anna", stored, none);
    assert_string_equal(text, stored);
    of_session(c, WIRE_GET, 5, "anna");
    expect(c, WIRE_DONE, &g);
    assert_memory_equal(g.b.info.stm_hash.p, hash, 16);
    assert_int_equal(g.b.info.version, 1);
    assert_int_equal(zmq_close(c), 0);
    stop(&served);
}

static void test_export(void **state)
{
    (void)state;
    struct got g;
    char text[1024];
    uint8_t hash[16];
    prepare(&served);
    start(&served, (struct server_config){0});
    void *c = dealer(server_turn_endpoint(served.server), NULL, NULL),
         *s = dealer(server_state_endpoint(served.server), NULL, NULL);
    hello(c, &g);
    hello(s, &g);
    of_session(c, WIRE_OPEN, 1, "anna");
    expect(c, WIRE_DONE, &g);
    turn(c, 2, "anna", text, hash);
    of_session(s, WIRE_EXPORT, 3, "anna");
    size_t all = 0;
    for (expect(s, WIRE_CHUNK, &g); g.h.type == WIRE_CHUNK; assert_true(receive(s, &g)))
        all += g.raw_bytes;
    assert_int_equal(g.h.type, WIRE_DONE);
    assert_int_equal(g.b.bytes, all);
    of_session(s, WIRE_EXPORT, 4, "nobody");
    expect(s, WIRE_ERROR, &g);
    assert_int_equal(g.b.code, WIRE_E_NO_SESSION);
    assert_int_equal(zmq_close(c) + zmq_close(s), 0);
    stop(&served);
}

/* ---- a disk that holds up ----------------------------------------------------------------- */

struct late_reader {
    uint16_t port; /* of the front */
    char fifo[300];
};

static bool is_open(uint16_t port)
{
    const struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    bool is = connect(fd, (const struct sockaddr *)&a, sizeof a) == 0;
    assert_int_equal(close(fd), 0);
    return is;
}

/* Lets the write go on when the front's sockets are gone. */
static void *read_late(void *arg)
{
    const struct late_reader *r = arg;
    while (is_open(r->port))
        (void)nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    /* the later, the surer it finds out what is freed too early */
    (void)nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    int fd = open(r->fifo, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(close(fd), 0);
    return NULL;
}

/* The file of an import is a pipe that nobody reads: its first write is out when the server ends.
 */
static void test_close_with_a_write_out(void **state)
{
    struct served *s = &served;
    struct late_reader late;
    struct got g;
    struct wire_body b = {0};
    pthread_t reader;
    (void)state;
    prepare(s);
    start(s, (struct server_config){0});
    late.port = (uint16_t)strtoul(strrchr(server_state_endpoint(s->server), ':') + 1, NULL, 10);
    (void)snprintf(late.fifo, sizeof late.fifo, "%.250s.spool/1", s->store);
    assert_int_equal(mkfifo(late.fifo, 0600), 0);
    void *d = dealer(server_state_endpoint(s->server), NULL, NULL);
    hello(d, &g);
    wire_init(WIRE_IMPORT, &b);
    b.session = wire_string("late");
    b.bytes = 9;
    send_message(d, WIRE_IMPORT, 1, &b);
    expect(d, WIRE_ACCEPTED, &g);
    uint8_t header[WIRE_HEADER_BYTES];
    struct wire_header h = {.version = WIRE_VERSION, .type = WIRE_CHUNK, .body_bytes = 1};
    memset(h.id, 1, sizeof h.id);
    wire_header_put(&h, header);
    assert_int_equal(zmq_send(d, header, sizeof header, ZMQ_SNDMORE), sizeof header);
    assert_int_equal(zmq_send(d, "\x80", 1, ZMQ_SNDMORE), 1);
    assert_int_equal(zmq_send(d, "not whole", 9, 0), 9);
    hello(d, &g); /* what came before it was taken */
    assert_int_equal(pthread_create(&reader, NULL, read_late, &late), 0);
    stop(s);
    assert_int_equal(pthread_join(reader, NULL), 0);
    assert_int_not_equal(access(late.fifo, F_OK), 0); /* the last order, to drop it, was done too */
    assert_int_equal(zmq_close(d), 0);
}

/* ---- limits ------------------------------------------------------------------------------- */

static bool on_reload(void *arg, struct server_config *out, struct bridge_limits *tenant)
{
    *out = (struct server_config){.max_inflight = 7};
    *tenant = (struct bridge_limits){.max_bytes = *(const _Atomic size_t *)arg};
    return true;
}

/* All limits of a reload are taken, or none. */
static void test_reload(void **state)
{
    struct served *s = &served;
    _Atomic size_t max_bytes = 1; /* not even one turn has room */
    struct got g;
    struct wire_body b = {0};
    (void)state;
    prepare(s);
    start(s, (struct server_config){.reload = on_reload, .reload_arg = &max_bytes});
    void *admin = dealer(s->admin, NULL, NULL);
    hello(admin, &g);
    for (int good = 0; good < 2; good++) {
        max_bytes = good ? 0 : 1;
        wire_init(WIRE_RELOAD, &b);
        send_message(admin, WIRE_RELOAD, 1, &b);
        expect(admin, WIRE_DONE, &g);
        void *d = dealer(server_turn_endpoint(s->server), NULL, NULL);
        hello(d, &g);
        assert_int_equal(g.b.max_inflight, good ? 7 : 4096);
        assert_int_equal(zmq_close(d), 0);
    }
    assert_int_equal(zmq_close(admin), 0);
    stop(s);
}

static void write_clients(const struct keys *a, const char *tenant_a, const struct keys *b,
                          const char *tenant_b)
{
    FILE *f = fopen(served.clients, "w");
    assert_non_null(f);
    (void)fprintf(f, "; who may connect\n%s %s\n", a->public_key, tenant_a);
    if (b)
        (void)fprintf(f, "  %s\t%s ; the other\n", b->public_key, tenant_b);
    assert_int_equal(fclose(f), 0);
}

static void test_tenants(void **state)
{
    (void)state;
    const int hasty = 300;
    struct got g;
    struct keys key[4];
    struct rxt_error err;
    prepare(&served);
    for (int i = 0; i < 4; i++)
        assert_ok(server_keygen(key[i].public_key, key[i].secret_key, &err));
    write_clients(&key[1], "acme", &key[2], "globex");
    start(&served,
          (struct server_config){.secret_key = key[0].secret_key, .clients = served.clients});
    void *acme = dealer(server_turn_endpoint(served.server), &key[1], &key[0]),
         *globex = dealer(server_turn_endpoint(served.server), &key[2], &key[0]);
    hello(acme, &g);
    assert_memory_equal(g.b.tenant.p, "acme", 4);
    of_session(acme, WIRE_OPEN, 1, "anna");
    expect(acme, WIRE_DONE, &g);
    hello(globex, &g);
    assert_memory_equal(g.b.tenant.p, "globex", 6);
    of_session(globex, WIRE_GET, 1, "anna");
    expect(globex, WIRE_ERROR, &g);
    assert_int_equal(g.b.code, WIRE_E_NO_SESSION);

    /* A key that nobody listed, and no key at all: the handshake fails, nothing is answered. */
    void *stranger = dealer(server_turn_endpoint(served.server), &key[3], &key[0]),
         *plain = dealer(server_turn_endpoint(served.server), NULL, NULL);
    of_session(stranger, WIRE_GET, 1, "anna");
    of_session(plain, WIRE_GET, 1, "anna");
    assert_int_equal(zmq_setsockopt(stranger, ZMQ_RCVTIMEO, &hasty, sizeof hasty), 0);
    assert_int_equal(zmq_setsockopt(plain, ZMQ_RCVTIMEO, &hasty, sizeof hasty), 0);
    assert_false(receive(stranger, &g));
    assert_false(receive(plain, &g));

    /* The admin endpoint is local and needs no key. */
    void *admin = dealer(served.admin, NULL, NULL);
    struct wire_body b = {0};
    hello(admin, &g);
    wire_init(WIRE_HEALTH, &b);
    send_message(admin, WIRE_HEALTH, 1, &b);
    expect(admin, WIRE_DONE, &g);
    assert_int_equal(g.b.ready, 1);
    void *all[] = {acme, globex, stranger, plain, admin};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        assert_int_equal(zmq_close(all[i]), 0);
    stop(&served);
}

static void check(struct server_config c, const char *names)
{
    struct rxt_error err = {""};
    enum rxt_status st = server_check(&c, &err);
    if (!names) {
        assert_ok(st);
        return;
    }
    assert_int_not_equal(st, RXT_OK);
    if (!strstr(err.text, names))
        fail_msg("\"%s\" does not say %s", err.text, names);
}

static void test_check(void **state)
{
    (void)state;
    struct keys a, b;
    struct rxt_error err;
    served =
        (struct served){.model = served.model, .context = zmq_ctx_new(), .dir = test_dir_make()};
    (void)snprintf(served.clients, sizeof served.clients, "%s/clients", served.dir);
    assert_ok(server_keygen(a.public_key, a.secret_key, &err));
    assert_ok(server_keygen(b.public_key, b.secret_key, &err));
    check((struct server_config){0}, NULL);
    check((struct server_config){.turn = "tcp://127.0.0.1:1", .state = "tcp://[::1]:2"}, NULL);
    check((struct server_config){.turn = "ipc:///tmp/x", .admin = "ipc:///tmp/y"}, NULL);
    check((struct server_config){.turn = "tcp://0.0.0.0:1"}, "not loopback");
    check((struct server_config){.turn = "tcp://*:1"}, "not loopback");
    check((struct server_config){.state = "tcp://10.0.0.1:1"}, "state = ");
    check((struct server_config){.turn = "127.0.0.1:1"}, "tcp://HOST:PORT");
    check((struct server_config){.admin = "tcp://127.0.0.1:1"}, "only ipc");
    check((struct server_config){.metrics = "0.0.0.0:1"}, "metrics");
    check((struct server_config){.clients = served.clients}, "secret_key");
    check((struct server_config){.secret_key = a.secret_key}, "clients");
    check((struct server_config){.secret_key = "short", .clients = served.clients}, "secret_key");
    const struct server_config curve = {
        .turn = "tcp://*:1", .secret_key = a.secret_key, .clients = served.clients};
    check(curve, served.clients); /* no such file */
    write_clients(&a, "acme", &b, "globex");
    check(curve, NULL);
    write_clients(&a, "acme", &a, "globex");
    check(curve, "line 3: this key was there before");
    write_clients(&a, "", NULL, NULL);
    check(curve, "line 2: write PUBLIC-KEY TENANT");
    write_clients(&a, "two words", NULL, NULL);
    check(curve, "line 2: write PUBLIC-KEY TENANT");
    b.public_key[5] = '"'; /* not of Z85 */
    write_clients(&a, "acme", &b, "globex");
    check(curve, "line 3: not a public key");
}

static int open_model(void **state)
{
    const struct rxt_model_options one = {.n_thread = 1};
    (void)state;
    assert_ok(rxt_model_open(&served.model, "models/demo-15m", &one, NULL));
    return 0;
}

static int close_model(void **state)
{
    (void)state;
    rxt_model_close(&served.model);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_turns, finish),
        cmocka_unit_test_teardown(test_export, finish),
        cmocka_unit_test_teardown(test_close_with_a_write_out, finish),
        cmocka_unit_test_teardown(test_reload, finish),
        cmocka_unit_test_teardown(test_tenants, finish),
        cmocka_unit_test_teardown(test_check, finish),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
