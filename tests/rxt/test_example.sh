#!/usr/bin/env bash
# The example of the embedding API (its program is the argument): it is told a name, says it when it
# is asked, and says the same from the memory that it has moved to another session.
set -euo pipefail

fail() {
    printf 'line %s: %s\nThe example said\n%s\n' "$1" "$2" "$said"
    exit 1
}

said=$("$1" 2>&1) || fail 0 "it ends with status $?"
mapfile -t line <<<"$said"

# is N TEXT: line N is that.
is() {
    [ "${line[$1 - 1]-}" = "$2" ] || fail "$1" "not \"$2\""
}
# matches N PATTERN: line N is of that form.
matches() {
    [[ ${line[$1 - 1]-} =~ ^($2)$ ]] || fail "$1" "not of the form $2"
}

is 1 '> My name is Anna.'
matches 2 '.+'
is 3 '> What is my name?'
matches 4 '(Your name is |You told me your name is |You are |It is )?Anna[.]'
matches 5 '-- [1-9][0-9]* bytes moved to another session'
is 6 '> What is my name?'
is 7 "${line[3]}"
[ ${#line[@]} -eq 7 ] || fail 8 'one too many'
