"""The spanning tree protocol of bridges on the host and in a guest, in a network namespace of its own, as its root: what ip(8) and bridge(8) show
of it, what is sent and what comes of what is received, and which way stays open where there are several."""
import errno, json, socket, struct, subprocess, time

# How long what must happen may take.
PATIENCE = 40
GROUP = bytes.fromhex("0180c2000000")


def ip(*args):
    subprocess.run(["ip", *args], check=True)


def tried(*args):
    """What ip(8) or bridge(8) says when it is refused."""
    out = subprocess.run(args, capture_output=True, text=True)
    return "fine" if out.returncode == 0 else out.stderr.strip().split("\n")[-1]


def shown(*args):
    return json.loads(subprocess.run(["ip", "-j", "-d", "link", "show", *args], capture_output=True, text=True, check=True).stdout)


TIMERS = ("hello_timer", "tcn_timer", "topology_change_timer", "gc_timer", "message_age_timer", "forward_delay_timer", "hold_timer")


def bridge(name):
    """The bridge's part of the tree; of timers whether they run: one that begins again may be seen at its end."""
    running = [False] * 3
    for _ in range(3):
        d = shown(name)[0]
        data = d["linkinfo"]["info_data"]
        running = [r or data[k] > 0 for r, k in zip(running, ("hello_timer", "tcn_timer", "topology_change_timer"))]
    keys = ("forward_delay", "hello_time", "max_age", "ageing_time", "stp_state", "priority", "bridge_id", "root_id", "root_port", "root_path_cost",
            "topology_change", "topology_change_detected")
    return [d["operstate"], [data[k] for k in keys], running]


def port(name):
    d = shown(name)[0]["linkinfo"]["info_slave_data"]
    keys = ("state", "priority", "cost", "root_id", "bridge_id", "designated_port", "designated_cost", "id", "no", "topology_change_ack",
            "config_pending")
    return [d[k] for k in keys] + [d["message_age_timer"] > 0]


def of_bridge(name):
    """The same as bridge(8) tells it."""
    for d in json.loads(subprocess.run(["bridge", "-j", "-d", "link"], capture_output=True, text=True, check=True).stdout):
        if d["ifname"] == name:
            return [d.get(k) for k in ("master", "state", "priority", "cost", "hairpin", "guard", "learning", "flood", "isolated")]


def settled(*ports):
    """Waits until each is in a state that it stays in."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if all(port(p)[0] in ("forwarding", "blocking", "disabled") for p in ports):
            return
        time.sleep(0.05)
    print("not settled", [port(p)[0] for p in ports])


def until(what, f):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if f():
            return
        time.sleep(0.02)
    print("never", what)


def pair(a, b, n):
    ip("link", "add", a, "address", "02:00:00:00:00:%02x" % n, "type", "veth", "peer", "name", b, "address", "02:00:00:00:01:%02x" % n)
    for i in a, b:
        # Nobody else is to say anything.
        subprocess.run(["ip", "link", "set", i, "addrgenmode", "none"], check=True)


print("== without it")
ip("link", "add", "br0", "type", "bridge")
ip("link", "set", "br0", "addrgenmode", "none")
print(bridge("br0"))
pair("a0", "b0", 0x10)
ip("link", "set", "a0", "master", "br0")
print(bridge("br0"), port("a0"), of_bridge("a0"))
ip("link", "set", "a0", "up")
ip("link", "set", "b0", "up")
print("down", port("a0"))
ip("link", "set", "br0", "up")
print("up", bridge("br0"), port("a0"), of_bridge("a0"))
for state in 0, 1, 2, 3, 4, 5, 9:
    print("state", state, tried("bridge", "link", "set", "dev", "a0", "state", str(state)), port("a0")[0], shown("br0")[0]["operstate"])
ip("link", "set", "a0", "down")
print("state", tried("bridge", "link", "set", "dev", "a0", "state", "0"), port("a0")[0])
ip("link", "set", "a0", "up")
print("state", port("a0")[0])

print("== settings")
for what, values in {"hello_time": (0, 99, 100, 1000, 1001), "max_age": (599, 600, 4000, 4001), "forward_delay": (0, 100, 200, 3000, 3004, 60000),
                     "priority": (0, 1, 4096, 65535), "ageing_time": (0, 100, 30000)}.items():
    for v in values:
        print(what, v, tried("ip", "link", "set", "br0", "type", "bridge", what, str(v)), bridge("br0")[1])
ip("link", "set", "br0", "type", "bridge", "forward_delay", "100", "priority", "32768")
print("on", tried("ip", "link", "set", "br0", "type", "bridge", "stp_state", "1"), bridge("br0")[1], port("a0")[0])
for v in (100, 200, 3000, 3004):
    print("forward_delay", v, tried("ip", "link", "set", "br0", "type", "bridge", "forward_delay", str(v)), bridge("br0")[1])
for what, values in {"cost": (0, 1, 100, 65535, 65536), "priority": (0, 1, 63, 64), "state": (0, 3)}.items():
    for v in values:
        print("port", what, v, tried("bridge", "link", "set", "dev", "a0", what, str(v)), port("a0"))
print("off", tried("ip", "link", "set", "br0", "type", "bridge", "stp_state", "0"), bridge("br0")[1])
ip("link", "set", "a0", "nomaster")
print("empty", bridge("br0"), shown("br0")[0]["address"])
ip("link", "set", "br0", "address", "02:00:00:00:00:99")
print("own address", bridge("br0")[1])
ip("link", "set", "a0", "master", "br0")
print("and a port", bridge("br0")[1], shown("br0")[0]["address"])
ip("link", "del", "br0")
ip("link", "del", "a0")

print("== what is sent")


def message(b):
    """A message between bridges as the standard has it."""
    head = b[:12].hex(), struct.unpack_from("!H", b, 12)[0], b[14:17].hex()
    if len(b) < 52:
        return head + (b[17:].hex(),)
    version, kind, flags, root, cost, own, number, age, most, hello, delay = struct.unpack_from("!3sBB8sI8sHHHHH", b, 17)
    return head + (version.hex(), kind, flags, root.hex(), cost, own.hex(), hex(number), age < most, most, hello, delay, len(b))


def config(flags=0, root="0000020000000001", cost=0, own="0000020000000001", number=0x8001, age=0, most=6, hello=1, delay=2):
    return (GROUP + bytes.fromhex("020000000001") + b"\0\x26\x42\x42\x03" +
            struct.pack("!3sBB8sI8sHHHHH", bytes(3), 0, flags, bytes.fromhex(root), cost, bytes.fromhex(own), number, age * 256, most * 256, hello * 256, delay * 256))


NOTIFICATION = GROUP + bytes.fromhex("020000000001") + b"\0\x07\x42\x42\x03\0\0\0\x80"
TIMES = ("forward_delay", "200", "hello_time", "100", "max_age", "600")
ip("link", "add", "br0", "type", "bridge", "stp_state", "1", *TIMES)
ip("link", "set", "br0", "addrgenmode", "none")
pair("a0", "b0", 0x10)
pair("a1", "b1", 0x11)
wire = {}
for a, b in ("a0", "b0"), ("a1", "b1"):
    ip("link", "set", a, "master", "br0")
    ip("link", "set", b, "up")
    s = wire[b] = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(4))
    s.bind((b, 4))
    s.setsockopt(263, 23, 1)
    s.settimeout(PATIENCE)


def heard(b, f=lambda m: True):
    """The next message at that end that is as wanted."""
    while True:
        m = message(wire[b].recv(2000))
        if f(m):
            return m


def forget():
    for s in wire.values():
        s.setblocking(False)
        try:
            while True:
                s.recv(2000)
        except BlockingIOError:
            s.settimeout(PATIENCE)


ip("link", "set", "br0", "up")
print("nothing", bridge("br0"))
ip("link", "set", "a0", "up")
print("port", port("a0"), bridge("br0"))
ip("link", "set", "a1", "up")
print(heard("b0"))
print(heard("b1"))
settled("a0", "a1")
print("forwarding", port("a0"), port("a1"), bridge("br0"))
print("changed", heard("b0", lambda m: m[5] == 1))
until("the topology is as it was", lambda: bridge("br0")[1][-2:] == [0, 0])
print("quiet", bridge("br0"))
forget()
print(heard("b0"))
# A worse one is answered at once; of a better one it takes what it says, and passes it on.
wire["b0"].send(config(root="ffff020000000001"))
print("worse", heard("b0"), bridge("br0")[1])
forget()
wire["b0"].send(config(cost=7, hello=3, delay=4, most=8, flags=1))
until("another root", lambda: bridge("br0")[1][8] != 0)
print("better", bridge("br0"), port("a0"), port("a1"))
print("passed on", heard("b1", lambda m: m[6].startswith("0000")))
wire["b1"].send(NOTIFICATION)
print("told of a change", heard("b0", lambda m: len(m) < 5))
print("acknowledged", heard("b1", lambda m: len(m) > 5 and m[5] & 0x80))
wire["b0"].send(config(cost=7, hello=3, delay=4, most=8, flags=0x80))
until("acknowledged", lambda: bridge("br0")[1][-1] == 0)
print("acknowledged", bridge("br0"))
# Too old, cut short, of another kind, and to somebody else.
before = bridge("br0")[1]
wire["b1"].send(config(root="0000000000000000", age=7))
wire["b1"].send(config(root="0000000000000000")[:40])
wire["b1"].send(config(root="0000000000000000").replace(b"\x42\x42\x03\0\0\0\0", b"\x42\x42\x03\0\0\0\x02"))
wire["b1"].send(b"\x01\x80\xc2\0\0\x02" + config(root="0000000000000000")[6:])
print("nothing of that", bridge("br0")[1] == before)
# The other port is nearer to a better root; then neither says anything more.
wire["b1"].send(config(root="0000000000000000", cost=1))
until("nearer", lambda: bridge("br0")[1][8] == 2)
print("nearer", bridge("br0")[1], port("a0")[:9], port("a1")[:9])
until("root again", lambda: bridge("br0")[1][8] == 0)
print("root again", bridge("br0")[1][:10], port("a0")[0] in ("listening", "learning", "forwarding"))
settled("a0", "a1")
print(port("a0"), port("a1"))
# The same as one that is blocked: a bridge beside it that is nearer to the root.
wire["b0"].send(config(most=20))
wire["b1"].send(config(most=20, own="0000020000000002"))
until("blocked", lambda: port("a1")[0] == "blocking")
print("blocked", bridge("br0")[1], port("a0")[:9], port("a1")[:9])
print("cost", tried("bridge", "link", "set", "dev", "a0", "cost", "50"), port("a0")[:9], port("a1")[:9], bridge("br0")[1])
print("cost", tried("bridge", "link", "set", "dev", "a0", "cost", "1"), port("a1")[0], bridge("br0")[1])
ip("link", "set", "a0", "down")
settled("a1")
print("without", port("a0")[:9], port("a1")[:9], bridge("br0")[1])
ip("link", "set", "br0", "down")
print("down", bridge("br0"), port("a1"))
for i in "br0", "a0", "a1":
    ip("link", "del", i)

print("== a ring")
for n, name in enumerate(("br0", "br1", "br2")):
    ip("link", "add", name, "type", "bridge", "stp_state", "1", *TIMES)
    ip("link", "set", name, "addrgenmode", "none")
ring = []
for n, (x, y) in enumerate((("br0", "br1"), ("br1", "br2"), ("br2", "br0"), ("br0", "br1"))):
    a, b = "l%d" % n, "r%d" % n
    pair(a, b, 0x20 + n)
    for i, m in (a, x), (b, y):
        ip("link", "set", i, "master", m)
        ip("link", "set", i, "up")
        ring.append(i)
for name in "br0", "br1", "br2":
    ip("link", "set", name, "up")


def tree():
    """States once all bridges are of one mind."""
    until("one root", lambda: len({port(p)[3] for p in ring if port(p)[0] != "disabled"}) == 1)
    settled(*ring)
    for b in "br0", "br1", "br2":
        row = bridge(b)
        # How long addresses last depends on whether the topology still counts as changed.
        print(b, row[0], row[1][:3] + row[1][4:10])
    for p in ring:
        print(p, port(p)[:9])


tree()
# One broadcast comes to each bridge once.
stations = []
for b in "br0", "br1", "br2":
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b5))
    s.bind((b, 0x88b5))
    s.setsockopt(263, 23, 1)
    s.settimeout(PATIENCE)
    stations.append(s)
for n in range(3):
    stations[0].send(b"\xff" * 6 + bytes.fromhex("020000000099") + b"\x88\xb5" + bytes([n]) * 46)
print([[s.recv(100)[14] for _ in range(3)] for s in stations[1:]])
for s in stations:
    s.setblocking(False)
    try:
        print("and more", s.recv(100))
    except BlockingIOError:
        print("no more")
print("== another root")
ip("link", "set", "br2", "type", "bridge", "priority", "4096")
tree()
print("== a broken link")
ip("link", "set", "l2", "down")
until("noticed", lambda: port("r2")[0] == "disabled")
tree()
