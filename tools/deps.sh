#!/usr/bin/env bash
# Installs what is missing of the Debian 12 packages that this project is built and tested with.
# usage: tools/deps.sh [build|test|full]     each includes the ones before it; default: build
set -euo pipefail

build=(
    gcc libc6-dev cmake ninja-build pkg-config # the toolchain
    libxxhash-dev                              # hashes of models and memory images
    libsqlite3-dev libsodium-dev               # the store
    libjansson-dev                             # JSON
    libpcre2-dev libutf8proc-dev               # the tokenizer
    libedit-dev zlib1g-dev                     # the command line
    libzmq3-dev libmsgpack-dev libinih-dev     # the server
    libmicrohttpd-dev systemtap-sdt-dev        # its metrics and probes
)
test=(libcmocka-dev g++ clang llvm libclang-rt-dev python3-venv ca-certificates) # unit tests, fuzzers, oracles
full=(clang-format clang-tidy shellcheck                                     # tools/lint.sh
    chromium)                                                                # the page of rxt inspect

case ${1:-build} in
build) packages=("${build[@]}") ;;
test) packages=("${build[@]}" "${test[@]}") ;;
full) packages=("${build[@]}" "${test[@]}" "${full[@]}") ;;
*)
    echo "usage: tools/deps.sh [build|test|full]" >&2
    exit 2
    ;;
esac

if ! command -v dpkg-query >/dev/null; then
    echo "This system has no dpkg; the build needs what Debian 12 calls: ${packages[*]}" >&2
    exit 0
fi

# promtool checks the text of the metrics; its whole package would start a service.
if [[ ${1:-} == full && ! -x build/promtool/usr/bin/promtool ]]; then
    (mkdir -p build/promtool && cd build/promtool && apt-get download -qq prometheus 2>/dev/null &&
        dpkg -x prometheus_*.deb . && rm prometheus_*.deb) ||
        echo "promtool cannot be had here: its test is left out"
fi

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) || state=none
    [[ $state == installed ]] || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

echo "Installing from Debian's packages: ${missing[*]}"
as_root=()
[[ $(id -u) -eq 0 ]] || as_root=(sudo)
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
