#!/usr/bin/env bash
# tools/gpu.sh on a made-up bundle and card: the record it writes; that a step which fails is named,
# stops no other and fails the script; that a machine without a card is refused.
set -euo pipefail
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir -p "$tree"/{bin,machine,tools/bench,tests/e2e,tests/golden/tiny,tests/golden/demo,models/demo}
cp tools/gpu.sh "$tree/tools/"
cp tools/bench/targets.tsv "$tree/tools/bench/"
echo v1-2-gabc >"$tree/SOURCE"
touch "$tree/tests/golden/demo/conversation.json"
export TREE=$tree # for the programs below

# program NAME: standard input is the body of a script that first notes its call.
program() {
    {
        echo '#!/usr/bin/env bash'
        # shellcheck disable=SC2016
        echo 'echo "${0##*/} $*" >>"$TREE/calls"'
        cat
    } >"$tree/$1"
    chmod +x "$tree/$1"
}
program machine/nvidia-smi <<<'echo "Made-up H200, 580.1"'
program machine/compute-sanitizer <<'END'
shift 4 # --tool X --error-exitcode 99
exec "$@"
END
program bin/rxt <<'END'
if [[ $* == *--parity* ]]; then
    for i in {1..14}; do
        echo '{"turn":'$i',"tokens":10,"wrong":0,"close":'$((i / 14))',"kl":'$i'e-5,"memory":'$i'e-3,"good":true}'
    done
fi
[[ $1 == bench ]] || exit 0
b='"kv_build_ms":0.06,"kv_build_gb_s":7,"expert_coverage":0.19'
echo '{"model":"x","ready_ms":3,"batches":[{"batch":1,"time_per_token_ms":0.3,'"$b"'},' \
    '{"batch":8,"time_per_token_ms":0.5,'"$b"'}],"batch":1,"time_per_token_ms":0.3}'
[[ $* != *--packed* ]] || echo '{"packed":16,"longest":256,"encoder_100_ms":3.2,"encoder_60_gain":1.8}'
[[ $* != *--beside* ]] || echo '{"beside":32,"updates":7,"token_beside_p99_share":1.21}'
END
for name in hop cluster ingest dram_sms mma_rate clusters_active; do
    program bin/bench_$name <<END
printf 'metric\tvalue\tunit\tassumed\tratio\tdecision\n${name}_us\t0.9\tus\t0.6\t1.500\tgo on\n'
printf '${name}_alone\t5\tus\t-\t-\t-\n'
END
done
program bin/test_gate <<'END'
[[ $RXT_TEST_BACKEND == cuda-f32 ]]
END
program bin/test_invariance </dev/null
program bin/rxtd </dev/null
cat >"$tree/tests/e2e/device.py" <<'END'
import os, sys
print("device.py", *sys.argv[1:], file=open(os.environ["TREE"] + "/calls", "a"))
assert os.environ["RXTD"].endswith("bin/rxtd") and os.path.exists(os.environ["RXT"])
END
printf 'kernels.gate test_gate RXT_TEST_BACKEND=cuda-f32\nrxt.invariance test_invariance\n' >"$tree/bin/gpu_tests"

# gpu ARGUMENT...: a run on that machine; its exit code is left in $code.
gpu() {
    code=0
    : >"$tree/calls"
    PATH="$tree/machine:$PATH" "$tree/tools/gpu.sh" --out "$tree/out" "$@" >"$tree/log" 2>&1 || code=$?
}
record() {
    sed -E 's/^# date: .*/# date/; s/^(seconds.*)\t[0-9]+\t(.*)\t.*/\1\t*\t\2\t*/' "$tree/out/record.tsv"
}
same() {
    diff -u "$tree/want" - || { cat "$tree/log"; exit 1; }
}

gpu --data "$tree"
[[ $code -eq 0 ]] || { cat "$tree/log"; exit 1; }
tr ' ' '\t' >"$tree/want" <<'END'
metric value floor target ratio
tests_run 1 - - -
tests_failed 0 - - -
seconds_tests * - - *
memcheck_run 1 - - -
memcheck_failed 0 - - -
synccheck_run 1 - - -
synccheck_failed 0 - - -
seconds_sanitizer * - - *
golden_run 2 - - -
golden_failed 0 - - -
seconds_golden * - - *
parity_tokens 140 - - -
parity_wrong 0 - - -
parity_close 1 - - -
parity_kl 14e-5 - - -
parity_memory_1 1e-3 - - -
parity_memory_14 14e-3 - 0.02 0.700
seconds_parity * - - *
invariance_run 1 - - -
invariance_failed 0 - - -
seconds_invariance * - - *
server_failed 0 - - -
seconds_server * - - *
faults_failed 0 - - -
seconds_faults * - - *
END
for name in hop cluster ingest dram_sms mma_rate clusters_active; do
    printf '%s_us\t0.9\t-\t0.6\t1.500\n# %s_us: go on\n%s_alone\t5\t-\t-\t-\n' $name $name $name
done >>"$tree/want"
tr ' ' '\t' >>"$tree/want" <<'END'
seconds_micro * - - *
demo-15m.b1.time_per_token_ms 0.3 0.020 0.080 3.750
demo-15m.b1.tokens_s 3333 - - -
demo-15m.b1.kv_build_ms 0.06 - - -
demo-15m.b1.expert_coverage 0.19 - - -
demo-15m.b8.time_per_token_ms 0.5 - - -
demo-15m.b8.tokens_s 16000 - 50000 0.320
demo-15m.b8.kv_build_ms 0.06 - - -
demo-15m.b8.expert_coverage 0.19 - - -
beta-3b.b1.time_per_token_ms 0.3 0.081 0.60 0.500
beta-3b.b1.tokens_s 3333 - - -
beta-3b.b1.kv_build_ms 0.06 0.029 0.12 0.500
beta-3b.b1.expert_coverage 0.19 - - -
beta-3b.b8.time_per_token_ms 0.5 - - -
beta-3b.b8.tokens_s 16000 22500 8400 1.905
beta-3b.b8.kv_build_ms 0.06 - - -
beta-3b.b8.expert_coverage 0.19 - - -
beta-3b.encoder_100_ms 3.2 - - -
beta-3b.encoder_60_gain 1.8 1.67 1.5 1.200
beta-3b.token_beside_p99_share 1.21 1 1.10 1.100
seconds_table * - - *
seconds * - 540 *
steps_failed 0 - - -
END
{
    printf '# card: Made-up H200\n# driver: 580.1\n# date\n# source: v1-2-gabc\n'
    echo '# command: tools/gpu.sh tests sanitizer golden parity invariance server faults micro table'
    cat "$tree/want"
} >"$tree/whole"
mv "$tree/whole" "$tree/want"
record | same
# Golden folders run in float32 at 1e-4; a conversation with its model.
grep -E 'verify|device' "$tree/calls" | tail -6 >"$tree/got"
cat >"$tree/want" <<'END'
rxt verify tests/golden/demo/ --model models/demo --backend cuda --dtype f32 --tolerance 1e-4
rxt verify tests/golden/tiny/ --backend cuda --dtype f32 --tolerance 1e-4
rxt verify tests/golden/demo-15m --parity --model models/demo-15m --backend cuda --dtype bf16 --json
device.py server --dtype bf16 --sessions 32 --turns 6 --model models/demo-15m
device.py server --dtype f32 --sessions 32 --turns 6 --model models/demo-15m
device.py faults --sessions 16 --turns 8 --model models/demo-15m
END
same <"$tree/got"

# A test, a benchmark and a golden folder fail: the others run on, and the script fails.
program bin/test_gate <<<'exit 1'
program bin/bench_ingest <<<'exit 1'
program bin/rxt <<<'[[ $* != *golden/tiny* ]]'
rm "$tree/tests/e2e/device.py"
gpu
[[ $code -eq 1 ]]
grep -qF 'failed: tests sanitizer golden parity server faults micro table' "$tree/log"
record | grep -E '_failed|ingest|dram_sms_us' | tr '\t' ' ' >"$tree/got"
cat >"$tree/want" <<'END'
tests_failed 1 - - -
memcheck_failed 1 - - -
synccheck_failed 1 - - -
golden_failed 1 - - -
invariance_failed 0 - - -
server_failed 2 - - -
faults_failed 1 - - -
dram_sms_us 0.9 - 0.6 1.500
# dram_sms_us: go on
steps_failed 8 - - -
END
same <"$tree/got"

# One step alone; no invariance test at all is a failure.
printf 'kernels.gate test_gate\n' >"$tree/bin/gpu_tests"
gpu invariance
[[ $code -eq 1 ]]
grep -qF 'there is no such test' "$tree/log"
grep -qF 'test_gate' "$tree/calls" && exit 1

# Refusals.
gpu nonsense
[[ $code -eq 2 ]]
program machine/nvidia-smi <<<'exit 9'
gpu
[[ $code -eq 1 ]]
[[ $(cat "$tree/log") == "tools/gpu.sh: no card: nvidia-smi finds none" ]]
