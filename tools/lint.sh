#!/usr/bin/env bash
# Format, static analysis and shell scripts of the whole tree; prints what is wrong and fails.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
failed=0

mapfile -t sources < <(find bridge kernels rxt stm store tests tools -name '*.[ch]' \
    -o -name '*.cu' -o -name '*.cuh' | sort)
clang-format --dry-run -Werror "${sources[@]}" || failed=1

mapfile -t scripts < <(find .ci tools tests -type f -name '*.sh' | sort)
shellcheck .ci/run tools/check_includes "${scripts[@]}" || failed=1

cmake --preset fuzz >/dev/null && cmake --build --preset fuzz --target store_schema >/dev/null || exit 1
run-clang-tidy -quiet -p build/fuzz -j "$(nproc)" >build/fuzz/tidy.log 2>&1 || failed=1
grep -E -A 3 '(error|warning|note): ' build/fuzz/tidy.log
exit $failed
