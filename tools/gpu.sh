#!/usr/bin/env bash
# Everything that needs a card, in under 9 minutes, and a record of what it gave.
# usage: tools/gpu.sh [--data TREE] [--out DIR] [STEP...]
#   TREE   folder with tests/golden/ and models/; default: the one this script came with
#   DIR    for record.tsv and the log of each step; default: build/gpu here
#   STEP   of tests sanitizer golden parity invariance server faults micro table; default: all
# Programs come from bin/ beside tools/ (a bundle, tools/gpu_bundle.sh) or else from build/cuda. A
# step that fails, or runs past its time, does not stop the others, but the exit code is then 1.
# The columns of the record are explained in docs/bench/README.md.
set -uo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)

usage() {
    sed -n '3,6s/^# //p' "$0" >&2
    exit 2
}

all=(tests sanitizer golden parity invariance server faults micro table)
declare -A seconds=([tests]=40 [sanitizer]=180 [golden]=15 [parity]=20 [invariance]=30 [server]=60
    [faults]=90 [micro]=15 [table]=90)
data=$root out=$PWD/build/gpu steps=()
while [[ $# -gt 0 ]]; do
    case $1 in
    --data | --out) [[ $# -ge 2 ]] || usage ;;&
    --data) data=$2 && shift ;;
    --out) out=$2 && shift ;;
    *)
        [[ -n ${seconds[$1]:-} ]] || usage
        steps+=("$1")
        ;;
    esac
    shift
done
[[ ${#steps[@]} -gt 0 ]] || steps=("${all[@]}")

complain() {
    echo "tools/gpu.sh: $*" >&2
    exit 1
}

if ! card=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null) ||
    [[ $card != *,* ]]; then
    complain "no card: nvidia-smi finds none"
fi
card=$(head -1 <<<"$card")
programs=$root/bin
[[ -d $programs ]] || programs=$root/build/cuda
[[ -f $programs/gpu_tests ]] ||
    complain "$programs has no programs; build them: cmake --preset cuda && cmake --build --preset cuda"
[[ -d $data/tests/golden && -d $data/models ]] ||
    complain "$data has no tests/golden/ and models/; name the tree with --data"
mkdir -p "$out" && out=$(cd "$out" && pwd) && cd "$data" || exit 1
record=$out/record.tsv
targets=$root/tools/bench/targets.tsv

source=$(cat "$root/SOURCE" 2>/dev/null || git -C "$root" describe --always --dirty 2>/dev/null)
{
    echo "# card: ${card%%, *}"
    echo "# driver: ${card##*, }"
    echo "# date: $(date -u +%Y-%m-%dT%H:%MZ)"
    echo "# source: ${source:-unknown}"
    echo "# command: tools/gpu.sh ${steps[*]}"
    printf 'metric\tvalue\tfloor\ttarget\tratio\n'
} >"$record"

# program NAME: its path.
program() {
    find "$programs" -type f -name "$1" -perm -u=x | head -1
}

# row METRIC VALUE: a line of the record, floor and target from the table of targets.
row() {
    awk -F '\t' -v OFS='\t' -v metric="$1" -v value="$2" '
        $1 == metric { floor = $2; target = $3 }
        END {
            print metric, value, (floor == "" ? "-" : floor), (target == "" ? "-" : target),
                (target + 0 > 0 ? sprintf("%.3f", value / target) : "-")
        }' "$targets" >>"$record"
}

# within COMMAND...: runs it in what is left of the step's time.
within() {
    local left=$((deadline - SECONDS)) status
    if [[ $left -lt 1 ]]; then
        echo "no time left for $*"
        return 124
    fi
    timeout -k 5 "$left" "$@" </dev/null
    status=$?
    [[ $status -ne 124 ]] || echo "out of time: $*"
    return $status
}

# each_test STEP CHOICE COMMAND...: runs each GPU test whose name holds "invariance" (CHOICE with) or
# does not (without), with its variables and behind COMMAND; fails if one fails or there is none.
each_test() {
    local step=$1 choice=$2 name binary variables kind n=0 failed=0
    shift 2
    while read -r name binary variables; do
        kind=without
        [[ $name != *invariance* ]] || kind=with
        [[ $kind == "$choice" ]] || continue
        n=$((n + 1))
        echo "-- $* $name"
        # shellcheck disable=SC2086  # $variables is a list of words
        within env $variables "$@" "$(program "$binary")" && continue
        echo "FAILED: $* $name"
        failed=$((failed + 1))
    done <"$programs/gpu_tests"
    row "${step}_run" $n
    row "${step}_failed" $failed
    [[ $n -gt 0 ]] || echo "there is no such test"
    [[ $n -gt 0 && $failed -eq 0 ]]
}

step_tests() {
    each_test tests without
}

step_invariance() {
    each_test invariance with
}

# verify FOLDER ARGUMENT...: in float32, behind the command in $checker if there is one.
verify() {
    # shellcheck disable=SC2086  # $checker is a list of words
    within ${checker:-} "$(program rxt)" verify "$@" --backend cuda --dtype f32 --tolerance 1e-4 &&
        return
    echo "FAILED: ${checker:-} rxt verify $*"
    return 1
}

step_sanitizer() {
    local sanitizer tool checker failed=0
    for sanitizer in "$(command -v compute-sanitizer)" /usr/local/cuda*/bin/compute-sanitizer; do
        [[ ! -x $sanitizer ]] || break
    done
    if [[ ! -x $sanitizer ]]; then
        echo "compute-sanitizer was not found"
        return 1
    fi
    for tool in memcheck synccheck; do
        checker="$sanitizer --tool $tool --error-exitcode 99"
        # The smallest shapes there are: models of a few thousand parameters, every op.
        for name in beta-tiny alpha-moe-self-interlayer; do
            verify tests/golden/$name || failed=1
        done
        # shellcheck disable=SC2086
        each_test "$tool" without $checker || failed=1
    done
    return $failed
}

step_golden() {
    local folder n=0 failed=0
    for folder in tests/golden/*/; do
        if [[ -f $folder/conversation.json ]]; then
            verify "$folder" --model "models/$(basename "$folder")" || failed=$((failed + 1))
        else
            verify "$folder" || failed=$((failed + 1))
        fi
        n=$((n + 1))
    done
    row golden_run $n
    row golden_failed $failed
    [[ $n -gt 0 && $failed -eq 0 ]]
}

# parity: the bundled model's conversation in bf16 beside the CPU in f32.
step_parity() {
    local json status
    json=$(within "$(program rxt)" verify tests/golden/demo-15m --parity --model models/demo-15m \
        --backend cuda --dtype bf16 --json)
    status=$?
    echo "$json"
    if [[ $json != *'"turn"'* ]]; then
        echo "FAILED: rxt verify --parity"
        return 1
    fi
    row parity_tokens "$(field_of tokens <<<"$json" | awk '{ n += $1 } END { print n + 0 }')"
    row parity_wrong "$(field_of wrong <<<"$json" | awk '{ n += $1 } END { print n + 0 }')"
    row parity_close "$(field_of close <<<"$json" | awk '{ n += $1 } END { print n + 0 }')"
    row parity_kl "$(field_of kl <<<"$json" | sort -g | tail -1)"
    row parity_memory_1 "$(field_of memory <<<"$json" | sed -n 1p)"
    row parity_memory_14 "$(field_of memory <<<"$json" | sed -n 14p)"
    return $status
}

# field_of NAME: its number in each line of JSON.
field_of() {
    sed -nE "s/.*\"$1\": ?([^,}]+).*/\1/p"
}

# device PART ARGUMENT...: a part of tests/e2e/device.py with the bundled model.
device() {
    RXT=$(program rxt) RXTD=$(program rxtd) PYTHONDONTWRITEBYTECODE=1 within python3 \
        "$root/tests/e2e/device.py" "$@" --model models/demo-15m
}

step_server() {
    local dtype failed=0
    for dtype in bf16 f32; do
        device server --dtype $dtype --sessions 32 --turns 6 || failed=$((failed + 1))
    done
    row server_failed $failed
    [[ $failed -eq 0 ]]
}

step_faults() {
    local failed=0
    device faults --sessions 16 --turns 8 || failed=1
    row faults_failed $failed
    [[ $failed -eq 0 ]]
}

step_micro() {
    local name failed=0
    for name in hop cluster ingest dram_sms mma_rate clusters_active; do
        if ! within "$(program bench_$name)" >"$out/micro.tsv"; then
            echo "FAILED: bench_$name"
            failed=1
            continue
        fi
        cat "$out/micro.tsv"
        awk -F '\t' -v OFS='\t' 'NR > 1 {
            print $1, $2, "-", $4, $5
            if ($6 != "-")
                print "# " $1 ": " $6
        }' "$out/micro.tsv" >>"$record"
    done
    rm -f "$out/micro.tsv"
    return $failed
}

# bench NAME ARGUMENT...: rows of one run of rxt bench: NAME.bBATCH.FIGURE, and NAME.FIGURE of what
# is of one batch only.
bench() {
    local name=$1 json object batch key value
    shift
    json=$(within "$(program rxt)" bench --backend cuda --json --milliseconds 300 "$@")
    echo "$json"
    if [[ $json != *'{"batch":'* ]]; then
        echo "FAILED: rxt bench $*"
        return 1
    fi
    while read -r object; do
        batch=$(sed -E 's/^.*"batch":([0-9]+).*$/\1/' <<<"$object")
        while IFS=: read -r key value; do
            row "$name.b$batch.$key" "$value"
            [[ $key != time_per_token_ms ]] || row "$name.b$batch.tokens_s" \
                "$(awk -v b="$batch" -v ms="$value" 'BEGIN { printf "%.0f", b * 1000 / ms }')"
        done < <(grep -oE '"[a-z0-9_]+_(ms|coverage)":[^,}]+' <<<"$object" | tr -d '"')
    done < <(grep -oE '\{"batch":[^}]*\}' <<<"$json")
    while IFS=: read -r key value; do
        row "$name.$key" "$value"
    done < <(grep -E '^\{"(packed|beside)"' <<<"$json" |
        grep -oE '"[a-z0-9_]+_(ms|gain|share)":[^,}]+' | tr -d '"')
}

step_table() {
    local failed=0
    bench demo-15m --model models/demo-15m --dtype bf16 --batch 1,8 || failed=1
    bench beta-3b --shape beta-3b --dtype bf16 --batch 1,8,64,256 --query 64,512 \
        --turn 64,512,2048 --packed 256 --beside 32 || failed=1
    return $failed
}

start=$SECONDS failures=()
for step in "${steps[@]}"; do
    began=$SECONDS
    deadline=$((SECONDS + seconds[$step]))
    echo "== $step, at most ${seconds[$step]} s"
    "step_$step" 2>&1 | tee "$out/$step.log"
    [[ ${PIPESTATUS[0]} -eq 0 ]] || failures+=("$step")
    row "seconds_$step" $((SECONDS - began))
done
row seconds $((SECONDS - start))
row steps_failed ${#failures[@]}

echo "== $record"
cat "$record"
[[ ${#failures[@]} -eq 0 ]] || complain "failed: ${failures[*]}"
