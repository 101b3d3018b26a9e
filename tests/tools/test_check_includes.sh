#!/bin/sh
# tools/check_includes: this tree is clean; a tree with one sin of each kind is reported line by line.
set -eu
tools/check_includes

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
want="$tree/want" got="$tree/got"
: >"$want"

# put FILE LINE...: writes a file of the tree.
put() {
    mkdir -p "$tree/$(dirname "$1")"
    file=$1
    shift
    printf '%s\n' "$@" >"$tree/$file"
}
# bad FILE WHAT RULE INCLUDE: a file whose only line breaks the rule.
bad() {
    put "$1" "$4"
    echo "$1:1: $2: $3" >>"$want"
}

# What is allowed.
put kernels/base/mem.h '#include <stddef.h>'
put kernels/base/mem.c '#define _DEFAULT_SOURCE' '#include "kernels/base/mem.h"' '#include <sys/mman.h>'
put kernels/backend.h '#include "kernels/base/mem.h"'
put kernels/cpu/pool_impl.h '#include "kernels/backend.h"'
put kernels/cpu/pool.c '#include "kernels/cpu/pool_impl.h"' '#include <immintrin.h>'
put kernels/cuda/common.cuh '#include <cuda_runtime.h>'
put kernels/cuda/gate.cu '#include "kernels/cuda/common.cuh"'
put tools/bench/cuda/hop.cu '#include <cuda_runtime.h>' '#include <vector>'
put stm/stm.h '#include "kernels/backend.h"'
put rxt/rxt.h '#include "stm/stm.h"'
put store/store.h '#include "kernels/base/mem.h"'
put store/sqlite/open.c '  #  include <sqlite3.h>'
put bridge/bridge.h '#include "rxt/rxt.h"' '#include "store/store.h"'
put bridge/wire.c '#include <zmq.h>'
put bridge/client.h '#include <stdint.h>'
put tools/rxt/args.h '#include "bridge/bridge.h"'
put tools/rxt/chat.c '#include "tools/rxt/args.h"' '#include "bridge/client.h"'
put tests/lib/test.h '#include <cmocka.h>'
put tests/kernels/test_pool.c '#include "kernels/cpu/pool_impl.h"' '#include "tests/lib/test.h"'
put tests/fuzz/fuzz_pool.c '#include "kernels/cpu/pool_impl.h"'
tools/check_includes "$tree"

# What is not: each a file of one line, in the order of the rules.
bad kernels/base/up.c kernels/backend.h 'base may not open kernels' '#include "kernels/backend.h"'
bad kernels/base/hash.c '<xxhash.h>' 'only for rxt/ stm/ store/ bridge/ tools/ tests/' \
    '#include <xxhash.h>'
bad kernels/up.c stm/stm.h 'kernels may not open stm' '#include "stm/stm.h"'
bad stm/up.c rxt/rxt.h 'stm may not open rxt' '#include "rxt/rxt.h"'
bad rxt/up.c store/store.h 'rxt may not open store' '#include "store/store.h"'
bad store/side.c kernels/backend.h 'store may not open kernels' '#include "kernels/backend.h"'
bad store/up.c bridge/bridge.h 'store may not open bridge' '#include "bridge/bridge.h"'
private='a private header is for its own room and the tests of it'
bad bridge/peek.c kernels/cpu/pool_impl.h "$private" '#include "kernels/cpu/pool_impl.h"'
bad stm/peek.c kernels/cuda/common.cuh "$private" '#include "kernels/cuda/common.cuh"'
bad tools/peek.c kernels/cpu/pool_impl.h "$private" '#include "kernels/cpu/pool_impl.h"'
bad tests/stm/test_peek.c kernels/cpu/pool_impl.h "$private" '#include "kernels/cpu/pool_impl.h"'
bad rxt/tests.c tests/lib/test.h 'tests/ is not for other rooms' '#include "tests/lib/test.h"'
bad rxt/tools.c tools/rxt/args.h 'tools/ is not for other rooms' '#include "tools/rxt/args.h"'
bad rxt/db.c '<sqlite3.h>' 'only for store/ tests/store/ tests/fault/' '#include <sqlite3.h>'
bad bridge/turn.c '<zmq.h>' 'only for bridge/front bridge/wire bridge/client tests/bridge/' \
    '#include <zmq.h>'
bad kernels/cpu/device.c '<cuda_runtime.h>' 'only for kernels/cuda/ tools/bench/cuda/' \
    '#include <cuda_runtime.h>'
bad rxt/lib.c '<openssl/sha.h>' 'a library unknown to the table in tools/check_includes' \
    '#include <openssl/sha.h>'
bad stm/near.c stm.h 'no such file; name it by its path from the root' '#include "stm.h"'
bad stm/macro.c include 'names no file' '#include STM_HEADER'
bad rxt/token.h rxt/token.h 'a header that is no door is named *_impl.h' ''
put tools/own.h ''
put tools/own.c '#include <stdio.h>' '#include "tools/own.h"'
echo 'tools/own.c:1: stdio.h: a source includes its own header first' >>"$want"

if tools/check_includes "$tree" >"$got"; then
    echo "the bad tree passed"
    exit 1
fi
sort -o "$want" "$want"
sort -o "$got" "$got"
diff -u "$want" "$got"
