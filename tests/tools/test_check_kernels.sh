#!/bin/sh
# tools/check_kernels on made-up reports: a good build passes and --write makes its table; each thing
# that is wrong is named, and nothing else.
set -eu
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
build="$tree/build"
limits="$tree/kernels/cuda/limits.tsv"
tab=$(printf '\t')

# kernel SYMBOL REGISTERS SMEM [STACK STORES LOADS]: what ptxas says of one.
kernel() {
    echo "ptxas info    : Compiling entry function '$1' for 'sm_90a'"
    properties "$1" "${4:-0}" "${5:-0}" "${6:-0}"
    echo "ptxas info    : Used $2 registers, used 1 barriers${3:+, $3 bytes smem}, 400 bytes cmem[0]"
}
properties() {
    echo "ptxas info    : Function properties for $1"
    echo "    $2 bytes stack frame, $3 bytes spill stores, $4 bytes spill loads"
}
# unit SOURCE: standard input is the report of its compilation.
unit() {
    mkdir -p "$build"
    cat >"$build/$(basename "$1").o.report"
    printf '%s{"directory": "%s", "command": "nvcc -O3 -c %s -o %s.o", "file": "%s/%s"}\n' \
        "$comma" "$build" "$1" "$(basename "$1")" "$tree" "$1" >>"$build/units"
    comma=,
}
# begin / finish: around the units of a build.
begin() {
    rm -rf "$build"
    mkdir -p "$build"
    comma=
}
finish() {
    { echo '['; cat "$build/units"; echo ']'; } >"$build/compile_commands.json"
}
# good: two files of kernels, one of them templates, and one that is no kernel's.
good() {
    unit kernels/cuda/gate.cu <<-END
	ptxas info    : 0 bytes gmem
	$(kernel _Z4gatePfi 30 '')
	END
    unit kernels/cuda/cross.cu <<-END
	$(kernel _Z5crossILi32ELb1EEvPKfPf 168 4096)
	$(kernel _ZN12_GLOBAL__N_15crossILi16ELb0EEEvPKfPf 97 2048)
	END
    unit tools/bench/cuda/hop.cu <<-END
	$(kernel _Z3hopv 12 '')
	END
    unit kernels/cpu/gate.c <<-END
	END
}
# row FILE KERNEL REGISTERS SHARED
row() {
    echo "$1$tab$2$tab$3$tab$4"
}
header=$(row file kernel registers shared_bytes)

# complains MESSAGE...: the checker fails and says these lines, no other.
complains() {
    if tools/check_kernels --root "$tree" "$build" >"$tree/table" 2>"$tree/got"; then
        echo "passed, though: $1"
        exit 1
    fi
    for message in "$@"; do
        echo "check_kernels: $message"
    done | diff -u - "$tree/got"
}

mkdir -p "$tree/kernels/cuda"
begin
good
finish
complains "kernels/cuda/limits.tsv is missing; make it with --write" \
    "kernels/cuda/cross.cu: cross<16, false>: no row in kernels/cuda/limits.tsv; 97 registers, \
2048 bytes of shared memory" \
    "kernels/cuda/cross.cu: cross<32, true>: no row in kernels/cuda/limits.tsv; 168 registers, \
4096 bytes of shared memory" \
    "kernels/cuda/gate.cu: gate: no row in kernels/cuda/limits.tsv; 30 registers, \
0 bytes of shared memory"

# The table it writes: registers in steps of 8, sorted, no row for what is not in kernels/cuda.
tools/check_kernels --root "$tree" --write "$build" >/dev/null
{
    echo "$header"
    row kernels/cuda/cross.cu 'cross<16, false>' 104 2048
    row kernels/cuda/cross.cu 'cross<32, true>' 168 4096
    row kernels/cuda/gate.cu gate 32 0
} >"$tree/want"
diff -u "$tree/want" "$limits"

# And the table it prints.
tools/check_kernels --root "$tree" "$build" >"$tree/table"
{
    printf 'file\tkernel\tregisters\tspills\tstack\tshared\n'
    printf 'kernels/cuda/cross.cu\tcross<16, false>\t97\t0\t0\t2048\n'
    printf 'kernels/cuda/cross.cu\tcross<32, true>\t168\t0\t0\t4096\n'
    printf 'kernels/cuda/gate.cu\tgate\t30\t0\t0\t0\n'
    printf 'tools/bench/cuda/hop.cu\thop\t12\t0\t0\t0\n'
} | diff -u - "$tree/table"

# Over the row, in registers and in shared memory.
{
    echo "$header"
    row kernels/cuda/cross.cu 'cross<16, false>' 96 2048
    row kernels/cuda/cross.cu 'cross<32, true>' 168 4095
    row kernels/cuda/gate.cu gate 30 0
} >"$limits"
complains "kernels/cuda/cross.cu: cross<16, false>: 97 registers, its row allows 96" \
    "kernels/cuda/cross.cu: cross<32, true>: 4096 bytes of shared memory, its row allows 4095"

# A row without a kernel, a second row, a row that is none.
cp "$tree/want" "$limits"
{
    row kernels/cuda/gate.cu gone 8 0
    row kernels/cuda/gate.cu gate 8 0
    echo "kernels/cuda/gate.cu gate 8 0"
} >>"$limits"
complains "kernels/cuda/limits.tsv:6: a second row of kernels/cuda/gate.cu gate" \
    "kernels/cuda/limits.tsv:7: wanted: file, kernel, registers, shared_bytes" \
    "kernels/cuda/limits.tsv: no kernel for the row kernels/cuda/gate.cu gone"
cp "$tree/want" "$limits"

# Spills and a stack frame, wherever they are: in a benchmark, in a function that was not inlined.
begin
good
unit tools/bench/cuda/mma.cu <<-END
	$(kernel _Z3mmav 168 '' 8 8 16)
	$(properties _Z6helperv 40 0 0)
	END
finish
complains "tools/bench/cuda/mma.cu: helper: a stack frame of 40 bytes" \
    "tools/bench/cuda/mma.cu: mma: 24 bytes of spills" \
    "tools/bench/cuda/mma.cu: mma: a stack frame of 8 bytes"

# Warnings of the compiler, two kernels of one name, a report without ptxas, no report.
begin
good
unit kernels/cuda/ring.cu <<-END
	ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored
	ptxas info    : (C7507) something else
	ptxas info    : (C7515) Potential Performance Loss: wgmma serialized
	END
finish
complains "kernels/cuda/ring.cu: ptxas info    : (C7508) Potential Performance Loss: \
'setmaxnreg' ignored" \
    "kernels/cuda/ring.cu: ptxas info    : (C7515) Potential Performance Loss: wgmma serialized"
begin
good
unit kernels/cuda/twice.cu <<-END
	$(kernel _Z4gatePfi 30 '')
	$(kernel _Z4gatePff 30 '')
	END
unit kernels/cuda/silent.cu </dev/null
unit kernels/cuda/absent.cu </dev/null
rm "$build/absent.cu.o.report"
finish
row kernels/cuda/twice.cu gate 32 0 >>"$limits"
complains "kernels/cuda/silent.cu: nothing of ptxas in its report; compile with -Xptxas=-v" \
    "kernels/cuda/absent.cu: absent.cu.o.report is missing; build it again" \
    "kernels/cuda/twice.cu: two kernels of one name, gate"

# A build without CUDA.
begin
unit kernels/cpu/gate.c </dev/null
finish
rm "$limits"
complains "$build: no .cu file was compiled; configure with RXT_CUDA=ON" \
    "kernels/cuda/limits.tsv is missing; make it with --write"
