"""Transports whose wire loses, repeats, reorders and damages frames: two guests, and a relay between them.

Runs in a network namespace of its own as its root: lossy.py UMLD DIRECTORY. Prints one line for each transport: what the transfers
were like, and whether the wire was as bad as intended.
"""
import array
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading

UMLD, DIRECTORY = sys.argv[1:3]
# For one transfer, with everything around it.
PATIENCE = 60
# Of a hundred frames of IPv4, in each direction.
LOST, REPEATED, DELAYED, DAMAGED = 2, 2, 2, 1

GUEST = r'''
import socket, struct, sys, zlib
role, peer = sys.argv[1], sys.argv[2]
data = bytes(range(251)) * (1 << 12)
def whole(s):
    parts = []
    while True:
        b = s.recv(1 << 20)
        if not b:
            return b"".join(parts)
        parts.append(b)
if role == "serve":
    l = socket.create_server(("0.0.0.0", 80))
    print("ready", flush=True)
    c, a = l.accept()
    got = whole(c)
    c.sendall(got)
    # The machine ends with this program, and what is on the way with the machine.
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 250))
    c.close()
    print("served" if got == data else "damaged on the way there", flush=True)
else:
    s = socket.create_connection((peer, 80), timeout=280)
    s.sendall(data)
    s.shutdown(socket.SHUT_WR)
    print("same" if whole(s) == data else "different", flush=True)
    # Who is gone cannot acknowledge again what was lost: the machine stays until the other one has ended.
    sys.stdin.read()
'''


def checksum(b):
    if len(b) % 2:
        b += b"\0"
    n = sum(array.array("H", b))
    while n >> 16:
        n = (n & 0xffff) + (n >> 16)
    return struct.pack("=H", ~n & 0xffff)


class Wire:
    """One direction: what goes in comes out of `send`, mostly."""

    def __init__(self, seed, send, skip=0):
        self.random = random.Random(seed)
        self.send = send
        # Bytes of other headers before the frame.
        self.skip = skip
        self.held = []
        # The wire of the other direction; what acknowledges a FIN there, or -1 once that was lost.
        self.other = None
        self.last = None
        self.did = {"lost": 0, "repeated": 0, "delayed": 0, "damaged": 0}

    def put(self, b):
        out = [f for left, f in self.held if left <= 1]
        self.held = [(left - 1, f) for left, f in self.held if left > 1]
        # Answers about neighbours have no checksum that would tell of damage.
        if b[self.skip + 12:self.skip + 14] == b"\x08\0":
            b = self.lost(b) if self.is_last(b[self.skip + 14:]) else self.worsened(b)
        for f in ([b] if b else []) + out:
            self.send(f)

    def is_last(self, p):
        """Whether this is the first acknowledgement of the other end's FIN. It is always lost: nothing follows it that would
        do in its place."""
        h = p[(p[0] & 15) * 4:]
        if p[9] != 6 or len(h) < 20:
            return False
        seq, ack = struct.unpack("!II", h[4:12])
        if h[13] & 1 and self.other.last is None:
            size = struct.unpack("!H", p[2:4])[0] - (p[0] & 15) * 4 - (h[12] >> 4) * 4
            self.other.last = seq + size + 1 & 0xffffffff
        if ack != self.last:
            return False
        self.last = -1
        self.did["lost"] += 1
        return True

    def worsened(self, b):
        at = self.random.random() * 100
        for what, share in ("lost", LOST), ("repeated", REPEATED), ("delayed", DELAYED), ("damaged", DAMAGED):
            if at < share:
                self.did[what] += 1
                return getattr(self, what)(b)
            at -= share
        return b

    def lost(self, b):
        return None

    def repeated(self, b):
        self.send(b)
        return b

    def delayed(self, b):
        self.held.append((self.random.randint(2, 5), b))
        return None

    def damaged(self, b):
        at = self.skip + 14 + self.random.randrange(len(b) - self.skip - 14)
        return b[:at] + bytes([b[at] ^ 1 << self.random.randrange(8)]) + b[at + 1:]


def pump(receive, wire):
    def run():
        try:
            while b := receive():
                wire.put(b)
        except OSError:
            pass

    threading.Thread(target=run, daemon=True).start()


def guest(device, spec, ip, peer, role, fds=(), stdin=subprocess.DEVNULL):
    return subprocess.Popen(
        [UMLD, "run", "--mem", "128M", "--net", "none",
         "--append", f"{device}{spec}",
         "--append", f"ip={ip}:::255.255.255.0::{device[:4]}:off",
         "--", "python3", "-c", GUEST, role, peer],
        stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, pass_fds=fds)


def finish(client, server):
    slow = []

    def end():
        slow.append("too slow")
        for g in client, server:
            g.kill()

    late = threading.Timer(PATIENCE, end)
    late.start()
    out = [client.stdout.readline().strip()]
    if out != ["same"]:
        # The other end would wait for what does not come.
        server.kill()
    for g in server, client:
        out += g.communicate()[0].split("\n")
    late.cancel()
    return ", ".join(l for l in out + slow if l)


def two(name, a, b, wires, device="vec0:transport=", fds=((), ())):
    wires[0].other, wires[1].other = wires[1], wires[0]
    server = guest(device, a, "10.7.0.1", "10.7.0.2", "serve", fds[0])
    first = server.stdout.readline().strip()
    if first != "ready":
        server.kill()
        print(f"{name}: {first} {server.communicate()[0]}", flush=True)
        return
    said = finish(guest(device, b, "10.7.0.2", "10.7.0.1", "ask", fds[1], subprocess.PIPE), server)
    did = {k: sum(w.did[k] for w in wires) for k in wires[0].did}
    print(f"{name}: {said}, {'bad' if all(did.values()) else 'good'} wire", flush=True)
    print(name, did, file=sys.stderr)


def between(ends, sizes=70000):
    """Wires between two sockets that keep the borders of messages."""
    a, b = ends
    wires = Wire(1, b.send), Wire(2, a.send)
    pump(lambda: a.recv(sizes), wires[0])
    pump(lambda: b.recv(sizes), wires[1])
    return wires


def ip(words):
    subprocess.run(["ip"] + words.split(), check=True)


def fds():
    (a, x), (b, y) = (socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2))
    two("fd", f"fd,fd={a.fileno()}", f"fd,fd={b.fileno()}", between((x, y)), fds=((a.fileno(),), (b.fileno(),)))


def bess():
    path = os.path.join(DIRECTORY, "bess")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(2)
    wires = Wire(3, None), Wire(4, None)

    def serve():
        a, b = (listener.accept()[0] for _ in range(2))
        wires[0].send, wires[1].send = b.send, a.send
        pump(lambda: a.recv(70000), wires[0])
        pump(lambda: b.recv(70000), wires[1])

    threading.Thread(target=serve, daemon=True).start()
    two("bess", f"bess,dst={path}", f"bess,dst={path}", wires)


def datagrams(near, far, skip=0, of_ip=0):
    """Wires between two bound sockets, each with the address of the guest behind it; of raw ones the IP header is left out."""
    (a, to_a), (b, to_b) = near, far
    wires = Wire(5, lambda f: b.sendto(f, to_b), skip), Wire(6, lambda f: a.sendto(f, to_a), skip)
    pump(lambda: a.recv(70000)[of_ip:], wires[0])
    pump(lambda: b.recv(70000)[of_ip:], wires[1])
    return wires


def udp(port, address="127.0.0.1"):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((address, port))
    return s


def l2tpv3_udp():
    wires = datagrams((udp(6000), ("127.0.0.1", 5000)), (udp(6001), ("127.0.0.1", 5001)), 8)
    end = "l2tpv3,udp=1,src=127.0.0.1,dst=127.0.0.1,rx_session=1,tx_session=1"
    two("l2tpv3 udp", f"{end},srcport=5000,dstport=6000", f"{end},srcport=5001,dstport=6001", wires)


def raw_ip(name, number, skip, spec):
    ends = []
    for own in "127.0.0.3", "127.0.0.4":
        s = socket.socket(socket.AF_INET, socket.SOCK_RAW, number)
        s.bind((own, 0))
        ends.append(s)
    wires = datagrams((ends[0], ("127.0.0.1", 0)), (ends[1], ("127.0.0.2", 0)), skip, 20)
    two(name, f"{spec},src=127.0.0.1,dst=127.0.0.3", f"{spec},src=127.0.0.2,dst=127.0.0.4", wires)


def ucast():
    wires = datagrams((udp(2002), ("127.0.0.1", 2001)), (udp(2004), ("127.0.0.1", 2003)))
    two("ucast", "ucast,,127.0.0.1,2001,2002", "ucast,,127.0.0.1,2003,2004", wires, "eth0=")


def mcast():
    group = "239.192.168.1"
    ip("route add 224.0.0.0/4 dev lo")
    ends = []
    for port in 1102, 1103:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((group, port))
        s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + socket.inet_aton("127.0.0.1"))
        ends.append(s)
    out = udp(0)
    out.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
    own = out.getsockname()[1]
    wires = [Wire(7 + n, lambda f, to=to: out.sendto(f, (group, to))) for n, to in enumerate((1103, 1102))]

    def heard(s):
        while True:
            f, (_, port) = s.recvfrom(70000)
            if port != own:
                return f

    for s, w in zip(ends, wires):
        pump(lambda s=s: heard(s), w)
    two("mcast", f"mcast,,{group},1102,1", f"mcast,,{group},1103,1", wires, "eth0=")


def daemon():
    """A switch of two ports, by its protocol: one request on the control socket, then frames."""
    control, data = os.path.join(DIRECTORY, "ctl"), os.path.join(DIRECTORY, "data")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(control)
    listener.listen(2)
    own = []
    for n in range(2):
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        s.bind(data + str(n))
        own.append(s)
    wires = Wire(9, None), Wire(10, None)

    def serve():
        for n in range(2):
            c = listener.accept()[0]
            request = c.recv(200)
            # An abstract name is all of the structure.
            peer = request[12:12 + 110][2:]
            wires[1 - n].send = lambda f, s=own[n], peer=peer: s.sendto(f, peer)
            c.sendall(struct.pack("=H108s", 1, (data + str(n)).encode()))
            serve.kept.append(c)
        pump(lambda: own[0].recv(70000), wires[0])
        pump(lambda: own[1].recv(70000), wires[1])

    serve.kept = []
    threading.Thread(target=serve, daemon=True).start()
    two("daemon", f"daemon,,unix,{control}", f"daemon,,unix,{control}", wires, "eth0=")


def segments(b):
    """Frames of what a device with offloads hands over: a virtio-net header, and a frame that may be too large and without checksum."""
    flags, kind, _, size, start, offset = struct.unpack("=BBHHHH", b[:10])
    f = b[10:]
    if not flags & 1:
        return [f]
    at = start + offset
    if not kind & 3:
        return [f[:at] + checksum(f[start:]) + f[at + 2:]]
    tcp = start + (f[start + 12] >> 4) * 4
    out = []
    data = f[tcp:]
    for n, off in enumerate(range(0, len(data), size)):
        part = data[off:off + size]
        head = bytearray(f[14:start])
        head[2:4] = struct.pack("!H", len(head) + tcp - start + len(part))
        head[4:6] = struct.pack("!H", struct.unpack("!H", head[4:6])[0] + n & 0xffff)
        head[10:12] = b"\0\0"
        head[10:12] = checksum(bytes(head))
        t = bytearray(f[start:tcp])
        t[4:8] = struct.pack("!I", struct.unpack("!I", t[4:8])[0] + off & 0xffffffff)
        if off + size < len(data):
            t[13] &= ~9 & 0xff
        t[16:18] = b"\0\0"
        pseudo = bytes(head[12:20]) + struct.pack("!BBH", 0, 6, len(t) + len(part))
        t[16:18] = checksum(pseudo + bytes(t) + part)
        out.append(f[:14] + bytes(head) + bytes(t) + part)
    return out


def interfaces(name, made, listened, specs):
    for words in made:
        ip(words)
    ends = []
    for i in listened:
        with open(f"/proc/sys/net/ipv6/conf/{i}/disable_ipv6", "w") as f:
            f.write("1")
        ip(f"link set {i} up")
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        s.setsockopt(263, 15, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        s.bind((i, 0))
        ends.append(s)
    wires = Wire(11, lambda f: ends[1].send(bytes(10) + f)), Wire(12, lambda f: ends[0].send(bytes(10) + f))

    def run(s, wire):
        while True:
            try:
                b, a = s.recvfrom(70000)
                # What this relay sent is seen here again.
                if a[2] != 4:
                    for f in segments(b):
                        wire.put(f)
            except OSError:
                # The guest is not there yet, or no more.
                if s.fileno() < 0:
                    return

    for s, w in zip(ends, wires):
        threading.Thread(target=run, args=(s, w), daemon=True).start()
    two(name, specs[0], specs[1], wires)
    for s in ends:
        s.close()


def vde():
    ends, kept = [], []
    for n in range(2):
        at = os.path.join(DIRECTORY, f"vde{n}")
        kept.append(subprocess.Popen(["vde_switch", "-s", at, "-x"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL))
        while not os.path.exists(os.path.join(at, "ctl")):
            if kept[-1].poll() is not None:
                print("vde: the switch ended", flush=True)
                return
        p = subprocess.Popen(["vde_plug", at], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        kept.append(p)
        ends.append(p)

    def sender(p):
        def send(f):
            p.stdin.write(struct.pack("!H", len(f)) + f)
            p.stdin.flush()
        return send

    def receiver(p):
        def receive():
            n = p.stdout.read(2)
            return p.stdout.read(struct.unpack("!H", n)[0]) if len(n) == 2 else b""
        return receive

    wires = Wire(13, sender(ends[1])), Wire(14, sender(ends[0]))
    pump(receiver(ends[0]), wires[0])
    pump(receiver(ends[1]), wires[1])
    two("vde", f"vde,{DIRECTORY}/vde0", f"vde,{DIRECTORY}/vde1", wires, "eth0=")
    for p in kept:
        p.kill()
        p.wait()


ip("link set lo up")
ip("link set lo multicast on")
if os.access("/dev/net/tun", os.R_OK | os.W_OK):
    taps = [f"tuntap add {t} mode tap" for t in ("tap8", "tap9")]
    interfaces("tap", taps, ("tap8", "tap9"), ("tap,ifname=tap8", "tap,ifname=tap9"))
    interfaces("hybrid", [], ("tap8", "tap9"), ("hybrid,ifname=tap8,gro=1", "hybrid,ifname=tap9,gro=1"))
interfaces("raw", ["link add dev l0 type veth peer name r0", "link add dev l1 type veth peer name r1",
                   "link set r0 up", "link set r1 up"], ("l0", "l1"), ("raw,ifname=r0", "raw,ifname=r1"))
raw_ip("gre", 47, 4, "gre")
raw_ip("l2tpv3", 115, 4, "l2tpv3,rx_session=1,tx_session=1")
l2tpv3_udp()
fds()
bess()
daemon()
ucast()
mcast()
if shutil.which("vde_switch") and shutil.which("vde_plug"):
    vde()
