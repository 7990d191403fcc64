"""Groups of packet sockets (PACKET_FANOUT) on the host and in a guest, in a network namespace of its own, as its root."""
import ctypes, errno, os, socket, struct, subprocess

SOL_PACKET, RX_RING, STATISTICS, VERSION, FANOUT, ROLLOVER_STATS, FANOUT_DATA, IGNORE_OUTGOING = 263, 5, 6, 10, 18, 21, 22, 23
HASH, LB, CPU, ROLLOVER, RND, QM, CBPF, EBPF = range(8)
F_ROLLOVER, F_UNIQUE, F_IGNORE_OUTGOING, F_DEFRAG = 0x1000, 0x2000, 0x4000, 0x8000
# How long what must happen may take.
PATIENCE = 20


def name(f):
    try:
        return f() or "fine"
    except OSError as e:
        return errno.errorcode[e.errno]


def packets(protocol=0x0800, kind=socket.SOCK_RAW, where="lo"):
    s = socket.socket(socket.AF_PACKET, kind, 0)
    s.bind((where, protocol))
    s.setblocking(False)
    return s


def join(s, id, kind, flags=0, most=None):
    b = struct.pack("=HH", id, kind | flags)
    if most is not None:
        b += struct.pack("=I", most)
    return name(lambda: s.setsockopt(SOL_PACKET, FANOUT, b))


def group(s):
    return hex(s.getsockopt(SOL_PACKET, FANOUT))


def several(n, id, kind, flags=0, **more):
    all = [packets(**more) for _ in range(n)]
    print("joined", {join(s, id, kind, flags) for s in all}, {group(s) for s in all})
    return all


def close(*sockets):
    for s in sockets:
        s.close()


def got(s):
    """Lengths of the frames that wait."""
    n = []
    try:
        while True:
            n.append(len(s.recv(70000)))
    except BlockingIOError:
        return n


def spread(all):
    return [len(got(s)) for s in all]


subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
heard.bind(("127.0.0.1", 7777))
heard.settimeout(PATIENCE)


def sender():
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    u.connect(("127.0.0.1", 7777))
    return u


u = sender()


def send(n=1, text=b"x", by=u):
    for _ in range(n):
        by.send(text)
        # It has passed the interface once it is there.
        heard.recv(70000)


print("== joining")
s = packets()
print("none", group(s), [join(s, 1, k) for k in (8, 9, 255)], join(s, 1, ROLLOVER, F_ROLLOVER), join(s, 1, HASH, F_UNIQUE),
      name(lambda: s.setsockopt(SOL_PACKET, FANOUT, b"\0\0")), name(lambda: s.setsockopt(SOL_PACKET, FANOUT, b"")))
print("first", join(s, 7, HASH), group(s), join(s, 7, HASH), join(s, 8, LB), group(s))
t = packets()
print("others", join(t, 7, LB), join(t, 7, HASH, F_DEFRAG), join(t, 7, HASH, F_ROLLOVER), join(t, 7, HASH, 0, 3), join(t, 7, HASH, 0, 256), group(t))
print("bound", name(lambda: s.bind(("lo", 0x0806))), name(lambda: t.bind(("lo", 0x0800))))
r = packets(0x0806)
print("protocol", join(r, 7, HASH), join(r, 9, HASH), group(r))
r2 = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
print("interface", join(r2, 9, HASH))
unbound = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
print("unbound", join(unbound, 7, HASH), join(unbound, 10, HASH), group(unbound))
close(s, t)
s = packets()
print("again", join(s, 7, LB), group(s))
close(s, r, r2, unbound)
three = [packets() for _ in range(4)]
print("most", join(three[0], 3, LB, 0, 65537), join(three[0], 3, LB, 0, 3), [join(s, 3, LB) for s in three[1:]])
three[1].close()
print("room", join(three[3], 3, LB, 0, 3))
close(*three)
print("unique", join(s := packets(), 0, HASH, F_UNIQUE | F_DEFRAG), hex(s.getsockopt(SOL_PACKET, FANOUT) & ~0xffff))
t = packets()
print("unique", join(t, 0, HASH, F_UNIQUE | F_DEFRAG), t.getsockopt(SOL_PACKET, FANOUT) & 0xffff != s.getsockopt(SOL_PACKET, FANOUT) & 0xffff)
r = packets()
print("unique", join(r, s.getsockopt(SOL_PACKET, FANOUT) & 0xffff, HASH, F_DEFRAG), r.getsockopt(SOL_PACKET, FANOUT) == s.getsockopt(SOL_PACKET, FANOUT))
close(s, t, r)

print("== in turn")
all = several(3, 1, LB)
outside = packets()
outside.setsockopt(SOL_PACKET, IGNORE_OUTGOING, 1)
send(30)
print(spread(all), spread([outside]))
# The last takes the place of one that ends.
all.pop(0).close()
send(30)
print(spread(all), spread([outside]))
close(*all, outside)

print("== by flow")
all = several(4, 2, HASH)
others = [sender() for _ in range(64)]
one = 0
for o in others:
    send(5, by=o)
    n = spread(all)
    # Frames with the same addresses and ports are with one of them.
    one += sorted(n) == [0, 0, 0, 5]
print(one)
send(3)
for o in others:
    send(by=o)
n = spread(all)
print(sum(n), [x > 0 for x in n])
# Answers are of the same flow.
heard2 = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
heard2.bind(("127.0.0.1", 7778))
heard2.connect(("127.0.0.1", 7777))
for _ in range(4):
    send(by=heard2)
    heard.sendto(b"x", ("127.0.0.1", 7778))
    heard2.recv(10)
print(sorted(spread(all)))
close(*all)

print("== by chance")
all = several(4, 2, RND)
send(200)
n = spread(all)
print(sum(n), [x > 10 for x in n])
close(*all)

print("== by processor")
all = several(1, 2, CPU)
send(20)
print(spread(all))
close(*all)
all = several(64, 2, CPU)
os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})
send(20)
n = spread(all)
print(sum(n), sorted(n)[-1])
close(*all)

print("== by queue")
all = several(3, 2, QM)
send(20)
print(spread(all))
close(*all)

print("== rolling over")
all = [packets() for _ in range(3)]
for s in all:
    # Twice as much is had; a frame costs more than it is long.
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20000)
print([join(s, 4, ROLLOVER) for s in all])
send(400)
n = spread(all)
print([x > 2 for x in n], sum(n) < 400)
st = [struct.unpack("=3Q", s.getsockopt(SOL_PACKET, ROLLOVER_STATS, 24)) for s in all]
print("statistics", st[0][0] > 0, st[0][1:2], st[0][2] > 0, st[1:])
close(*all)
# By slots of a ring the room is the same everywhere.
all = [packets() for _ in range(3)]
for s in all:
    s.setsockopt(SOL_PACKET, VERSION, 1)
    s.setsockopt(SOL_PACKET, RX_RING, struct.pack("=4I", 4096, 2, 512, 16))
print([join(s, 4, ROLLOVER) for s in all])
send(60)
print("statistics", [struct.unpack("=3Q", s.getsockopt(SOL_PACKET, ROLLOVER_STATS, 24)) for s in all],
      [struct.unpack("=2I", s.getsockopt(SOL_PACKET, STATISTICS, 8)) for s in all])
close(*all)
all = [packets() for _ in range(3)]
for s in all:
    s.setsockopt(SOL_PACKET, VERSION, 1)
    s.setsockopt(SOL_PACKET, RX_RING, struct.pack("=4I", 4096, 2, 512, 16))
print([join(s, 4, LB, F_ROLLOVER) for s in all])
send(60)
print("statistics", [struct.unpack("=3Q", s.getsockopt(SOL_PACKET, ROLLOVER_STATS, 24))[0::2] for s in all],
      [struct.unpack("=2I", s.getsockopt(SOL_PACKET, STATISTICS, 8)) for s in all])
close(*all)
s = packets()
print("no statistics", name(lambda: s.getsockopt(SOL_PACKET, ROLLOVER_STATS, 24)), join(s, 1, LB), name(lambda: s.getsockopt(SOL_PACKET, ROLLOVER_STATS, 24)))
print("no program", name(lambda: s.setsockopt(SOL_PACKET, FANOUT_DATA, bytes(16))), name(lambda: packets().setsockopt(SOL_PACKET, FANOUT_DATA, bytes(16))))
close(s)

print("== by program")


def program(*insns):
    b = b"".join(struct.pack("=HBBI", *i) for i in insns)
    buffer = ctypes.create_string_buffer(b, len(b))
    return struct.pack("HxxxxxxP", len(insns), ctypes.addressof(buffer)), buffer


all = several(3, 5, CBPF)
send(3)
print(spread(all))
for n in 1, 2, 4:
    p, keep = program((6, 0, 0, n))
    print(name(lambda: all[0].setsockopt(SOL_PACKET, FANOUT_DATA, p)))
    send(3)
    print(spread(all))
print("short", name(lambda: all[0].setsockopt(SOL_PACKET, FANOUT_DATA, b"x")))
close(*all)

print("== both ways")
all = several(2, 6, LB, protocol=3)
send(10)
print(spread(all))
close(*all)
all = several(2, 6, LB, F_IGNORE_OUTGOING, protocol=3)
send(10)
print(spread(all))
close(*all)

print("== whole datagrams")
subprocess.run(["ip", "link", "set", "lo", "mtu", "1500"], check=True)
for flags in 0, F_DEFRAG:
    all = several(2, 6, LB, flags)
    send(4, b"y" * 6000)
    print([got(s) for s in all])
    close(*all)
