"""A guest as a firewall between two others: netfilter_routing.py UMLD. Prints what each of the three saw.

The inner guest has a private network; the outer one has no way back to it, so that only what is translated comes through.
"""
import socket
import subprocess
import sys

UMLD = sys.argv[1]
PATIENCE = 120

COMMON = r'''
import errno, os, select, socket, struct, subprocess, sys
data = bytes(range(251)) * (4 << 12)
def run(*words, input=None):
    r = subprocess.run(words, input=input, text=True, capture_output=True)
    if r.returncode or r.stderr:
        print(words, r.stderr)
    return r.stdout
def whole(s):
    parts = []
    while b := s.recv(1 << 20):
        parts.append(b)
    return b"".join(parts)
def get(s):
    if not select.select([s], [], [], 60)[0]:
        return "nothing", None
    try:
        b, peer = s.recvfrom(2000)
        return b.decode(), peer
    except OSError as e:
        return errno.errorcode[e.errno], None
def say(*words):
    print(*words, flush=True)
def linger(s):
    # The machine ends with this program, and what is on the way with the machine.
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 50))
def failure(f):
    try:
        f()
        return "no error"
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e))
'''

ROUTER = r'''
for name, address in ("vec0", "10.1.0.1/24"), ("vec1", "10.2.0.1/24"):
    run("ip", "address", "add", address, "dev", name)
    run("ip", "link", "set", name, "up")
open("/proc/sys/net/ipv4/ip_forward", "w").write("1")
done = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
done.bind(("10.1.0.1", 9))
run("nft", "-f", "-", input="""
table ip t {
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname "vec0" tcp dport 81 counter reject with tcp reset
        iifname "vec0" tcp dport 82 counter reject with icmp admin-prohibited
        iifname "vec0" ct state new counter accept
        iifname "vec1" ct status dnat counter accept
        counter
    }
    chain pre {
        type nat hook prerouting priority dstnat;
        iifname "vec1" tcp dport 8080 counter dnat to 10.1.0.2:80
    }
    chain post {
        type nat hook postrouting priority srcnat;
        oifname "vec1" counter masquerade
    }
}
""")
say("ready")
get(done)
say(run("nft", "list", "ruleset"))
'''

OUTER = r'''
run("ip", "address", "add", "10.2.0.2/24", "dev", "vec0")
run("ip", "link", "set", "vec0", "up")
l = socket.create_server(("0.0.0.0", 80))
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(("10.2.0.2", 5000))
say("ready")
c, a = l.accept()
linger(c)
c.sendall(whole(c))
c.close()
say("connection from", a[0])
text, peer = get(u)
say("datagram", text, "from", peer[0])
u.sendto(b"answer", peer)
text, peer = get(u)
say("datagram", text, "from", peer[0])
s = socket.create_connection(("10.2.0.1", 8080), timeout=60)
linger(s)
s.sendall(b"through the port")
s.shutdown(socket.SHUT_WR)
say("the port says", whole(s).decode())
s.close()
# Not translated by any rule: for the router itself, where nobody listens.
say("unasked:", failure(lambda: socket.create_connection(("10.2.0.1", 8081), timeout=60)))
u.sendto(b"end", peer)
u.sendto(b"end", peer)
get(u)
'''

INNER = r'''
run("ip", "address", "add", "10.1.0.2/24", "dev", "vec0")
run("ip", "link", "set", "vec0", "up")
run("ip", "route", "add", "default", "via", "10.1.0.1")
s = socket.create_connection(("10.2.0.2", 80), timeout=60)
s.sendall(data)
s.shutdown(socket.SHUT_WR)
say("bulk", "same" if whole(s) == data else "different")
say("81", failure(lambda: socket.create_connection(("10.2.0.2", 81), timeout=60)))
say("82", failure(lambda: socket.create_connection(("10.2.0.2", 82), timeout=60)))
# An error of the other side comes back to who it belongs to.
e = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
e.connect(("10.2.0.2", 5001))
e.send(b"x")
say("closed port", get(e)[0])
t = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
t.setsockopt(socket.SOL_IP, socket.IP_TTL, 1)
t.setsockopt(socket.SOL_IP, 11, 1)
t.connect(("10.2.0.2", 5001))
t.send(b"x")
say("one hop", get(t)[0])
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.sendto(b"question", ("10.2.0.2", 5000))
text, peer = get(u)
say("datagram", text, "from", peer[0])
l = socket.create_server(("0.0.0.0", 80))
u.sendto(b"listening", ("10.2.0.2", 5000))
c, a = l.accept()
linger(c)
c.sendall(whole(c))
c.close()
say("connection from", a[0])
say("datagram", get(u)[0])
r = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.sendto(b"end", ("10.2.0.2", 5000))
r.sendto(b"end", ("10.1.0.1", 9))
'''


def guest(script, *fds):
    words = [UMLD, "run", "--mem", "128M", "--net", "none"]
    for i, fd in enumerate(fds):
        words += ["--append", f"vec{i}:transport=fd,fd={fd.fileno()}"]
    return subprocess.Popen(
        [*words, "--", "python3", "-c", COMMON + script],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        pass_fds=[fd.fileno() for fd in fds])


def main():
    inside, outside = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
    guests = {"router": guest(ROUTER, inside[0], outside[0]), "outer": guest(OUTER, outside[1])}
    for g in guests.values():
        g.stdout.readline()
    guests["inner"] = guest(INNER, inside[1])
    for name in "inner", "outer", "router":
        try:
            out = guests[name].communicate(timeout=PATIENCE)[0]
        except subprocess.TimeoutExpired:
            guests[name].kill()
            out = "too slow\n" + guests[name].communicate()[0]
        for line in out.splitlines():
            print(f"{name}: {line}", flush=True)


main()
