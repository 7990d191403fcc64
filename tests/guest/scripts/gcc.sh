#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
need gcc make
cat > a.c <<'S'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <pthread.h>
#include <math.h>
#include <errno.h>
int helper(int);
static void *t(void *p) { *(int *)p *= 2; return p; }
int main(int argc, char **argv) {
    pthread_t th[4]; int v[4] = {1,2,3,4}, s = 0;
    for (int i = 0; i < 4; i++) pthread_create(&th[i], 0, t, &v[i]);
    for (int i = 0; i < 4; i++) { pthread_join(th[i], 0); s += v[i]; }
    printf("%d args, sum %d, helper %d, sqrt %.6f, %s\n", argc, s, helper(20), sqrt(2), strerror(ENOENT));
    double a[1000]; for (int i = 0; i < 1000; i++) a[i] = sin(i); double x = 0; for (int i = 0; i < 1000; i++) x += a[i] * a[i]; printf("%.9f\n", x);
    return 42;
}
S
echo 'int helper(int n) { return n < 2 ? n : helper(n-1) + helper(n-2); }' > b.c
gcc -O2 -Wall -c a.c && gcc -O2 -c b.c && gcc -o dyn a.o b.o -lpthread -lm && ./dyn x y; echo "status $?"
gcc -O2 -static -o stat a.o b.o -lpthread -lm && ./stat; echo "status $?"
gcc -shared -fPIC -o libb.so b.c && gcc -o so a.o -L. -lb -lm -Wl,-rpath,'$ORIGIN' && ./so; echo "status $?"
printf 'all: p\np: a.o b.o\n\tgcc -o p a.o b.o -lm\n%%.o: %%.c\n\tgcc -O1 -c $<\n' > Makefile; touch a.c b.c; make -j2 2>&1 | sort; ./p; echo "status $?"
echo 'int main(void) { return *(volatile int *)0; }' > crash.c; gcc -o crash crash.c && ./crash 2>/dev/null; echo "crash $?"
echo 'this is not C' > bad.c; gcc -c bad.c >/dev/null 2>&1; echo "bad $?"; ar rcs libb.a b.o && nm libb.a | grep helper | sed 's/^[0-9a-f]*//'; strip dyn && ./dyn; echo $?
if command -v g++ >/dev/null; then printf '#include <iostream>\n#include <stdexcept>\nint main(){ try { throw std::runtime_error("thrown"); } catch (std::exception &e) { std::cout << e.what() << std::endl; } }\n' > c.cc; g++ -o cc c.cc && ./cc; fi
