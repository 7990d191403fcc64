#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
need strace ltrace gcc
cat >t.c <<'C'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <pthread.h>
#include <sys/wait.h>
static void *b(void *p) { getppid(); return p; }
int main(void) { char *s = strdup("abc"); printf("%zu\n", strlen(s)); fflush(stdout); free(s); pthread_t t; pthread_create(&t, 0, b, 0); pthread_join(t, 0); if (!fork()) { execl("/bin/true", "true", (char *)0); } int st; wait(&st); return 3; }
C
gcc -O0 -fno-builtin -pthread -Wl,-z,lazy -no-pie -o t t.c || exit 1
strace -qq -f -e signal=none -e trace=clone,clone3,execve,exit_group,getppid,wait4 -o o ./t; echo "status $?"; sed -E 's/^[0-9]+ +//; s/[0-9]{2,}|0x[0-9a-f]+/N/g; s/ <unfinished.*//; /resumed/d; s/\/\* [0-9N]+ vars \*\//VARS/' o | cut -d'(' -f1 | sort | uniq -c
strace -qq -e signal=none -e inject=write:error=ENOSPC -e trace=none ./t >/dev/null; echo "injected $?"; strace -qq -y -e signal=none -e trace=write ./t 2>&1 >/dev/null | grep -c '/dev/null'; strace -c -o o ./t >/dev/null; grep -c execve o; strace -k -e signal=none -e trace=getppid -f -o o ./t >/dev/null 2>&1; echo "stack $?"; strace -qq --seccomp-bpf -f -e signal=none -e trace=getppid -o o ./t; sed 's/^[0-9]* *//; s/= .*/=/' o; strace -qq -tt -T -e trace=nanosleep,clock_nanosleep sleep 0.01 2>&1 | grep -c nanosleep
ltrace -o o ./t; echo "ltrace $?"; grep -oE '^(strdup|strlen|free|printf|pthread_create|pthread_join|fork|wait)\(' o | sort | uniq -c; ltrace -c -o o ./t >/dev/null; grep -cE 'strlen' o; ltrace -f -e strlen -o o ./t; grep -c strlen o
sleep 100 & p=$!; timeout 10 strace -qq -p $p -e trace=none -o o & s=$!; until grep -q "TracerPid:.*[1-9]" /proc/$p/status; do :; done; kill $s; wait $s 2>/dev/null; kill $p; wait $p 2>/dev/null; echo "attached, detached, $?"
