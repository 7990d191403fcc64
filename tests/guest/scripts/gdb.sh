#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
need gdb gcc
cat >t.c <<'C'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <signal.h>
#include <unistd.h>
#include <sys/wait.h>
int watched, steps;
double f = 1.5;
static pthread_barrier_t b;
static void *body(void *p) { long n = (long)p; pthread_barrier_wait(&b); watched += n; pthread_barrier_wait(&b); return p; }
int inner(int n) { int local = n * 3; return local + 1; }
int outer(int n) { return inner(n) + inner(n + 1); }
static void on(int s) { (void)s; write(1, "handler\n", 8); }
int main(int argc, char **argv) {
    pthread_t t[2];
    signal(SIGUSR1, on);
    for (int i = 1; i < 4; i++) steps += i;
    printf("%d\n", outer(4));
    fflush(stdout);
    pthread_barrier_init(&b, 0, 3);
    for (long i = 0; i < 2; i++) pthread_create(&t[i], 0, body, (void *)(i + 1));
    pthread_barrier_wait(&b);
    pthread_barrier_wait(&b);
    for (int i = 0; i < 2; i++) pthread_join(t[i], 0);
    raise(SIGUSR1);
    pid_t c = fork();
    if (c == 0) { watched = 100; _exit(outer(1)); }
    int st; waitpid(c, &st, 0);
    printf("child %d\n", WEXITSTATUS(st));
    fflush(stdout);
    if (argc > 1) *(volatile int *)16 = 1;
    return watched;
}
C
gcc -g -O0 -pthread -o t t.c || exit 1
run() { gdb -nx -batch -iex 'set debuginfod enabled off' -ex 'set style enabled off' -ex 'set width 0' -ex 'set confirm off' -ex 'set print thread-events off' -ex 'handle SIGUSR1 nostop noprint pass' "$@" 2>&1 |
    sed -E 's/\(LWP [0-9]+\)/(LWP N)/; s/Thread 0x[0-9a-f]+/Thread P/; s/process [0-9]+/process N/; s/0x[0-9a-f]{6,}/ADDR/g; /libthread_db|warning: Error disabling|Download|debuginfod/d'; }
echo '-- breakpoints, steps, frames'; run -ex 'break inner' -ex run -ex bt -ex 'info args' -ex next -ex 'print local' -ex finish -ex 'thbreak outer' -ex 'delete 1' -ex 'set var f=2.25' -ex 'print f*2' -ex stepi -ex stepi -ex continue ./t
echo '-- watchpoints'; run -ex 'break main' -ex run -ex 'watch steps' -ex 'rwatch f' -ex continue -ex continue -ex 'print f' -ex continue -ex 'delete' -ex continue ./t | grep -E 'hit|Old|New|exited|^29|^child'
echo '-- threads'; run -ex 'break body if (long)p==2' -ex run -ex 'info threads' -ex 'thread apply 1 -q frame function main' -ex 'print (long)p' -ex kill ./t | grep -cE 'Thread P .LWP N. "t"|^\$1 = 2|main \(argc=1'
echo '-- signals'; run -ex 'handle SIGUSR1 stop print' -ex run -ex 'print $_siginfo.si_signo' -ex 'signal SIGUSR1' ./t | grep -v '^_\|^[0-9]*\s*\./'
echo '-- child'; run -ex 'set follow-fork-mode child' -ex 'break inner if n==1' -ex run -ex 'print n' ./t | grep -E 'hit|^\$1|Attaching|^29|handler'
echo '-- catch'; run -ex 'catch syscall write' -ex run -ex 'continue' -ex kill ./t | grep -v '#\|^ADDR' | head -8
echo '-- crash'; run -ex run -ex bt -ex 'print $_siginfo._sifields._sigfault.si_addr' -ex 'x/i $pc' -ex 'info registers eflags' --args ./t crash
ulimit -c unlimited
echo '-- attach'; sleep 100 & p=$!; gdb -nx -batch -p $p -ex 'info inferiors' -ex detach 2>&1 | grep -c 'process'; kill $p; wait $p 2>/dev/null; echo "sleep $?"
gcore -h >/dev/null 2>&1; echo '-- checkpoint'; run -ex 'break outer' -ex run -ex checkpoint -ex continue -ex 'restart 1' -ex 'print n' -ex 'kill' ./t | grep -E '^\$|Breakpoint|Checkpoint'
