"""How far packets have come and in what pieces: IP_MINTTL and IPV6_MINHOPCOUNT (RFC 5082), IP_RECVFRAGSIZE and IPV6_RECVFRAGSIZE, on the
host and in a guest, in a network namespace of its own, as its root."""
import errno, select, socket, struct, subprocess

IP, IPV6 = socket.IPPROTO_IP, socket.IPPROTO_IPV6
MINTTL, RECVTTL, RECVFRAGSIZE, MINHOPCOUNT, RECVFRAGSIZE6 = 21, 12, 25, 73, 77
# How long what must happen may take.
PATIENCE = 20


def name(f):
    try:
        r = f()
        return "fine" if r is None else r
    except OSError as e:
        return errno.errorcode[e.errno]


subprocess.run(["ip", "link", "set", "lo", "up"], check=True)

print("== set and get")
KINDS = [(f, k, p) for f in (socket.AF_INET, socket.AF_INET6)
         for k, p in ((socket.SOCK_STREAM, 0), (socket.SOCK_DGRAM, 0), (socket.SOCK_RAW, 99))]
for family, kind, proto in KINDS:
    for level, option in (IP, MINTTL), (IP, RECVFRAGSIZE), (IPV6, MINHOPCOUNT), (IPV6, RECVFRAGSIZE6):
        s = socket.socket(family, kind, proto)
        said = [name(lambda: s.getsockopt(level, option))]
        for v in 0, 1, 64, 255, 256, -1:
            said.append((v, name(lambda: s.setsockopt(level, option, v)), name(lambda: s.getsockopt(level, option))))
        for b in b"", b"\x05", b"\x07\0", b"\x09\0\0\0\0":
            said.append((len(b), name(lambda: s.setsockopt(level, option, b)), name(lambda: s.getsockopt(level, option))))
        print(family.name, kind.name, level, option, said)
        s.close()


def completes(c, to):
    """Whether a connection comes about."""
    c.setblocking(False)
    try:
        c.connect(to)
    except BlockingIOError:
        pass
    p = select.poll()
    p.register(c, select.POLLOUT)
    done = p.poll(300) != []
    return done and c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


for family, to, least, hops in ((socket.AF_INET, "127.0.0.1", (IP, MINTTL), (IP, socket.IP_TTL)),
                                (socket.AF_INET6, "::1", (IPV6, MINHOPCOUNT), (IPV6, socket.IPV6_UNICAST_HOPS))):
    print("== from afar", family.name)
    l = socket.create_server((to, 5555), family=family)
    l.setsockopt(*least, 200)
    far, near = (socket.socket(family, socket.SOCK_STREAM) for _ in range(2))
    near.setsockopt(*hops, 200)
    far.setsockopt(*hops, 199)
    print("far", completes(far, (to, 5555)), "near", completes(near, (to, 5555)))
    a, _ = l.accept()
    print("inherited", a.getsockopt(*least), near.getsockopt(*least))
    # Once it may come from afar it is what has been sent again.
    near.setblocking(True)
    near.setsockopt(*hops, 10)
    near.sendall(b"later")
    p = select.poll()
    p.register(a, select.POLLIN)
    print("nothing", p.poll(100))
    a.setsockopt(*least, 10)
    a.settimeout(PATIENCE)
    print("something", a.recv(9))
    # Nobody listens: the answer comes from this near.
    refused = socket.socket(family, socket.SOCK_STREAM)
    refused.setsockopt(*least, 65)
    print("refused", completes(refused, (to, 5556)), refused.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    refused = socket.socket(family, socket.SOCK_STREAM)
    refused.setsockopt(*least, 64)
    print("refused", name(lambda: refused.connect((to, 5556))))
    # Datagrams come from everywhere.
    u = socket.socket(family, socket.SOCK_DGRAM)
    u.bind((to, 5557))
    u.setsockopt(*least, 255)
    u.sendto(b"datagram", (to, 5557))
    u.settimeout(PATIENCE)
    print("datagram", u.recv(20))
    for s in l, far, near, a, refused, u:
        s.close()

print("== pieces")
subprocess.run(["ip", "link", "set", "lo", "mtu", "1500"], check=True)


def parts(s):
    data, control, _, _ = s.recvmsg(70000, 512)
    return len(data), [(level, kind, struct.unpack("=i", b)[0] if len(b) == 4 else b) for level, kind, b in control]


for family, to, which in ((socket.AF_INET, "127.0.0.1", [(IP, RECVFRAGSIZE)]), (socket.AF_INET6, "::1", [(IPV6, RECVFRAGSIZE6)]),
                          (socket.AF_INET6, "::1", [(IP, RECVFRAGSIZE)]),
                          (socket.AF_INET6, "::ffff:127.0.0.1", [(IP, RECVFRAGSIZE), (IPV6, RECVFRAGSIZE6)])):
    r, w = (socket.socket(family, socket.SOCK_DGRAM) for _ in range(2))
    r.settimeout(PATIENCE)
    r.bind((to, 6000))
    for option in which:
        r.setsockopt(*option, 1)
    for n in 100, 1472, 1473, 1448, 1453, 3000, 60000:
        w.sendto(bytes(n), (to, 6000))
        print(to, which, n, parts(r))
    r.setsockopt(IP, RECVTTL, 1) if family == socket.AF_INET else r.setsockopt(IPV6, socket.IPV6_RECVHOPLIMIT, 1)
    w.sendto(bytes(2000), (to, 6000))
    print("order", parts(r))
    for option in which:
        r.setsockopt(*option, 0)
    w.sendto(bytes(2000), (to, 6000))
    print("off", parts(r))
    r.close()
    w.close()
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 99)
raw.settimeout(PATIENCE)
raw.setsockopt(IP, RECVFRAGSIZE, 1)
for n in 100, 1480, 1481, 5000:
    raw.sendto(bytes(n), ("127.0.0.1", 0))
    print("raw", n, parts(raw))
# Pieces of a program's own: the longest counts, and of IPv6 there may be one alone.
maker = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
r = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
r.settimeout(PATIENCE)
r.bind(("127.0.0.1", 6001))
r.setsockopt(IP, RECVFRAGSIZE, 1)
whole = struct.pack("!HHHH", 1, 6001, 8 + 40, 0) + bytes(40)
for begin, end in (0, 8), (8, 40), (40, 48):
    more = 0x2000 if end < 48 else 0
    maker.sendto(struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 77, more | begin // 8, 64, 17, 0, bytes(4), b"\x7f\0\0\1") + whole[begin:end], ("127.0.0.1", 0))
print("made", parts(r))
maker = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 44)
r = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 99)
r.settimeout(PATIENCE)
r.setsockopt(IPV6, RECVFRAGSIZE6, 1)
maker.sendto(struct.pack("!BBHI", 99, 0, 0, 5) + bytes(30), ("::1", 0))
print("alone", parts(r))
for begin, end in (0, 16), (16, 64), (64, 70):
    maker.sendto(struct.pack("!BBHI", 99, 0, begin | (end < 70), 6) + bytes(end - begin), ("::1", 0))
print("made", parts(r))
