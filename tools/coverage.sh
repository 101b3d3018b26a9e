#!/usr/bin/env bash
# Line coverage of the parsers of foreign bytes when tests/fuzz/corpus/ is replayed. Each fuzz_X.c
# names the sources it is for in a line "covers: PATH..."; below 90 % of one of them is a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
least=90
out=build/coverage/fuzz
rm -rf $out
mkdir -p $out

cmake --preset coverage >$out/configure.log || {
    cat $out/configure.log
    exit 1
}
targets=() parsers=() objects=()
for source in tests/fuzz/fuzz_*.c; do
    name=${source##*/fuzz_}
    name=${name%.c}
    covers=$(sed -n 's/^.*covers: \([^*]*\).*$/\1/p' "$source")
    [[ -n $covers ]] || {
        echo "$source: no line \"covers: PATH...\"" >&2
        exit 1
    }
    read -ra paths <<<"$covers"
    parsers+=("${paths[@]}")
    targets+=("replay_$name")
    objects+=(${objects[0]:+--object} "build/coverage/tests/fuzz/replay_$name")
done
cmake --build --preset coverage --target "${targets[@]}" >$out/build.log || {
    cat $out/build.log
    exit 1
}

for target in "${targets[@]}"; do
    LLVM_PROFILE_FILE=$out/$target.profraw build/coverage/tests/fuzz/"$target" \
        tests/fuzz/corpus/"${target#replay_}" >/dev/null
done
llvm-profdata merge -o $out/all.profdata $out/*.profraw

# Columns 8 to 10 of a row of the report: lines, lines missed, share covered.
llvm-cov report --instr-profile=$out/all.profdata "${objects[@]}" "${parsers[@]}" >$out/report.txt
status=0
for parser in $(printf '%s\n' "${parsers[@]}" | sort -u); do
    awk -v path="$parser" -v least=$least '
        index($1, "/") == 0 && path ~ ("(^|/)" $1 "$") || ("/" $1) ~ ("/" path "$") {
            share = 100 * ($8 - $9) / $8
            printf "%5.1f %% of %4d lines  %s%s\n", share, $8, path,
                share < least ? "  BELOW " least " %" : ""
            found = 1
            exit share < least
        }
        END { if (!found) { print path ": not in the report"; exit 1 } }' $out/report.txt || status=1
done
exit $status
