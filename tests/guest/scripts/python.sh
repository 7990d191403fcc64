#!/bin/sh
. "$(dirname "$0")/../scripts-common.sh"
need python3
cat > t.py <<'S'
import os, sys, subprocess, threading, signal, mmap, select, socket, tempfile, multiprocessing, queue, fcntl, pty, time, json, hashlib, sqlite3, asyncio, selectors, shutil, resource, concurrent.futures, struct, array, zlib, ctypes
p = subprocess.run(['sh','-c','cat; echo err >&2; exit 4'], input=b'stdin', capture_output=True); print(p)
q = queue.Queue(); ts = [threading.Thread(target=lambda i=i: q.put(i*i)) for i in range(20)]; [t.start() for t in ts]; [t.join() for t in ts]; print(sorted(q.queue))
lock = threading.Lock(); n = 0
def work():
    global n
    for _ in range(2000):
        with lock: n += 1
ts = [threading.Thread(target=work) for _ in range(8)]; [t.start() for t in ts]; [t.join() for t in ts]; print(n)
def sq(x): return x*x
if __name__ == '__main__':
    with multiprocessing.get_context('fork').Pool(3) as pool: print(pool.map(sq, range(10)))
    with concurrent.futures.ThreadPoolExecutor(4) as ex: print(sum(ex.map(sq, range(100))))
got = []; signal.signal(signal.SIGUSR1, lambda s, f: got.append(s)); os.kill(os.getpid(), signal.SIGUSR1); print(got == [signal.SIGUSR1])
signal.setitimer(signal.ITIMER_REAL, 0.01); signal.signal(signal.SIGALRM, lambda s, f: got.append('alarm')); signal.pause(); print(got[-1])
with open('m','wb+') as f:
    f.write(b'x'*8192); f.flush(); m = mmap.mmap(f.fileno(), 8192); m[4096:4101] = b'hello'; m.flush(); f.seek(4096); print(f.read(5)); m.resize(4096); print(len(m)); m.close()
a, b = socket.socketpair(); a.sendall(b'abc'); print(select.select([b],[],[],0)[0] == [b], b.recv(10)); a.close(); print(b.recv(1))
pid, fd = pty.fork()
if pid == 0: print('in pty', os.isatty(0)); sys.stdout.flush(); os._exit(0)
out = b''
try:
    while True:
        d = os.read(fd, 100)
        if not d: break
        out += d
except OSError as e: pass
os.waitpid(pid, 0); print(out)
r, w = os.pipe(); pid = os.fork()
if pid == 0: os.write(w, b'child'); os._exit(7)
print(os.read(r, 10), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
with tempfile.TemporaryDirectory() as d:
    for i in range(5): open(os.path.join(d, str(i)), 'w').write('x'*i)
    print(sorted((e.name, e.stat().st_size) for e in os.scandir(d))); shutil.copytree(d, 'copy'); print(sorted(os.listdir('copy')))
async def main():
    async def t(i): await asyncio.sleep(0.001*(5-i)); return i
    print(await asyncio.gather(*[t(i) for i in range(5)])); pr = await asyncio.create_subprocess_exec('echo','async', stdout=subprocess.PIPE); print((await pr.communicate())[0])
asyncio.run(main())
db = sqlite3.connect('t.db'); db.execute('create table t(a,b)'); db.executemany('insert into t values(?,?)', [(i, str(i)) for i in range(1000)]); db.commit(); print(db.execute('select sum(a), count(*) from t where b like "%7%"').fetchone())
print(hashlib.sha256(zlib.compress(b'data'*1000)).hexdigest()[:16], json.dumps({'a': [1, 2.5, None]}, sort_keys=True))
f = open('l','w'); fcntl.flock(f, fcntl.LOCK_EX); f2 = open('l','w')
try: fcntl.flock(f2, fcntl.LOCK_EX | fcntl.LOCK_NB); print('no')
except BlockingIOError as e: print('locked', e.errno)
fds = [os.memfd_create('x') for _ in range(3)]; os.write(fds[0], b'mem'); print(os.sendfile(fds[1], fds[0], 0, 3), os.pread(fds[1], 3, 0)); print(os.get_blocking(r), os.eventfd(3) > 0)
for bad in ('/nonexistent', '/etc/passwd/x', '/'):
    try: open(bad)
    except OSError as e: print(type(e).__name__, e.errno)
print(ctypes.CDLL(None).getpid() == os.getpid(), resource.getrlimit(resource.RLIMIT_CORE)[0] >= -1, time.monotonic() > 0)
S
python3 t.py
