#!/usr/bin/env bash
# Installs what is missing, builds, starts the server and opens a chat with the bundled model; what
# you say there is remembered the next time. Without a terminal it plays a scripted conversation
# instead, stopping the server half way, and succeeds only if every query was answered.
set -euo pipefail
cd "$(dirname "$0")/.."

tools/deps.sh build
# The tests want more packages than a chat does; a tree that has them keeps them.
[[ -f build/release/build.ninja ]] || cmake --preset release -DBUILD_TESTING=OFF >/dev/null
cmake --build --preset release --target rxt_cli rxtd
rxt=build/release/tools/rxt
rxtd=build/release/tools/rxtd
models=(models/*/)

work=$(mktemp -d)
server=
endpoint=ipc://$work/turn

# start STORE: the server, ready to be connected to. In a session of its own: Ctrl-C is for the chat.
start() {
    setsid $rxtd --model "${models[0]}" --store "$1" --turn "$endpoint" 2>>"$work/log" &
    server=$!
    until [[ -S $work/turn ]]; do
        if ! kill -0 "$server" 2>/dev/null; then
            cat "$work/log" >&2
            exit 1
        fi
        sleep 0.05
    done
}

# stop: as an operator does; it must end well.
stop() {
    local process=$server
    server=
    kill -TERM "$process"
    wait "$process"
    rm -f "$work/turn"
}

leave() {
    [[ -z $server ]] || stop || true
    rm -rf "$work"
}
trap leave EXIT

if [[ -t 0 && -t 1 ]]; then
    data=${XDG_DATA_HOME:-$HOME/.local/share}/rxt
    mkdir -p "$data"
    start "$data/rxt.db"
    $rxt chat --connect "$endpoint" "$@"
    exit
fi

# play QUERY...: one run of the program; prints the conversation.
play() {
    printf '%s\n' "$@" >"$work/script"
    $rxt chat --connect "$endpoint" --temperature 0 --script "$work/script" --json >"$work/turns"
    sed -nE 's/^.*"answer": *"(([^"\\]|\\.)+)".*$/\1/p' "$work/turns" >"$work/answers"
    paste -d '\n' "$work/script" "$work/answers" | sed -e '1~2s/^/you  /' -e '2~2s/^/rxt  /'
    if [[ $(wc -l <"$work/answers") -ne $# ]]; then
        echo "tools/demo.sh: $(wc -l <"$work/answers") of $# queries were answered" >&2
        exit 1
    fi
}

start "$work/demo.db"
play "My name is Anna." "My dog is called Bruno." "tell me a joke"
stop
echo "     (the server ends; a new one opens the same memory)"
start "$work/demo.db"
play "What is my name?" "How is my dog called?"
version=$(sed -nE 's/^.*"version": *([0-9]+).*$/\1/p' "$work/turns" | tail -n 1)
if [[ $version != 5 ]]; then
    echo "tools/demo.sh: the memory is at version ${version:-none} after 5 turns" >&2
    exit 1
fi
stop
