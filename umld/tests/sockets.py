"""Sockets of every kind in a network namespace of its own, and what ss(8) says of them. What depends on the machine or the
moment is replaced; lines are sorted, as no order is promised."""
import ctypes, re, socket, struct, subprocess, time

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
keep = []


def listener(family, host, port, backlog):
    s = socket.socket(family, socket.SOCK_STREAM)
    # What accepted connections inherit; the host's default may be another one.
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((host, port))
    s.listen(backlog)
    keep.append(s)
    return s


def connected(l, data=b"hello"):
    c = socket.socket(l.family, socket.SOCK_STREAM)
    c.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
    c.connect(l.getsockname()[:2])
    a, _ = l.accept()
    keep.extend([c, a])
    c.sendall(data)
    return c, a


def snmp6():
    return {n: int(v) for n, v in (line.split() for line in open("/proc/net/snmp6"))}


# What IPv6 traffic adds to the counters.
before = snmp6()
a, b = (socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(2))
a.bind(("::1", 0))
for n in range(5):
    b.sendto(b"x" * 100, a.getsockname())
b.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 3)
b.sendto(b"x" * 1000, a.getsockname())
for n in range(6):
    a.recv(2000)
b.connect(("::1", 9))
b.send(b"nobody")
try:
    b.recv(1)
except ConnectionRefusedError:
    print("refused")
subprocess.run(["ping", "-6", "-c1", "::1"], stdout=subprocess.DEVNULL)
after = snmp6()
print("snmp6", {n: after[n] - before.get(n, 0) for n in sorted(after) if after[n] != before.get(n, 0) and "Lite" not in n})

four = listener(socket.AF_INET, "127.0.0.1", 22, 5)
any4 = listener(socket.AF_INET, "0.0.0.0", 8080, 100)
six = listener(socket.AF_INET6, "::1", 2222, 7)
connected(four)
connected(six, b"x" * 77)
c, a = connected(any4)
assert a.recv(5) == b"hello"
c, a = connected(any4)
a.recv(5)
c.shutdown(socket.SHUT_WR)
assert a.recv(1) == b""
# Its end is acknowledged in a moment.
while c.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) != b"\x05":
    time.sleep(0.01)
# Not accepted.
w = socket.socket()
w.connect(("127.0.0.1", 22))
keep.append(w)
# In TIME_WAIT.
c, a = connected(any4, b"bye")
a.recv(3)
keep.remove(c), keep.remove(a)
c.close()
assert a.recv(1) == b""
a.close()

u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(("127.0.0.1", 53))
v = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
v.bind(("127.0.0.1", 5353))
v.connect(("127.0.0.1", 53))
u6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
u6.bind(("::", 547))
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
raw6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)

ul = socket.socket(socket.AF_UNIX)
ul.bind("\0listener")
ul.listen(3)
uc = socket.socket(socket.AF_UNIX)
uc.connect("\0listener")
ua, _ = ul.accept()
uc.sendall(b"12345")
un = socket.socket(socket.AF_UNIX)
un.connect("\0listener")
ud = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
ud.bind("\0datagrams")
us = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
nl = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
nl.bind((4242, 1))


p_all = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
p_all.setsockopt(263, 8, 1)
p_ip = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
p_ip.bind(("lo", 0x800))
p_none = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
# SO_ATTACH_FILTER: every byte.
code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0xffff))
p_ip.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HxxxxxxQ", 1, ctypes.addressof(code)))


def ss(*args):
    print("-- ss", *args, flush=True)
    done = subprocess.run(["ss", *args], capture_output=True, text=True)
    return (done.stdout + done.stderr).splitlines()


def show(*args):
    out = []
    for line in ss(*args):
        line = re.sub(r"pid=\d+", "pid=P", line)
        # Ports of the kernel's choice, and inodes.
        line = re.sub(r":(3[2-9]|[45]\d|6[0-5])\d{3}\b", ":PORT", line)
        if "x" in args[0]:
            # Inodes.
            line = re.sub(r" [1-9]\d*(?= +\* )", " N", line)
            line = re.sub(r"(?<=\* )[1-9]\d*(?= *$)", "N", line)
            # What a message costs beyond its bytes is the kernel's affair.
            line = re.sub(r"(ESTAB +\d+ +)[1-9]\d*", r"\1Q", line)
        line = re.sub(r"timer:\(timewait,[^)]*\)", "timer:(timewait)", line)
        out.append(re.sub(r"\s+", " ", line).strip())
    print(*sorted(out), sep="\n")


show("-Htln")
show("-Htlnpi")
show("-Htan")
show("-Htan4")
show("-Htan6")
show("-Htno", "state", "time-wait")
show("-Huan")
show("-Hun")
show("-Hwan")
for expression in [
    "sport = :22",
    "dport = :22",
    "sport = :22 or dport = :2222",
    "not sport = :22",
    "sport >= :2000 and sport <= :9000",
    "src 127.0.0.1:22",
    "dst 127.0.0.0/8",
    "dst [::1]",
    "src 10.0.0.0/8",
    "sport != :22 and ( dport = :22 or dport = :8080 )",
    "dev lo",
    "autobound",
]:
    show("-Htn", "state", "established", "( " + expression + " )")
show("-Hta", "state", "listening", "src :8080", "-n")
for args in ["-H0an"], ["-H0aen"], ["-H0anm"], ["-H0anb"]:
    # Cookies and inodes are of the moment, what packets weigh is the kernel's affair.
    print(*sorted(re.sub(r"(ino|sk):[0-9a-f]+|\(r\d+|\bo\d+", r"\1", re.sub(r"\s+", " ", l).strip()) for l in ss(*args)), sep="\n")
# Without addresses, references, weights and inodes.
print(*sorted(" ".join(l.split()[2:6]) for l in open("/proc/net/packet")), sep="\n")
show("-Hxa")
show("-Hxl")

# Whose peers are each other's.
inodes = [re.findall(r"\b(\d+)\s+\S+ (\d+)\s*$", line) for line in ss("-Hxn")]
ends = {e[0] for e in inodes if e and e[0][1] != "0"}
print("pairs", all((b, a) in ends for a, b in ends), len(ends))
# Linux lists members of groups twice.
print({re.sub(r"\s+", " ", l).strip() for l in ss("-Ha", "-f", "netlink", "-n") if re.search(r"\b0:4242\b|rtnl:4242\b", l)})
# The fields of a connection that say the same everywhere.
info = " ".join(ss("-Htin", "state", "established", "( dport = :2222 )"))
fields = ["cubic", "wscale:", "rto:", "rtt:", "mss:", "pmtu:", "rcvmss:", "advmss:", "cwnd:", "bytes_sent:77", "bytes_acked:78", "segs_out:", "segs_in:", "data_segs_out:1", "lastsnd:", "rcv_space:", "minrtt:"]
print([f for f in fields if f in info])
memory = " ".join(ss("-Htmn", "state", "established", "( dport = :2222 )"))
print(sorted(set(re.findall(r"[a-z]+(?=\d)", re.search(r"skmem:\(([^)]*)\)", memory)[1]))))
# Sockets of all namespaces count in the totals.
# Linux counts orphans of all its network namespaces together.
summary = [re.sub(r"orphaned \d+", "orphaned N", re.sub(r"\s+", " ", l)) for l in ss("-s") if not l.startswith("Total")]
print(*[re.sub(r"TCP: \d+|closed \d+, ", "", l) for l in summary], sep="\n")
for family, protocol in [(200, 6), (2, 250)]:
    body = struct.pack("BB", family, protocol) + bytes(54)
    d = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)
    d.send(struct.pack("IHHII", 16 + len(body), 20, 0x301, 1, 0) + body)
    r = d.recv(8192)
    print("errors", struct.unpack("H", r[4:6])[0], struct.unpack("i", r[16:20])[0])
