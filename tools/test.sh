#!/usr/bin/env bash
# Installs what is missing, builds, and runs everything that guards the tree.
# usage: tools/test.sh           release build with all tests, address and undefined sanitizers with
#                                the fast ones, thread sanitizer with the threaded ones, 10 s a fuzzer
#        tools/test.sh --full    all tests under gcc's sanitizers, the bridge's with the bundled model,
#                                and the fast ones under clang's; 60 s a fuzzer; clang-format,
#                                clang-tidy, line coverage of the parsers; tests that read RXT_FULL
#                                (kill loops, all mutations) at full length, in the release build
# A stage that fails does not stop the others; logs lie in build/test/.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

full=0
case ${1:-} in
--full) full=1 ;;
"") ;;
*)
    echo "usage: tools/test.sh [--full]" >&2
    exit 2
    ;;
esac
jobs=$(nproc)
export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$jobs}
# Six tests at a time on two cores, or three of two threads (PROCESSORS): much of their time they
# wait, and no test reads a clock to pass. ctest fills a slot with the costliest test that fits, so
# that programs, which wait most, take one and begin first.
export CTEST_PARALLEL_LEVEL=${CTEST_PARALLEL_LEVEL:-$((3 * jobs))}
logs=build/test
mkdir -p $logs

summary=()
failed_logs=()
n_passed=0
n_failed=0
n_skipped=0

# stage NAME COMMAND...: runs it, keeps its output, and counts it as one check, or, where ctest
# printed its totals, as the tests in them.
stage() {
    local name=$1 log=$logs/${1//[ ,]/-}.log status totals percent failed skipped of start=$SECONDS
    shift
    echo "== $name"
    "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    echo "== $name took $((SECONDS - start)) s, status $status"
    totals=$(grep -E '^[0-9]+% tests passed, [0-9]+ tests failed out of [0-9]+$' "$log")
    if [[ $totals =~ ^([0-9]+)%\ tests\ passed,\ ([0-9]+)\ tests\ failed\ out\ of\ ([0-9]+)$ ]]; then
        percent=${BASH_REMATCH[1]} failed=${BASH_REMATCH[2]} of=${BASH_REMATCH[3]}
        skipped=$(grep -c '\*\*\*Skipped' "$log")
        n_passed=$((n_passed + of - failed - skipped))
        n_failed=$((n_failed + failed))
        n_skipped=$((n_skipped + skipped))
        summary+=("$name ($((SECONDS - start)) s)"
            "$percent% tests passed, $failed tests failed out of $of")
        if [[ $failed -gt 0 ]]; then
            failed_logs+=("$log")
            return
        fi
        [[ $status -eq 0 ]] && return
    fi
    if [[ $status -eq 0 ]]; then
        n_passed=$((n_passed + 1))
        summary+=("$name ($((SECONDS - start)) s): passed")
    else
        n_failed=$((n_failed + 1))
        summary+=("$name ($((SECONDS - start)) s): FAILED, see $log")
        failed_logs+=("$log")
    fi
}

# The oracles of some tests are Python libraries; without them those tests fail.
make_venv() {
    cmp -s tools/requirements.txt build/venv/requirements.txt && return
    python3 -m venv --clear build/venv &&
        build/venv/bin/pip install --quiet --no-deps -r tools/requirements.txt &&
        cp tools/requirements.txt build/venv/
}

# build PRESET [TARGET...]
build() {
    cmake --preset "$1" -DRXT_PYTHON="$PWD/build/venv/bin/python" >$logs/configure-"$1".log 2>&1 || {
        cat $logs/configure-"$1".log
        return 1
    }
    cmake --build --preset "$1" ${2:+--target "${@:2}"}
}

# build_and_test BUILD_PRESET TEST_PRESET [TARGET]
build_and_test() {
    build "$1" "${3:-}" && ctest --preset "$2"
}

# fuzz TARGET SECONDS: new inputs go to build/fuzz/corpus/, a crash to build/fuzz/.
fuzz() {
    local name=$1 found=build/fuzz/corpus/$1 dict=tests/fuzz/corpus/$1.dict
    mkdir -p "$found"
    local options=(-max_total_time="$2" -timeout=10 -rss_limit_mb=2048 -verbosity=0
        -artifact_prefix="build/fuzz/$name-")
    [[ ! -f $dict ]] || options+=(-dict="$dict")
    build/fuzz/tests/fuzz/fuzz_"$name" "${options[@]}" "$found" tests/fuzz/corpus/"$name"
}

fuzz_all() {
    local seconds=$1 running=0 status=0 source name
    build fuzz fuzzers || return 1
    for source in tests/fuzz/fuzz_*.c; do
        name=${source##*/fuzz_}
        name=${name%.c}
        echo "fuzzing $name for $seconds s"
        fuzz "$name" "$seconds" &
        running=$((running + 1))
        if [[ $running -ge $jobs ]]; then
            wait -n || status=1
            running=$((running - 1))
        fi
    done
    while [[ $running -gt 0 ]]; do
        wait -n || status=1
        running=$((running - 1))
    done
    return $status
}

nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null)
cuda() {
    if [[ -z $nvcc ]]; then
        summary+=("CUDA was not compiled: nvcc not found")
    elif [[ ! -d kernels/cuda ]]; then
        summary+=("CUDA was not compiled: there is no kernels/cuda yet")
    else
        export CUDACXX=$nvcc
        local preset=cuda
        if nvidia-smi -L >/dev/null 2>&1; then
            stage "cuda gpu" build_and_test cuda cuda-gpu
        else
            if [[ $full -eq 1 ]]; then
                stage "cuda build" build cuda
            else # the tests of kernels are built for the emulator
                preset=cuda-check
                stage "cuda build" build $preset kernels gpu_benches
            fi
            summary+=("CUDA was compiled, not run: no GPU found")
        fi
        stage "cuda kernels" tools/check_kernels build/$preset
    fi
}

if [[ $full -eq 1 ]]; then
    tools/deps.sh full || exit 1
else
    tools/deps.sh test || exit 1
fi
stage "python oracles" make_venv
if [[ $full -eq 1 ]]; then
    stage "format and lint" tools/lint.sh
    export RXT_TEST_MODEL=bundled
    stage "thread sanitizer" build_and_test tsan tsan
    stage "address and undefined sanitizer" build_and_test dev dev
    stage "address and undefined sanitizer, clang" build_and_test fuzz fuzz-fast fast_tests
else
    stage "thread sanitizer" build_and_test tsan tsan-threads threads_tests
    stage "address and undefined sanitizer" build_and_test dev dev-fast fast_tests
fi
if compgen -G "tests/fuzz/fuzz_*.c" >/dev/null; then
    stage "fuzzers" fuzz_all $((full ? 60 : 10))
    [[ $full -eq 0 ]] || stage "parser coverage" tools/coverage.sh
fi
cuda
[[ $full -eq 0 ]] || export RXT_FULL=1
stage "release" build_and_test release release
stage "demo" tools/demo.sh </dev/null

# Where only the end of the output is kept, it must say what was wrong.
for log in "${failed_logs[@]}"; do
    echo "== what failed in $log"
    grep -nE '(ERROR|FAILED|Failed|SUMMARY|error|runtime error|Assertion)' "$log" | tail -n 25
    tail -n 40 "$log"
done
echo "== summary"
printf '%s\n' "${summary[@]}"
[[ $full -eq 1 ]] || echo "left to --full: slow tests under the sanitizers; the bridge's tests there" \
    "with the bundled model; clang's sanitizers; 60 s a fuzzer; format, lint and parser coverage;" \
    "programs, tests and PTX of the CUDA build; kill loops, mutations, the tokenizer's corpus" \
    "and other tests at the length of RXT_FULL"
echo "$n_passed passed, $n_failed failed, $n_skipped skipped in $SECONDS s"
[[ $n_failed -eq 0 ]]
