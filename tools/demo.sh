#!/usr/bin/env bash
# Installs what is missing, builds, and opens a chat with the bundled model; what you say there is
# remembered the next time. Without a terminal it plays a scripted conversation instead, closing
# the program half way, and succeeds only if every query was answered.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/deps.sh build
# The tests want more packages than a chat does; a tree that has them keeps them.
[[ -f build/release/build.ninja ]] || cmake --preset release -DBUILD_TESTING=OFF >/dev/null
cmake --build --preset release --target rxt_cli
rxt=build/release/tools/rxt

if [[ -t 0 && -t 1 ]]; then
    exec $rxt chat "$@"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# play QUERY...: one run of the program; prints the conversation.
play() {
    printf '%s\n' "$@" >"$work/script"
    $rxt chat --store "$work/demo.db" --temperature 0 --script "$work/script" --json \
        >"$work/turns"
    sed -nE 's/^.*"answer": *"(([^"\\]|\\.)+)".*$/\1/p' "$work/turns" >"$work/answers"
    paste -d '\n' "$work/script" "$work/answers" | sed -e '1~2s/^/you  /' -e '2~2s/^/rxt  /'
    if [[ $(wc -l <"$work/answers") -ne $# ]]; then
        echo "tools/demo.sh: $(wc -l <"$work/answers") of $# queries were answered" >&2
        exit 1
    fi
}

play "My name is Anna." "My dog is called Bruno." "tell me a joke"
echo "     (the program ends; a new one opens the same memory)"
play "What is my name?" "How is my dog called?"
