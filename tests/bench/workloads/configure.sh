#!/bin/sh
# What a configure script does: probes headers and functions with the compiler, tests and substitutes.
set -e
work=$(mktemp -d "${TMPDIR:-/tmp}/configure.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
for h in stdio.h stdlib.h unistd.h sys/stat.h no/such.h string.h signal.h pthread.h missing.h math.h; do
    printf '#include <%s>\nint main(void) { return 0; }\n' "$h" > conftest.c
    if cc -c conftest.c -o conftest.o 2> conftest.log; then r=yes; else r=no; fi
    name=$(echo "HAVE_$h" | tr 'a-z/.' 'A-Z__')
    echo "s|@$name@|$r|" >> subst
done
for f in fork mmap strlcpy clock_gettime nonexistent epoll_create; do
    printf 'char %s(void); int main(void) { return (int)(long)&%s; }\n' "$f" "$f" > conftest.c
    if cc -w conftest.c -o conftest 2> conftest.log; then echo "$f yes"; else echo "$f no"; fi >> results
done
for i in 1 2 3 4 5 6 7 8 9 10; do
    for t in awk sed grep tr expr test sort; do command -v $t > /dev/null && echo "$t $(command -v $t)" | sed 's/ .*//' >> tools; done
done
[ "$(grep -c yes results)" -ge 4 ] && [ "$(wc -l < tools)" = 70 ]
