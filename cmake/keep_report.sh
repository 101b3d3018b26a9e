#!/bin/sh
# Compiler launcher of the CUDA sources: keeps what ptxas says of registers and spills beside the
# object, as OBJECT.report, for tools/check_kernels, and shows what else the compiler says.
# usage: cmake/keep_report.sh COMPILER ARGUMENT... -o OBJECT ARGUMENT...
object=
before=
for argument in "$@"; do
    [ "$before" != -o ] || object=$argument
    before=$argument
done
[ -n "$object" ] || exec "$@"
"$@" >"$object.report" 2>&1
status=$?
grep -vE '^ptxas info|^ +[0-9]+ bytes stack frame' "$object.report" >&2
exit $status
