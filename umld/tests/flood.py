"""A guest that is flooded from outside stays usable: connections are made and served while SYNs of nobody, pieces without end,
and frames of random bytes come in.

Runs in a network namespace of its own as its root: flood.py UMLD. Prints one line for each kind of flood.
"""
import random
import socket
import struct
import subprocess
import sys
import threading

UMLD = sys.argv[1]
GUEST = r'''
import socket, threading
l = socket.create_server(("0.0.0.0", 80), backlog=64)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(("0.0.0.0", 7))
def echo(c):
    while b := c.recv(65536):
        c.sendall(b)
    c.close()
def datagrams():
    while True:
        b, a = u.recvfrom(65536)
        u.sendto(b, a)
threading.Thread(target=datagrams, daemon=True).start()
print("ready", open("/sys/class/net/vec0/address").read().strip(), flush=True)
while True:
    c, _ = l.accept()
    threading.Thread(target=echo, args=(c,), daemon=True).start()
'''
# Frames that wait before the guest at most: the queue of a packet socket holds more.
BURST = 50
rng = random.Random(1)


def ip(words):
    subprocess.run(["ip"] + words.split(), check=True)


def checksum(b):
    if len(b) % 2:
        b += b"\0"
    n = sum(struct.unpack(f"!{len(b) // 2}H", b))
    while n >> 16:
        n = (n & 0xffff) + (n >> 16)
    return ~n & 0xffff


def packet(proto, body, src=None, options=b"", frag=0, ident=None):
    src = src or bytes([10, 7, 1, rng.randrange(1, 255)])
    words = 5 + len(options) // 4
    h = struct.pack("!BBHHHBBH4s4s", 0x40 | words, 0, words * 4 + len(body), rng.randrange(65536) if ident is None else ident,
                    frag, 64, proto, 0, src, socket.inet_aton("10.7.0.2")) + options
    return h[:10] + struct.pack("!H", checksum(h)) + h[12:] + body


def segment(flags, options=b"", port=80, src=None):
    src = src or bytes([10, 7, rng.randrange(1, 4), rng.randrange(1, 255)])
    words = 5 + len(options) // 4
    t = struct.pack("!HHIIBBHHH", rng.randrange(1024, 65536), port, rng.getrandbits(32), rng.getrandbits(32), words << 4, flags,
                    1000, 0, 0) + options
    pseudo = src + socket.inet_aton("10.7.0.2") + struct.pack("!BBH", 0, 6, len(t))
    t = t[:16] + struct.pack("!H", checksum(pseudo + t)) + t[18:]
    return packet(6, t, src)


def words(n):
    return rng.randbytes(4 * n)


FLOODS = {
    "SYNs of nobody": lambda: segment(2),
    "segments of all kinds": lambda: segment(rng.randrange(256), words(rng.randrange(11)), rng.choice([80, 81])),
    "first pieces": lambda: packet(17, rng.randbytes(800), frag=0x2000),
    "pieces that overlap": lambda: packet(17, rng.randbytes(8 * rng.randrange(1, 100)), b"\x0a\x07\x01\x01",
                                          frag=rng.randrange(8192) | rng.choice([0, 0x2000]), ident=rng.randrange(4)),
    "options": lambda: packet(rng.choice([1, 6, 17]), rng.randbytes(40), options=words(rng.randrange(1, 11))),
    "random packets": lambda: bytes([rng.choice([0x45, 0x4f, 0x60])]) + rng.randbytes(rng.randrange(100)),
    "echo requests": lambda: packet(1, b"\x08\0\xf7\xff\0\0\0\0"),
}


def serve(what):
    """One connection and one datagram, there and back."""
    c = socket.create_connection(("10.7.0.2", 80), timeout=100)
    data = rng.randbytes(100000)
    threading.Thread(target=c.sendall, args=(data,), daemon=True).start()
    got = b""
    while len(got) < len(data):
        b = c.recv(1 << 20)
        if not b:
            return "an end too early"
        got += b
    c.close()
    return "served" if got == data else "different"


ip("link set lo up")
ip("link add dev left type veth peer name right")
for i in "left", "right":
    with open(f"/proc/sys/net/ipv6/conf/{i}/disable_ipv6", "w") as f:
        f.write("1")
    ip(f"link set {i} up")
ip("addr add 10.7.0.1/24 dev left")
guest = subprocess.Popen(
    [UMLD, "run", "--mem", "128M", "--net", "none", "--append", "vec0:transport=raw,ifname=right,gro=1",
     "--append", "ip=10.7.0.2::10.7.0.1:255.255.255.0::vec0:off", "--", "python3", "-c", GUEST],
    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
first = guest.stdout.readline()
if not first.startswith("ready"):
    sys.exit(first + guest.communicate()[0])
mac = bytes.fromhex(first.split()[1].replace(":", ""))
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind(("left", 0))
for name, make in FLOODS.items():
    stop, sent = threading.Event(), 0
    # Made before, so that the flood is one.
    frames = [mac + b"\x02\0\0\0\0\x09" + (b"\x86\xdd" if p[0] >> 4 == 6 else b"\x08\0") + p for p in (make() for _ in range(2000))]

    def flood():
        # As fast as the guest takes it, whatever it runs on: a host that is faster would only fill the queue in front of it, in which
        # connections are lost for any guest. An answer says that what came before has been taken.
        global sent
        probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        probe.settimeout(1)
        probe.connect(("10.7.0.2", 7))
        while not stop.is_set():
            for i in range(0, len(frames), BURST):
                for f in frames[i:i + BURST]:
                    out.send(f)
                    sent += 1
                try:
                    probe.send(b"?")
                    probe.recv(1)
                except OSError:
                    # It was lost.
                    pass
                if stop.is_set():
                    break

    t = threading.Thread(target=flood, daemon=True)
    t.start()
    results = []
    # At least so much of the flood, and so many connections.
    while len(results) < 3 or sent < 20000:
        try:
            results.append(serve(name))
        except OSError as e:
            results.append(str(e))
            break
    stop.set()
    t.join()
    # And afterwards.
    results.append(serve(name))
    print(f"{name}: {', '.join(sorted(set(results)))}", flush=True)
    print(f"{name}: {sent} frames, {len(results)} connections", file=sys.stderr)
print("still there" if guest.poll() is None else "it ended", flush=True)
guest.kill()
