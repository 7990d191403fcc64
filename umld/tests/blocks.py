"""Rings of packet sockets on the host and in a guest: blocks (TPACKET_V3), what is sent (PACKET_TX_RING), both at once, and two threads
that want one. In a network namespace of its own, as its root."""
import errno, mmap, os, select, socket, struct, subprocess, threading, time

SOL_PACKET, RX_RING, STATISTICS, VERSION, HDRLEN, RESERVE, TX_RING, LOSS, TX_HAS_OFF = 263, 5, 6, 10, 11, 12, 13, 14, 19
USER, SEND_REQUEST, WRONG_FORMAT, TIMEOUT, LOSING = 1, 1, 4, 0x20, 4
# How long what must happen may take, in milliseconds.
PATIENCE = 20000


def name(f):
    try:
        return f() or "fine"
    except OSError as e:
        return errno.errorcode[e.errno]


def option(s, which, value):
    return name(lambda: s.setsockopt(SOL_PACKET, which, value))


def ring(s, which, *shape):
    return option(s, which, struct.pack("=%dI" % len(shape), *shape))


def packets(version, kind=socket.SOCK_RAW):
    s = socket.socket(socket.AF_PACKET, kind, 0)
    s.setsockopt(SOL_PACKET, VERSION, version)
    return s


def statistics(s):
    b = s.getsockopt(SOL_PACKET, STATISTICS, 12)
    return struct.unpack("=%dI" % (len(b) // 4), b)


def mapped(s, n):
    m = mmap.mmap(s.fileno(), n)
    m.close()


subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
u, heard = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
heard.bind(("127.0.0.1", 7777))
heard.settimeout(PATIENCE / 1000)
u.connect(("127.0.0.1", 7777))


def send(text):
    u.send(text)
    # It has passed the interface once it is there.
    heard.recv(60000)


def frame(text, port=7777):
    """An Ethernet frame for the loopback with a datagram."""
    udp = struct.pack("!HHHH", 1000, port, 8 + len(text), 0) + text
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, b"\x7f\0\0\1", b"\x7f\0\0\1")
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xffff) + (total >> 16)
    return bytes(12) + b"\x08\0" + head[:10] + struct.pack("!H", total ^ 0xffff) + head[12:] + udp


def block(m, size, n):
    """The block `n`, given back."""
    at = n * size
    version, private, status, count, first, length, number = struct.unpack_from("=IIIIIIQ", m, at)
    if not status & USER:
        print("block", n, "is the kernel's")
        return
    s1, n1, s2, n2 = struct.unpack_from("=IIII", m, at + 32)
    # Whether a block that could be full was retired for its age depends on who was faster.
    print("block", n, "version", version, private, "status", hex(status), count, first, length, number,
          (s1, n1) <= (s2, n2), s1 > 1000000000, flush=True)
    here = at + first
    for i in range(count):
        step, sec, ns, kept, full, flags, mac, net, hashed, tci, tpid = struct.unpack_from("=IIIIIIHHIIH", m, here)
        family, protocol, index, hatype, kind, halen = struct.unpack_from("=HHiHBB", m, here + 48)
        data = m[here + mac:here + mac + kept]
        print("  frame", step, sec > 1000000000, kept, full, hex(flags & ~(7 << 29 | 0x88)), mac, net, hashed != 0, tci, tpid,
              family, hex(socket.ntohs(protocol)), hatype, kind, halen, data[12:14].hex(), data[-6:], flush=True)
        here += step
    struct.pack_into("=I", m, at + 8, 0)


def ready(s, timeout=0):
    p = select.poll()
    p.register(s, select.POLLIN)
    return p.poll(timeout) != []


print("== shapes")
s = packets(2)
for shape in [(4096, 2, 2048, 4), (4096, 2, 2048, 5, 10, 0, 0), (4096, 2, 2048, 4, 10, 5000, 0), (4096, 2, 2048, 4, 10, 3980, 0),
              (4096, 2, 2048, 4, 10, 3981, 0), (4096, 0, 2048, 4, 0, 0, 0), (4096, 2, 64, 128, 0, 0, 0), (4096, 2, 80, 102, 0, 0, 0)]:
    print(shape, ring(s, RX_RING, *shape), ring(s, RX_RING, *(0,) * 7))
for shape in [(4096, 2, 2048, 4), (4096, 2, 2048, 4, 10, 0, 0), (4096, 2, 2048, 4, 0, 8, 0), (4096, 2, 2048, 4, 0, 0, 1), (4096, 2, 2048, 4, 0, 0, 0)]:
    print("sent", shape, ring(s, TX_RING, *shape), ring(s, TX_RING, *(0,) * 7))
print("statistics", statistics(s), statistics(packets(1)))
s.close()

print("== lengths of mappings")
s = packets(1)
print(ring(s, TX_RING, 8192, 2, 2048, 8), [name(lambda n=n: mapped(s, n)) for n in (4096, 12288, 16384, 20480)])
print(ring(s, RX_RING, 4096, 3, 2048, 6), [name(lambda n=n: mapped(s, n)) for n in (16384, 12288, 28672, 28671, 28670)])
print("offset", name(lambda: mmap.mmap(s.fileno(), 24576, offset=4096)))
m = mmap.mmap(s.fileno(), 28672)
print("busy", ring(s, RX_RING, 0, 0, 0, 0), ring(s, TX_RING, 0, 0, 0, 0), ring(s, TX_RING, 4096, 1, 2048, 2))
child = os.fork()
if not child:
    m.close()
    os._exit(0)
os.waitpid(child, 0)
print("still", ring(s, RX_RING, 0, 0, 0, 0))
m.close()
print("gone", ring(s, RX_RING, 0, 0, 0, 0), [name(lambda n=n: mapped(s, n)) for n in (28672, 16384)])
print("version", option(s, VERSION, 0), option(s, LOSS, 1), ring(s, TX_RING, 0, 0, 0, 0), option(s, VERSION, 0), option(s, LOSS, 1), s.getsockopt(SOL_PACKET, LOSS))
s.close()

print("== two at once")
for which in RX_RING, TX_RING:
    wins = set()
    for _ in range(200):
        s = packets(1)
        barrier = threading.Barrier(4)
        outcomes = []

        def ask():
            barrier.wait()
            outcomes.append(ring(s, which, 4096, 1, 2048, 2))
        threads = [threading.Thread(target=ask) for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        wins.add(tuple(sorted(outcomes)))
        s.close()
    print(wins)

print("== blocks")
s = packets(2)
print(ring(s, RX_RING, 4096, 3, 2048, 6, 60000, 13, 1))
m = mmap.mmap(s.fileno(), 12288)
s.bind(("lo", 0x0800))
send(b"first!")
print("ready", ready(s), s.getsockopt(SOL_PACKET, STATISTICS, 12)[:4].hex())
block(m, 4096, 0)
# Five of these fill a block.
for n in range(5):
    send(b"x" * 700 + b"numb%2d" % n)
print("ready", ready(s, PATIENCE))
block(m, 4096, 0)
print("ready", ready(s))
for n in range(5, 12):
    send(b"x" * 700 + b"numb%2d" % n)
print("ready", ready(s))
block(m, 4096, 1)
block(m, 4096, 2)
for n in range(12, 30):
    send(b"x" * 700 + b"numb%2d" % n)
print("statistics", statistics(s), statistics(s))
for n in 0, 1, 2:
    block(m, 4096, n)
for n in range(30, 36):
    send(b"x" * 700 + b"numb%2d" % n)
print("statistics", statistics(s))
for n in 0, 1, 2:
    block(m, 4096, n)
# One that no block holds.
send(b"z" * 9000 + b"ending")
send(b"z" * 9000 + b"ending")
for n in 0, 1, 2:
    block(m, 4096, n)
print("statistics", statistics(s))
m.close()
s.close()

print("== retired")
for kind in socket.SOCK_RAW, socket.SOCK_DGRAM:
    s = packets(2, kind)
    print(option(s, RESERVE, 20), ring(s, RX_RING, 8192, 2, 2048, 8, 30, 0, 0))
    m = mmap.mmap(s.fileno(), 16384)
    s.bind(("lo", 0x0800))
    for n in range(6):
        send(b"round%d" % n)
        print("ready", ready(s, PATIENCE))
        block(m, 8192, n % 2)
    # Nothing comes of nothing.
    print("quiet", ready(s, 100), statistics(s))
    m.close()
    s.close()

print("== sent")
heads = {0: ("=QI", 32, 0, "<HH", 16), 1: ("=II", 32, 0, "<HH", 12), 2: ("=IIIII", 48, 20, "<HH", 24)}


def put(m, version, size, slot, data, at=None, base=0):
    """Fills a slot; with `at` the frame is there, and said to be."""
    begin = base + slot * size
    form, head, status, places, place = heads[version]
    if version == 0:
        struct.pack_into("=QI", m, begin, 0, len(data))
    elif version == 1:
        struct.pack_into("=II", m, begin, 0, len(data))
    else:
        struct.pack_into("=IIIII", m, begin, 0, 0, 0, 0, len(data))
    here = head if at is None else at
    room = data[:size - here]
    m[begin + here:begin + here + len(room)] = room
    if at is not None:
        struct.pack_into(places, m, begin + place, at, at + 14)
    struct.pack_into("=I", m, begin + status, SEND_REQUEST)


def states(m, version, size, count, base=0):
    return [struct.unpack_from("=I", m, base + n * size + heads[version][2])[0] & 7 for n in range(count)]


# Linux does not take datagrams from 127.0.0.1 that have come by themselves; who looks sees them.
looking = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
looking.setblocking(False)


def heard_all():
    """What has passed the interface."""
    all = []
    try:
        while True:
            all.append(looking.recv(60000)[-8:])
    except BlockingIOError:
        return all


for version in 0, 1, 2:
    for has_off in 0, 1:
        s = packets(version)
        extra = (0, 0, 0) if version == 2 else ()
        print("version", version, option(s, TX_HAS_OFF, has_off), ring(s, TX_RING, 4096, 2, 512, 16, *extra), option(s, TX_HAS_OFF, 1 - has_off),
              s.getsockopt(SOL_PACKET, TX_HAS_OFF))
        m = mmap.mmap(s.fileno(), 8192)
        print("unbound", name(lambda: s.send(b"")))
        s.bind(("lo", 0x0800))
        print("nothing", s.send(b""), s.send(b"ignored"))
        at = 100 if has_off else None
        for n in range(3):
            put(m, version, 512, n, frame(b"slot %d--" % n), at)
        print("sent", s.send(b""), states(m, version, 512, 16), heard_all())
        # The next ones, round to the first.
        for n in range(3, 17):
            put(m, version, 512, n % 16, frame(b"next %2d-" % n), at)
        print("sent", s.send(b""), states(m, version, 512, 16), heard_all())
        # Not all of them can be.
        put(m, version, 512, 1, frame(b"before--"), at)
        put(m, version, 512, 2, bytes(500), at)
        put(m, version, 512, 3, frame(b"after---"), at)
        print("long", name(lambda: s.send(b"")), states(m, version, 512, 5), heard_all())
        put(m, version, 512, 2, b"short", at)
        print("short", name(lambda: s.send(b"")), states(m, version, 512, 5), heard_all())
        if has_off:
            for place in 4, 31, 47, 500:
                put(m, version, 512, 2, frame(b"nowhere-"), place)
                print("place", place, name(lambda: s.send(b"")), states(m, version, 512, 5), heard_all())
        put(m, version, 512, 2, frame(b"mended--"), at)
        print("mended", name(lambda: s.send(b"")), states(m, version, 512, 5), heard_all())
        p = select.poll()
        p.register(s, select.POLLOUT)
        print("poll", p.poll(0) == [(s.fileno(), select.POLLOUT)])
        m.close()
        s.close()
print("== passed over")
s = packets(1)
print(option(s, LOSS, 1), ring(s, TX_RING, 4096, 1, 512, 8), ring(s, RX_RING, 4096, 1, 512, 8))
m = mmap.mmap(s.fileno(), 8192)
s.bind(("lo", 0x0800))
for n, data in enumerate([frame(b"one-----"), b"short", frame(b"two-----")]):
    put(m, 1, 512, n, data, base=4096)
print("sent", s.send(b""), states(m, 1, 512, 4, 4096), heard_all())
print("received", [struct.unpack_from("=I", m, 512 * n)[0] & 1 for n in range(8)])
# Elsewhere, and to nowhere.
put(m, 1, 512, 3, frame(b"there---"), base=4096)
print("to", name(lambda: s.sendto(b"", ("lo", 0x0800))), heard_all())
subprocess.run(["ip", "link", "set", "lo", "down"], check=True)
put(m, 1, 512, 4, frame(b"down----"), base=4096)
print("down", name(lambda: s.send(b"")), states(m, 1, 512, 5, 4096))
