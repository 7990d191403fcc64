#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
need awk sed grep
seq 1 5000 | awk '{ s += $1; c[$1 % 10]++ } END { print s; for (i = 0; i < 10; i++) printf "%d:%d ", i, c[i]; print "" }'
seq 1 5000 | sed -n '10,12p;/77$/{s/7/seven/;p}' | head -8; printf 'a\nb\nc\n' | sed -e '2{h;d}' -e '$G'; printf 'x=1\ny=2\n' > f && sed -i.bak 's/=/ = /' f && cat f f.bak
seq 1 10000 | grep -c '[13579]$'; grep -rn '^root' /etc/passwd | cut -d: -f1-3; printf 'one\ntwo\n' | grep -v one; echo abc | grep -q x; echo $?
seq 1 300 | awk '{ print > ("part" $1 % 3) } END { close("part0"); "wc -l < part0" | getline n; print n; system("echo from system") }'; diff part0 part1 | head -3; seq 100 > a; sed 's/5$/five/' a > b; diff -u0 a b | grep -c '^@'; cmp a b; diff a b > p; patch -s a < p && cmp a b && echo patched
printf '%s\n' "caf\303\251" | LC_ALL=C.UTF-8 awk '{ print length }'; echo 'hello world' | tr a-z A-Z | rev | xxd 2>/dev/null | head -1; bc -l 2>/dev/null <<X
scale=20; 4*a(1)
X
