# Weights of control groups, in a guest: what the files take, and that CPU time is shared by them.
import errno, os, signal, subprocess, time

os.mkdir("/tmp/cg")
subprocess.run(["mount", "-t", "cgroup2", "none", "/tmp/cg"], check=True)
os.chdir("/tmp/cg")


def put(file, text):
    try:
        f = os.open(file, os.O_WRONLY)
        try:
            os.write(f, text.encode())
        finally:
            os.close(f)
        return "ok"
    except OSError as e:
        return errno.errorcode[e.errno]


def get(file):
    return open(file).read().strip()


def shown():
    return get("a/cpu.weight") + " " + get("a/cpu.weight.nice")


def used(group):
    return int(get(group + "/cpu.stat").split()[1])


def hog(group):
    pid = os.fork()
    if pid == 0:
        put(group + "/cgroup.procs", "0")
        while True:
            pass
    return pid


def measure(groups, at_least):
    """CPU time of each group until all have used so much (us) together: the same work on a host with other load."""
    before = [used(g) for g in groups]
    while True:
        time.sleep(0.2)
        spent = [used(g) - b for g, b in zip(groups, before)]
        if sum(spent) >= at_least:
            return [s / sum(spent) for s in spent]


put("cgroup.subtree_control", "+cpu")
for g in "abc":
    os.mkdir(g)
print(shown())
for text in ["0", "10001", "much", "1 2", "50"]:
    print(repr(text), put("a/cpu.weight", text), shown())
for text in ["-21", "-1", "x"]:
    print("nice", repr(text), put("a/cpu.weight.nice", text), shown())
put("a/cpu.weight", "50")
put("b/cpu.weight", "100")
put("c/cpu.weight", "150")
pids = {g: [hog(g) for _ in range(os.cpu_count() + 1)] for g in "abc"}
measure("abc", 200_000)
shares = measure("abc", 3_000_000)
print("shares", *[abs(s - part / 6) < 0.07 for s, part in zip(shares, (1, 2, 3))])
for g in "abc":
    put(g + "/cpu.weight", "100")
measure("abc", 200_000)
print("equal again", all(abs(s - 1 / 3) < 0.1 for s in measure("abc", 2_000_000)))
# Who is alone has everything.
put("a/cpu.weight", "1")
for pid in pids["b"] + pids["c"]:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
print("alone", measure("abc", 1_000_000)[0] > 0.99)
for pid in pids["a"]:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
put("cgroup.subtree_control", "-cpu")
put("cgroup.subtree_control", "+cpu")
print(shown())
