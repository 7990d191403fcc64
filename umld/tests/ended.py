"""What is told of sockets that end (SKNLGRP_INET_TCP_DESTROY and its like), to a program and by `ss -E`, on the host and in a guest; and what
ss(8) says where it may not end them. In a network namespace of its own."""
import os, pty, select, socket, struct, subprocess, time

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
SOCK_DIAG, SOL_NETLINK = 4, 270
# How long what must happen may take.
PATIENCE = 20
TCP4, UDP4, TCP6, UDP6 = 1, 2, 4, 8
MARK = 9999


def listener(groups):
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, SOCK_DIAG)
    s.bind((0, groups))
    s.settimeout(PATIENCE)
    return s


def address(family, b):
    return socket.inet_ntop(family, b[:4] if family == socket.AF_INET else b)


def messages(s):
    """What has come of what ended before now: a socket that is made and ended for it comes last."""
    mark = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    mark.bind(("127.0.0.1", MARK))
    mark.close()
    all = []
    while True:
        b, control, flags, (port, group) = s.recvmsg(65536)
        length, kind, nlflags, seq, pid = struct.unpack_from("=IHHII", b)
        family, state, timer, retransmits, sport, dport = struct.unpack_from("!BBBBHH", b, 16)
        src, dst = address(family, b[24:40]), address(family, b[40:56])
        iface, cookie, expires, rx, tx, uid, inode = struct.unpack_from("=IQIIIII", b, 56)
        attrs = []
        at = 88
        while at < length:
            n, k = struct.unpack_from("=HH", b, at)
            v = b[at + 4:at + n]
            # Of TCP's numbers those that do not depend on the age of the kernel.
            attrs.append((k, list(v)) if len(v) < 8 else (k, list(v[:1]), len(v) > 200))
            at += (n + 3) & ~3
        if sport == MARK:
            return sorted(all)
        # Ports that nobody chose are of no interest.
        small = lambda p: p if p < 10000 else "any"
        # What is in the queues of a connection that was cut off is left to the kernel's age, too.
        queues = (rx, tx) if family in (2, 10) and group in (2, 8) else ()
        all.append(str((port, group, kind, nlflags, seq, pid, family, state, timer, retransmits, small(sport), small(dport), src, dst, iface,
                        cookie not in (0, 2 ** 64 - 1), expires, queues, uid, inode, attrs)))


def said(title, s):
    print(title, *messages(s), sep="\n  ", flush=True)


all = listener(TCP4 | UDP4 | TCP6 | UDP6)


def scenario(family, to):
    s = socket.socket(family, socket.SOCK_STREAM)
    s.close()
    said("unused", all)
    s = socket.socket(family, socket.SOCK_STREAM)
    s.bind((to, 5000))
    s.close()
    said("bound", all)
    l = socket.create_server((to, 5001), family=family)
    c = socket.socket(family, socket.SOCK_STREAM)
    c.connect((to, 5001))
    a, _ = l.accept()
    late = socket.socket(family, socket.SOCK_STREAM)
    late.connect((to, 5001))
    said("nothing yet", all)
    c.close()
    a.recv(1)
    said("one side", all)
    a.close()
    # Both have ended once the last acknowledgement is there.
    while any(x.split()[0] in ("LAST-ACK", "FIN-WAIT-1", "FIN-WAIT-2") for x in
              subprocess.run(["ss", "-Htan", "sport = :5001 or dport = :5001"], capture_output=True, text=True).stdout.splitlines()):
        time.sleep(0.01)
    said("both sides", all)
    l.close()
    # The one has forgotten whose it was.
    print("listener with one in its queue", len(messages(all)))
    late.close()
    said("that one", all)
    l = socket.create_server((to, 5002), family=family)
    c = socket.socket(family, socket.SOCK_STREAM)
    c.connect((to, 5002))
    a, _ = l.accept()
    a.sendall(b"not read")
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    c.close()
    said("reset", all)
    a.close()
    l.close()
    said("the others", all)
    u = socket.socket(family, socket.SOCK_DGRAM)
    u.close()
    said("datagrams unused", all)
    u = socket.socket(family, socket.SOCK_DGRAM)
    u.bind((to, 5004))
    v = socket.socket(family, socket.SOCK_DGRAM)
    v.connect((to, 5004))
    v.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
    u.close()
    v.close()
    said("datagrams", all)
    w = socket.create_server((to, 5005), family=family)
    pid = os.fork()
    if not pid:
        w.close()
        os._exit(0)
    os.waitpid(pid, 0)
    said("a copy is closed", all)
    w.close()
    said("the last", all)
    r = socket.socket(family, socket.SOCK_RAW, 99)
    r.close()
    said("raw", all)


scenario(socket.AF_INET, "127.0.0.1")
scenario(socket.AF_INET6, "::1")
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.connect(("::ffff:127.0.0.1", 5010))
s.close()
said("mapped", all)
l = socket.create_server(("127.0.0.1", 5011))
print("ended by ss", subprocess.run(["ss", "-HtlnK", "sport = :5011"], capture_output=True, text=True).stdout.split()[:4])
said("ended, and held", all)
l.close()
said("and closed", all)
messages(all)
for groups in TCP4, UDP4, TCP6, UDP6:
    one = listener(groups)
    one.setsockopt(SOL_NETLINK, 1, 2)
    # What has ended before is told of before.
    messages(one)
    for family in socket.AF_INET, socket.AF_INET6:
        for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
            socket.socket(family, kind).close()
    said("group %d" % groups, one)
    one.close()
print("groups", end=" ")
for g in 0, 4, 5:
    try:
        all.setsockopt(SOL_NETLINK, 1, g)
        print(g, "fine", end=" ")
    except OSError as e:
        print(g, e.errno, end=" ")
print(len(all.getsockopt(SOL_NETLINK, 9, 64)))

print("== ss")


def follow(*args):
    """What ss(8) prints of three sockets that end."""
    main, other = pty.openpty()
    p = subprocess.Popen(["ss", "-HnE", *args], stdout=other, stderr=subprocess.STDOUT)
    os.close(other)
    text = b""
    ports = {"-t": socket.SOCK_STREAM}.get(args[0] if args else "", socket.SOCK_DGRAM)
    # It listens once it tells of one; then those that count.
    for port in 7000, 7001, 7002:
        while b":%d" % port not in text:
            s = socket.socket(socket.AF_INET, ports)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", port))
            s.close()
            if select.select([main], [], [], 0.05)[0]:
                text += os.read(main, 4096)
    p.kill()
    p.wait()
    os.close(main)
    lines = [" ".join(x.split()) for x in text.decode().splitlines()]
    return sorted({x for x in lines if ":7001" in x})


for args in (), ("-t",), ("-u",):
    print(args, follow(*args))

print("== not allowed")
servers = [socket.create_server(("127.0.0.1", 5555 + n)) for n in range(2)]
without = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--securebits=+noroot"]
out = subprocess.run([*without, "ss", "-HntlK"], capture_output=True, text=True)
print(out.returncode, out.stdout.split(), out.stderr)
out = subprocess.run(["ss", "-Hntl"], capture_output=True, text=True)
print(out.returncode, len(out.stdout.splitlines()))
six = socket.create_server(("::1", 5560), family=socket.AF_INET6)


def old(kind, dump, size=60):
    """What the question is answered with that TCP had before there were families."""
    q = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, SOCK_DIAG)
    q.settimeout(PATIENCE)
    body = struct.pack("=BBBB48xII", socket.AF_INET, 0, 0, 0, 1 << 10, 0)
    if not dump:
        body = struct.pack("=BBBB!HH16s16s=IQII".replace("!", "").replace("=I", "I"), socket.AF_INET, 0, 0, 0, socket.htons(5555), 0,
                           b"\x7f\0\0\1".ljust(16, b"\0"), bytes(16), 0, 2 ** 64 - 1, 1 << 10, 0)
    body = body[:size]
    q.send(struct.pack("=IHHII", 16 + len(body), kind, 0x301 if dump else 1, 7, 0) + body)
    rows = []
    while True:
        b = q.recv(65536)
        while b:
            length, k = struct.unpack_from("=IH", b)
            if k == 2:
                return rows, "error", struct.unpack_from("=i", b, 16)[0]
            if k == 3:
                return sorted(rows), "done", length
            rows.append((k, b[16], b[17], struct.unpack_from("!H", b, 20)[0]))
            b = b[(length + 3) & ~3:]
            if not dump:
                return rows


print("== old questions")
print(old(18, True), old(18, False), old(18, True, 40), old(18, False, 40), old(19, True), old(19, False), old(17, True), old(22, True))
