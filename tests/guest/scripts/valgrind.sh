#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
need valgrind gcc
cat >t.c <<'C'
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>
#include <sys/wait.h>
static int racy; static void *body(void *p) { for (int i = 0; i < 100; i++) racy++; return p; }
static void on(int s) { (void)s; }
int main(int argc, char **argv) {
    char *p = malloc(10); memset(p, 1, 10); if (argc > 1) p[10] = 1;
    int u; char *leak = malloc(32); leak[0] = 0; if (argc > 1 && u == 77) puts("luck");
    signal(SIGALRM, on); alarm(1); pause();
    pthread_t t[2]; for (int i = 0; i < 2; i++) pthread_create(&t[i], 0, body, 0); for (int i = 0; i < 2; i++) pthread_join(t[i], 0);
    if (fork() == 0) _exit(0); wait(0);
    free(p); printf("%d\n", racy > 0); return 0;
}
C
gcc -g -O0 -pthread -o t t.c 2>/dev/null || exit 1
norm() { sed -E 's/==[0-9]+==/==N==/; s/0x[0-9A-Fa-f]+/ADDR/g; /Command:|Copyright|Using Valgrind|total heap usage/d'; }
valgrind -q --error-exitcode=9 ./t 2>&1 | norm; valgrind --leak-check=full --error-exitcode=9 ./t x >out 2>&1; echo "status $?"; norm <out | grep -E 'Invalid|Conditional|definitely|ERROR SUMMARY'
valgrind -q --tool=helgrind --error-exitcode=8 ./t >out 2>&1; echo "status $?"; norm <out | grep -c 'data race' | sed 's/[1-9][0-9]*/races/'
valgrind --tool=cachegrind --cache-sim=yes --cachegrind-out-file=c ./t 2>/dev/null; grep -c '^fn=main' c; valgrind -q --tool=callgrind --callgrind-out-file=d ./t; grep -c 'fn=.*main' d | sed 's/[1-9][0-9]*/functions/'; valgrind -q --tool=massif --massif-out-file=m ./t; grep -c snapshot= m | sed 's/[1-9][0-9]*/snapshots/'
valgrind -q /bin/ls / >/dev/null; echo "ls $?"
for s in address undefined thread; do
    gcc -g -fsanitize=$s -pthread -o s t.c 2>/dev/null || { echo "no -fsanitize=$s"; continue; }
    ./s >out 2>&1; echo "$s $?"; grep -oE 'WARNING: ThreadSanitizer: data race|SUMMARY: [A-Za-z]+Sanitizer: [a-z-]+( leaked|)' out | sort -u | head -3; ./s x >out 2>&1; grep -oE 'heap-buffer-overflow' out | head -1
done
