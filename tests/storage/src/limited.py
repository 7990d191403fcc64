"""io.max: what it says, and that it holds. Times are compared with what a limit forces, so a slow machine changes nothing."""

import errno, mmap, os, signal, subprocess, sys, threading, time

CG = "/sys/fs/cgroup"
if not os.path.exists(CG + "/cgroup.procs"):
    os.makedirs("/run/cg", exist_ok=True)
    CG = "/run/cg"
    subprocess.run(["mount", "-t", "cgroup2", "none", CG], check=True)


def put(path, text):
    with open(f"{CG}/{path}", "w") as f:
        f.write(text)


def get(path):
    return open(f"{CG}/{path}").read()


def number(node):
    s = os.stat(node).st_rdev
    return f"{os.major(s)}:{os.minor(s)}"


B, C = number("/dev/ubdb"), number("/dev/ubdc")
put("cgroup.subtree_control", "+io")
os.mkdir(CG + "/a")
put("a/cgroup.subtree_control", "+io")
os.mkdir(CG + "/a/in")


def limits(group):
    lines = get(f"{group}/io.max").splitlines()
    return " ".join(l.split(" ", 1)[1] for l in lines if l.startswith(B + " "))


print("empty", repr(get("a/io.max")))
put("a/io.max", f"{B} rbps=1048576 wiops=100")
print("kept", repr(limits("a")))
put("a/io.max", f"{B} wbps=4096")
print("more", repr(limits("a")))
put("a/io.max", f"{B} rbps=max wbps=max wiops=max")
print("none", repr(get("a/io.max")))
errors = []
for text in ["", "x", "98 rbps=1", "98:4096 rbps=1", "7:0 rbps=1", f"{B} rbps=0", f"{B} rbps", f"{B} bps=1", f"{B} rbps=x"]:
    try:
        put("a/io.max", text or " ")
        errors.append("ok")
    except OSError as e:
        errors.append(errno.errorcode[e.errno])
print("errors", errors)

BLOCK = 64 << 10


def run(code, group="a/in"):
    """Starts python code in the group."""
    text = f"import os, mmap\nopen('{CG}/{group}/cgroup.procs', 'w').write('0')\n" + code
    return subprocess.Popen([sys.executable, "-c", text])


def work(node, write, count):
    flags = "os.O_WRONLY" if write else "os.O_RDONLY"
    call = f"os.pwritev(fd, [buf], n * {BLOCK})" if write else f"os.preadv(fd, [buf], n * {BLOCK})"
    return f"fd = os.open('{node}', {flags} | os.O_DIRECT)\nbuf = mmap.mmap(-1, {BLOCK})\nfor n in range({count}): {call}\n"


def held(what, code, least):
    began = time.monotonic()
    assert run(code).wait() == 0
    took = time.monotonic() - began
    print(f"{what}:", "held" if took >= least else f"only {took}")


# 1 MiB in 16 requests at 1 MiB a second.
put("a/in/io.max", f"{B} rbps=1048576")
held("bytes read", work("/dev/ubdb", False, 16), 1.0)
put("a/in/io.max", f"{B} rbps=max wiops=10")
held("requests written", work("/dev/ubdb", True, 16), 1.6)
put("a/in/io.max", f"{B} wiops=max")
put("a/io.max", f"{B} rbps=2097152")
held("of the group above", work("/dev/ubdb", False, 32), 1.0)
# A thread that makes no requests goes on beside one that is held; the rest of the counting thread's requests are free.
put("a/io.max", f"{B} rbps=4096")
code = f"""
import threading, time
flag = []
def read():
    {work("/dev/ubdb", False, 1).strip().replace(chr(10), chr(10) + "    ")}
    flag.append(1)
t = threading.Thread(target=read, daemon=True)
t.start()
n = 0
end = time.monotonic() + 60
while not flag and n < 2000000: n += 1
os._exit(0 if n == 2000000 and not flag else 1)
"""
print("a thread beside it runs:", run(code).wait() == 0)
put("a/io.max", f"{B} rbps=max")
stat = dict(l.split(" ", 1) for l in get("a/in/io.stat").splitlines())
before = int(stat[C].split("rbytes=")[1].split()[0]) if C in stat else 0
put("a/io.max", f"{B} rbps=1")
assert run(work("/dev/ubdc", False, 16)).wait() == 0
stat = dict(l.split(" ", 1) for l in get("a/in/io.stat").splitlines())
print("counted", int(stat[C].split("rbytes=")[1].split()[0]) - before, 16 * BLOCK)
# 64 KiB at a byte a second: whoever waits for that can still be killed, and goes on when the limit goes.
def wait_held(p):
    while True:
        try:
            if open(f"/proc/{p.pid}/wchan").read() == "io_schedule":
                return
        except OSError:
            pass
        time.sleep(0.005)
p = run(work("/dev/ubdb", False, 2))
wait_held(p)
p.kill()
print("killed while held:", p.wait())
p = run(work("/dev/ubdb", False, 2))
wait_held(p)
put("a/io.max", f"{B} rbps=max")
print("lifted:", "goes on" if p.wait() == 0 else "failed")
