#!/bin/sh
# Compiles eight generated C files with optimisation and links them, two at a time.
set -e
work=$(mktemp -d "${TMPDIR:-/tmp}/compile.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
n=8
i=0
while [ $i -lt $n ]; do
    {
        echo '#include <stdio.h>'; echo '#include <stdlib.h>'; echo '#include <string.h>'
        j=0
        while [ $j -lt 25 ]; do
            echo "int f${i}_$j(int n, const char *s) { int a[64]; for (int k = 0; k < 64; k++) a[k] = (k * n) ^ (int)strlen(s); int t = 0; for (int k = 0; k < 64; k++) t += a[k] % (n + $j + 1 ? n + $j + 1 : 1); return t; }"
            j=$((j + 1))
        done
    } > "f$i.c"
    i=$((i + 1))
done
echo 'int f0_0(int, const char *); int main(void) { return f0_0(3, "x") == 0; }' > main.c
seq 0 $((n - 1)) | xargs -P 2 -I{} cc -O2 -c f{}.c
cc -O2 main.c f*.o -o program
./program
