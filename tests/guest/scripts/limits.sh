#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
need bash python3
# A fork bomb that a limit stops: as a user of its own, so that the count is the bomb's.
cat > bomb.py <<'S'
import os, resource, sys, signal
if os.getuid() == 0:
    os.setgid(43210); os.setuid(43210)
used = 0 if os.getuid() == 43210 else sum(1 for p in os.listdir('/proc') if p.isdigit() and os.path.exists('/proc/%s' % p) and os.stat('/proc/%s' % p).st_uid == os.getuid())
resource.setrlimit(resource.RLIMIT_NPROC, (used + 40, used + 40)) if used == 0 else sys.exit(0)
r, w = os.pipe(); os.setpgid(0, 0); failed = 0
def bomb(depth):
    global failed
    for _ in range(3):
        try: pid = os.fork()
        except BlockingIOError: failed = 1; continue
        if pid == 0:
            if depth < 8: bomb(depth + 1)
            os.write(w, b'f' if failed else b'.'); os.close(w)
            signal.pause()
bomb(0)
seen = b''
while b'f' not in seen: seen += os.read(r, 100)
print('a fork was refused'); sys.stdout.flush()
signal.signal(signal.SIGTERM, signal.SIG_IGN); os.kill(0, signal.SIGTERM)
while True:
    try: os.wait()
    except ChildProcessError: break
print('all ended', os.system('true'))
S
test "$(id -u)" = 0 && python3 bomb.py
bash -c 'ulimit -v 200000; python3 -c "a = bytearray(400 << 20)" 2>&1 | tail -1'
bash -c 'ulimit -t 1; while :; do :; done' 2>/dev/null; echo "cpu $?"
bash -c 'ulimit -n 10; exec 3</dev/null 4</dev/null 5</dev/null 6</dev/null 7</dev/null 8</dev/null 9</dev/null; exec 10</dev/null' 2>&1 | sed 's/.*: //'
bash -c 'ulimit -s 256; f() { f; }; f' >/dev/null 2>&1; echo "stack $(($? > 128))"
