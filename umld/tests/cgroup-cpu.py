# cpu.max of control groups, in a guest: what the files take and say, and that programs are held to it. Nothing here needs a
# quiet machine: a group may get less than its share, never more.
import errno, os, signal, subprocess, time

os.makedirs("/tmp/cg")
subprocess.run(["mount", "-t", "cgroup2", "none", "/tmp/cg"], check=True)
os.chdir("/tmp/cg")


def put(path, text):
    try:
        with open(path, "w") as f:
            f.write(text)
    except OSError as e:
        return errno.errorcode[e.errno]
    return "ok"


def get(path):
    with open(path) as f:
        return f.read().strip()


def stat(group):
    return {k: int(v) for k, v in (line.split() for line in get(group + "/cpu.stat").splitlines())}


os.mkdir("a")
print(os.path.exists("a/cpu.max"), "nr_periods" in stat("a"))
put("cgroup.subtree_control", "+cpu")
print(get("a/cpu.max"))
for text in ["x", "0", "999", "-1", "1000 999", "1000 1000001", "max max", "1 2 3", "50000 200000", "max", "30000"]:
    print(repr(text), put("a/cpu.max", text), get("a/cpu.max"))
put("a/cpu.max", "20000 100000")
os.mkdir("a/b")


def busy():
    pid = os.fork()
    if pid == 0:
        put("a/b/cgroup.procs", "0")
        while True:
            pass
    return pid


# Seconds: a look that comes late on a loaded host lets the group run on, and the periods after it pay.
SLACK = 0.25


def during(seconds):
    """CPU time that the group used beyond what it may, in so much time and until it was held some times more."""
    began, before = time.monotonic(), stat("a")["usage_usec"]
    enough = stat("a")["nr_throttled"] + 5
    while time.monotonic() - began < seconds or stat("a")["nr_throttled"] < enough:
        time.sleep(0.1)
    used = (stat("a")["usage_usec"] - before) / 1e6
    return used - 0.2 * (time.monotonic() - began)


# Three in a group below share what the one above may use.
pids = [busy() for _ in range(3)]
excess = during(2)
print("held" if excess < SLACK else f"{excess:.3f} s too much")
s = stat("a")
print(s["nr_throttled"] >= 5, s["nr_periods"] >= s["nr_throttled"], s["throttled_usec"] > 0)
print("nothing of its own below", "nr_periods" in stat("a/b"))
# What is held can be killed, and the rest goes on.
os.kill(pids[0], signal.SIGKILL)
print(os.waitpid(pids[0], 0)[1])
# A stop and a continuation do not let it out.
os.kill(pids[1], signal.SIGSTOP)
os.waitpid(pids[1], os.WUNTRACED)
os.kill(pids[1], signal.SIGCONT)
excess = during(1)
print("held" if excess < SLACK else f"{excess:.3f} s too much")
# Out of the group, and no limit any more.
put("cgroup.procs", str(pids[1]))
put("a/cpu.max", "max")
time.sleep(0.3)
throttled = stat("a")["nr_throttled"]
time.sleep(0.5)
print(stat("a")["nr_throttled"] == throttled)
for pid in pids[1:]:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
# One that sleeps costs nothing: its periods do not run.
put("a/cpu.max", "20000 100000")
sleeper = subprocess.Popen(["sh", "-c", "echo 0 >a/b/cgroup.procs; exec sleep 1000"])
while "S" not in get(f"/proc/{sleeper.pid}/stat").rsplit(")")[1].split()[0] or get(f"/proc/{sleeper.pid}/comm") != "sleep":
    time.sleep(0.01)
time.sleep(0.3)
periods = stat("a")["nr_periods"]
time.sleep(0.5)
print(stat("a")["nr_periods"] == periods)
sleeper.kill()
sleeper.wait()
put("cgroup.subtree_control", "-cpu")
print(os.path.exists("a/cpu.max"))
put("cgroup.subtree_control", "+cpu")
print(get("a/cpu.max"))
