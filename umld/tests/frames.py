"""The families arp, bridge and netdev of nft(8) on the host and in a guest, in a network namespace of its own, as its root: what they take and
show, and what becomes of frames."""
import socket, struct, subprocess

# How long what must happen may take.
PATIENCE = 20


def run(*args):
    subprocess.run(args, check=True)


def nft(*args):
    """What is wrong with it, in the kernel's words."""
    out = subprocess.run(["nft", *args], capture_output=True, text=True)
    text = (out.stdout + out.stderr).strip().split("\n")
    return text[0] if out.returncode else "fine"


def listed(family, name="t"):
    out = subprocess.run(["nft", "list", "table", family, name], capture_output=True, text=True)
    print((out.stdout + out.stderr).expandtabs(2), end="", flush=True)


run("ip", "link", "set", "lo", "up")
print("== rules")
RULES = ("counter", "ct state new", "reject", "meta iifname lo", "meta protocol ip", "ether saddr 02:00:00:00:00:01", "ip saddr 1.2.3.4", "tcp dport 22",
         "arp operation request", "log", "limit rate 5/second", "meta mark set 7", "notrack", "jump other", "goto other",
         "ether daddr set 02:00:00:00:00:02", "fib saddr type local", "ether type vlan", "meta pkttype broadcast drop",
         "ether saddr { 02:00:00:00:00:01, 02:00:00:00:00:02 } accept")
for family in "arp", "bridge", "netdev":
    print(family, nft("add", "table", family, "t"), nft("add", "chain", family, "t", "plain"), nft("add", "chain", family, "t", "other"))
    for hook in "prerouting", "input", "forward", "output", "postrouting", "ingress", "egress":
        print(hook, nft("add", "chain", family, "t", hook, "{ type filter hook %s priority 0; }" % hook))
    for kind, hook in ("nat", "input"), ("route", "output"):
        print(kind, nft("add", "chain", family, "t", kind, "{ type %s hook %s priority 0; }" % (kind, hook)))
    print("dev", nft("add", "chain", family, "t", "dev", "{ type filter hook ingress device lo priority 5; policy drop; }"),
          nft("add", "chain", family, "t", "devs", "{ type filter hook ingress devices = { lo, other } priority 6; }"),
          nft("add", "chain", family, "t", "out", "{ type filter hook egress device lo priority -5; }"))
    for rule in RULES:
        print(rule, "-", nft("add", "rule", family, "t", "plain", *rule.split()))
    listed(family)
    print(nft("delete", "table", family, "t"))


def pair(a, b, n):
    run("ip", "link", "add", a, "address", "02:00:00:00:00:%02x" % n, "type", "veth", "peer", "name", b, "address", "02:00:00:00:01:%02x" % n)
    for i in a, b:
        run("ip", "link", "set", i, "addrgenmode", "none")
        run("ip", "link", "set", i, "up")


def opened(name, protocol):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(protocol))
    s.bind((name, protocol))
    s.setsockopt(263, 23, 1)
    s.setblocking(False)
    return s


def got(s):
    all = []
    try:
        while True:
            all.append(s.recv(2000))
    except BlockingIOError:
        return all


def mac(n):
    return bytes.fromhex("0200000000%02x" % n)


def arp(op, sender, target):
    return (b"\xff" * 6 + mac(0x77) + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x800, 6, 4, op) + mac(0x77) + socket.inet_aton(sender) + bytes(6) +
            socket.inet_aton(target))


def checksum(b):
    b += bytes(len(b) % 2)
    total = sum(struct.unpack("!%dH" % (len(b) // 2), b))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return struct.pack("!H", total ^ 0xffff)


def datagram(to, source, target, port=7, text=b"hello"):
    ends = socket.inet_aton(source) + socket.inet_aton(target)
    udp = struct.pack("!HHHH", 1000, port, 8 + len(text), 0) + text
    udp = udp[:6] + checksum(ends + struct.pack("!HH", 17, len(udp)) + udp) + udp[8:]
    head = struct.pack("!BBHHHBBH8s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, ends)
    return to + mac(0x77) + b"\x08\0" + head[:10] + checksum(head) + head[12:] + udp


def load(text):
    out = subprocess.run(["nft", "-f", "-"], input=text, text=True, capture_output=True)
    print("loaded" if out.returncode == 0 else out.stderr)


pair("v0", "v1", 0x10)
run("ip", "addr", "add", "10.9.0.1/24", "dev", "v0")
wire = opened("v1", 3)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(("10.9.0.1", 7))
u.setblocking(False)


def heard():
    all = []
    try:
        while True:
            data, (ip, _) = u.recvfrom(100)
            all.append((ip, data))
    except BlockingIOError:
        return all


print("== arp")
load("""table arp t {
  chain in { type filter hook input priority 0; counter; arp operation request arp saddr ip 10.9.0.66 counter drop; meta iifname "v0" counter; }
  chain out { type filter hook output priority 0; arp operation reply counter; arp daddr ip 10.9.0.67 counter drop; ether saddr 02:00:00:00:00:10 counter; }
  chain later { type filter hook input priority 5; policy drop; arp saddr ip { 10.9.0.5, 10.9.0.67 } counter accept; counter; }
}""")
for sender in "10.9.0.5", "10.9.0.66", "10.9.0.67", "10.9.0.68":
    wire.send(arp(1, sender, "10.9.0.1"))
    print(sender, [f[20:22].hex() + f[38:42].hex() for f in got(wire) if f[12:14] == b"\x08\x06"])
listed("arp")
print(nft("flush", "ruleset"))

print("== netdev")
load("""table netdev t {
  set bad { type ipv4_addr; elements = { 10.9.0.7 } }
  chain in { type filter hook ingress device "v0" priority 0; counter; meta protocol arp counter; ip saddr @bad counter drop; udp dport 7 counter; udp dport 8 udp dport set 7 counter;
    udp dport 9 meta mark set 5; udp dport 10 counter reject; }
  chain other { type filter hook ingress device "lo" priority 0; counter; }
  chain out { type filter hook egress device "v0" priority 0; counter; arp operation reply counter drop; }
}""")
to = mac(0x10)
for source, port in ("10.9.0.7", 7), ("10.9.0.8", 7), ("10.9.0.9", 8), ("10.9.0.9", 9), ("10.9.0.10", 10):
    wire.send(datagram(to, source, "10.9.0.1", port))
    print(source, port, heard())
got(wire)
wire.send(arp(1, "10.9.0.5", "10.9.0.1"))
print("reply", [f for f in got(wire) if f[12:14] == b"\x08\x06" and f[21] == 2])
u.sendto(b"to itself", ("10.9.0.1", 7))
print(heard())
out = subprocess.run(["nft", "-j", "list", "table", "netdev", "t"], capture_output=True, text=True).stdout
import json
for o in json.loads(out)["nftables"]:
    if "rule" in o and o["rule"]["chain"] != "out":
        print(o["rule"]["chain"], [list(e.values())[0] for e in o["rule"]["expr"] if "counter" in e])
print(nft("flush", "ruleset"))
wire.send(datagram(to, "10.9.0.7", "10.9.0.1"))
print("without", heard())
print("reject", nft("add", "table", "netdev", "t"), nft("add", "chain", "netdev", "t", "in", "{ type filter hook ingress device v0 priority 0; }"),
      nft("add", "chain", "netdev", "t", "out", "{ type filter hook egress device v0 priority 0; }"), nft("add", "rule", "netdev", "t", "in", "reject"),
      nft("add", "rule", "netdev", "t", "out", "reject"))
run("ip", "neigh", "add", "10.9.0.77", "lladdr", "02:00:00:00:00:77", "dev", "v0", "nud", "permanent")
got(wire)
wire.send(datagram(to, "10.9.0.77", "10.9.0.1", 12))
print("answered", [(f[:6].hex(), f[34], f[35], f[42:62].hex()[24:]) for f in got(wire) if f[12:14] == b"\x08\0" and f[23] == 1])
print(nft("flush", "ruleset"))

print("== bridge")
run("ip", "link", "add", "br0", "address", "02:00:00:00:00:99", "type", "bridge", "mcast_snooping", "0")
run("ip", "link", "set", "br0", "addrgenmode", "none")
ends = {}
for n in range(3):
    pair(f"p{n}", f"e{n}", 0x20 + n)
    run("ip", "link", "set", f"p{n}", "master", "br0")
    ends[n] = opened(f"e{n}", 0x88b5)
run("ip", "link", "set", "br0", "up")
own = opened("br0", 0x88b5)
load("""table bridge t {
  chain pre { type filter hook prerouting priority 0; ether saddr 02:00:00:00:00:66 counter drop; ether type 0x88b5 counter; ether saddr 02:00:00:00:00:43 ether daddr set 02:00:00:00:00:42; }
  chain in { type filter hook input priority 0; ether type 0x88b5 counter; iifname "p0" ether type 0x88b5 counter; }
  chain across { type filter hook forward priority 0; ether type 0x88b5 counter; iifname "p0" oifname "p2" ether type 0x88b5 counter drop; meta pkttype broadcast ether type 0x88b5 counter; }
  chain out { type filter hook output priority 0; ether type 0x88b5 counter; }
  chain post { type filter hook postrouting priority 0; ether type 0x88b5 counter; oifname "p1" ether type 0x88b5 counter; }
}""")


def frame(to, source):
    return to + mac(source) + b"\x88\xb5" + bytes(46)


ALL = b"\xff" * 6
for end, to, source in ((0, ALL, 0x41), (1, ALL, 0x42), (0, mac(0x42), 0x41), (1, mac(0x41), 0x42), (2, mac(0x41), 0x66), (2, mac(0x41), 0x43), (1, mac(0x99), 0x42)):
    ends[end].send(frame(to, source))
    print(end, to.hex(), hex(source), [[f[:6].hex() for f in got(s)] for s in (*ends.values(), own)])
own.send(frame(ALL, 0x99))
print("own", [[f[:6].hex() for f in got(s)] for s in ends.values()])
listed("bridge")
rows = subprocess.run(["bridge", "fdb", "show", "br", "br0"], capture_output=True, text=True).stdout.splitlines()
print(*sorted(" ".join(x.split()) for x in rows if " 02:00:00:00:00:4" in " " + x or "00:66" in x), sep="\n")
