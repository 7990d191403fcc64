#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
seq 1 2000 > numbers
wc numbers; sort -rn numbers | head -3; sort -R --random-source=numbers numbers | sort -n | cmp - numbers && echo shuffled
cut -c1-2 numbers | sort | uniq -c | sort -rn | head -5
tr 0-9 a-j < numbers | md5sum
sha256sum numbers; cksum numbers; sum numbers
split -l 300 numbers part. && ls part.* && cat part.* | cmp - numbers && echo joined
paste -d: numbers numbers | tail -2
join numbers numbers | wc -l
comm -12 numbers numbers | wc -l
od -An -tx1 -N 16 numbers
mkdir -p a/b/c && touch -d '2001-02-03 04:05:06' a/b/c/f && stat -c '%n %s %F %a %y' a/b/c/f
ln -s b/c a/link && readlink a/link && readlink -f a/link | sed "s,$work,W,"
cp -a a copy && diff -r a copy && echo same
mv copy/b copy/moved && find copy | sort
chmod -R go-rwx copy && stat -c %A copy/moved
du --apparent-size -b numbers; df . > /dev/null && echo df works
dd if=numbers of=half bs=100 count=20 skip=3 2>&1 | grep -v copied; cksum half
truncate -s 1M sparse && stat -c %s sparse; head -c 100 /dev/zero | base64; basenc --base32 half | head -2
date -u -d @1000000000 +%FT%T; factor 1234567890; expr 7 \* 6; numfmt --to=iec 123456789
timeout 1 sleep 20; echo "timeout $?"; nice -n 5 nice; env -i A=1 env; printf '%05d|%-6s|%x\n' 42 ab 255
tac numbers | head -1; nl -ba numbers | tail -1; fold -w 7 numbers | wc -l; fmt -w 30 numbers | head -2; pr -3 -t -l 5 numbers | head -2
tee copy1 < numbers > copy2 && cmp copy2 copy1 && echo tee; install -m 750 numbers installed && stat -c %a installed
mkfifo pipe; (wc -l < pipe) & cat numbers > pipe; wait
test -p pipe && test ! -d pipe && [ numbers -nt a/b/c/f ] && echo tests; rm -rf a copy && ls; yes | head -1000 | wc -l; shuf -i 1-100 -n 100 | sort -n | md5sum
ls /nonexistent; echo "ls $?"; cat /nonexistent; rmdir .; true; false; echo $?
