#!/usr/bin/env bash
# Builds what tools/gpu.sh runs, on Debian 12 with nvcc, into a folder that works on a machine with a
# card and a driver, but without compilers, CMake or the libraries of this project.
# usage: tools/gpu_bundle.sh [--no-data] DIR      makes DIR, which must not exist, and DIR.tar.xz
#   --no-data   leaves tests/golden/ and models/ out: gpu.sh --data TREE takes them from a tree
# DIR/bin: rxt, rxtd, the GPU tests and the micro-benchmarks; DIR/lib: the shared libraries they
# need, but for those of libc, the driver and cuBLAS, found by $ORIGIN/../lib; DIR/tools/gpu.sh and
# what it runs with python3.
set -euo pipefail
cd "$(dirname "$0")/.."
limit=40000000 # bytes of the archive

with_data=1
if [[ ${1:-} == --no-data ]]; then
    with_data=0
    shift
fi
if [[ $# -ne 1 || $1 == -* ]]; then
    sed -n '4,5s/^# //p' "$0" >&2
    exit 2
fi
dir=$(realpath -m "$1")
if [[ -e $dir ]]; then
    echo "tools/gpu_bundle.sh: $dir exists already" >&2
    exit 1
fi

CUDACXX=${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
export CUDACXX
cmake --preset cuda >/dev/null
cmake --build --preset cuda --target rxt_cli rxtd gpu_tests gpu_benches

mkdir -p "$dir/bin" "$dir/lib" "$dir/tools/bench" "$dir/tests/e2e"
cp tests/e2e/device.py "$dir/tests/e2e/"
cp tools/gpu.sh "$dir/tools/"
cp tools/bench/targets.tsv "$dir/tools/bench/"
cp build/cuda/gpu_tests "$dir/bin/"
git describe --always --dirty >"$dir/SOURCE"
programs=(rxt rxtd)
for source in tools/bench/cuda/*.cu; do
    programs+=("bench_$(basename "$source" .cu)")
done
while read -r _ program _; do
    programs+=("$program")
done <build/cuda/gpu_tests
mapfile -t programs < <(printf '%s\n' "${programs[@]}" | sort -u)
for program in "${programs[@]}"; do
    found=$(find build/cuda -type f -name "$program" -perm -u=x)
    strip -o "$dir/bin/$program" "$found"
    chmod +x "$dir/bin/$program"
done

# Libraries by the names that the programs ask for; those of libc and the driver stay the machine's.
machine='^(linux-vdso|ld-linux.*|lib(c|m|dl|rt|pthread|resolv|util|cuda|nvidia.*|cublas.*))\.so'
# needed: name and path of each of the others, as the programs of the bundle find them.
needed() {
    local program
    for program in "${programs[@]}"; do
        ldd "$dir/bin/$program"
    done | awk -v machine="$machine" '$2 == "=>" && $1 !~ machine { print $1, $3 }' | sort -u
}
needed >"$dir/libraries"
while read -r name path; do
    cp -L "$path" "$dir/lib/$name"
done <"$dir/libraries"
rm "$dir/libraries"
if needed | grep -vF "$dir/bin/../lib/"; then
    echo "tools/gpu_bundle.sh: these libraries are not taken from the bundle" >&2
    exit 1
fi

if [[ $with_data -eq 1 ]]; then
    mkdir -p "$dir/tests"
    cp -r tests/golden "$dir/tests/"
    cp -r models "$dir/"
fi
# The programs hold the same kernels: they are seen as such within the dictionary.
XZ_OPT=--lzma2=preset=6,dict=64MiB tar -C "$(dirname "$dir")" -cJf "$dir.tar.xz" "$(basename "$dir")"
bytes=$(stat -c %s "$dir.tar.xz")
echo "$dir.tar.xz: $((bytes / 1000)) KB"
if [[ $bytes -gt $limit ]]; then
    echo "tools/gpu_bundle.sh: more than $((limit / 1000)) KB" >&2
    exit 1
fi
