#!/usr/bin/env bash
# Gives Wine's C runtime the complex functions that it lacks (numpy 2 needs them): ucrtbase.dll with those of ucrt_complex.c,
# which forwards all else to ucrtwine.dll, Wine's own under another name. make_ucrt.sh FOLDER (system32 of a prefix)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
wine=$(find /usr/lib /opt -path '*/wine/x86_64-windows/ucrtbase.dll' 2>/dev/null | head -1)
# Wine takes its own file for another name's as well, unless its mark is gone
{ head -c 64 "$wine"; head -c 16 /dev/zero; tail -c +81 "$wine"; } >"$1/ucrtwine.dll"
own=$(sed -n 's/.*\(COMPLEX\|REAL\)(\(c[a-z]*\)).*/&/p' "$here/ucrt_complex.c" | grep -o '(c[a-z]*)' | tr -d '()' | sort -u; echo cpow)
{
  printf 'LIBRARY ucrtbase.dll\nEXPORTS\n'
  x86_64-w64-mingw32-objdump -p "$wine" | awk -v own="$own" '
    BEGIN { count = split(own, names, "\n"); for (i = 1; i <= count; i++) { n = names[i]; mine[n] = n; mine[n "f"] = n "f"; mine[n "l"] = n } }
    /\[Ordinal\/Name Pointer\] Table/ { inside = 1; next }
    inside && /^\t\[/ { print "\"" $NF "\"=" ($NF in mine ? "lab_" mine[$NF] : "ucrtwine." $NF) }'
} >"$work/ucrtbase.def"
x86_64-w64-mingw32-gcc -O2 -shared -nostdlib -Wl,-e,DllMain -o "$1/ucrtbase.dll" "$here/ucrt_complex.c" "$work/ucrtbase.def" \
  -lmingwex -lgcc -lmsvcrt -lkernel32
