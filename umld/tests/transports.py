"""Vector transports with a peer: the host's stack behind tap and packet sockets, a second guest behind the others.

Runs in a network namespace of its own as its root: transports.py UMLD DIRECTORY. Prints one line for each transport.
"""
import os
import socket
import subprocess
import sys
import threading

from asked import bridge

UMLD, DIRECTORY = sys.argv[1:3]
PATIENCE = 60

GUEST = r'''
import socket, struct, sys
role, peer = sys.argv[1], sys.argv[2]
data = bytes(range(251)) * (4 << 12)
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
    c.sendall(whole(c))
    # The machine ends with this program, and what is on the way with the machine.
    c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 50))
    c.close()
    print("served", a[0], flush=True)
else:
    s = socket.create_connection((peer, 80), timeout=50)
    s.sendall(data)
    s.shutdown(socket.SHUT_WR)
    print("same" if whole(s) == data else "different", flush=True)
    bad = [l for l in open("/proc/net/if_inet6") if int(l.split()[4], 16) & 8]
    print("duplicate address" if bad else "one address", flush=True)
'''


def guest(spec, ip, peer, role, fds=()):
    return subprocess.Popen(
        [UMLD, "run", "--mem", "128M", "--net", "none",
         "--append", "vec0:transport=" + spec,
         "--append", f"ip={ip}:::255.255.255.0::vec0:off",
         "--", "python3", "-c", GUEST, role, peer],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, pass_fds=fds)


def finish(*guests):
    out = []
    for g in guests:
        try:
            out += g.communicate(timeout=PATIENCE)[0].split("\n")
        except subprocess.TimeoutExpired:
            g.kill()
            out.append("too slow")
    return ", ".join(l for l in out if l)


def two(name, a, b, fds=((), ())):
    server = guest(a, "10.7.0.1", "10.7.0.2", "serve", fds[0])
    server.stdout.readline()
    print(name + ":", finish(guest(b, "10.7.0.2", "10.7.0.1", "ask", fds[1]), server), flush=True)


def echo(listener):
    c, _ = listener.accept()
    parts = []
    while b := c.recv(1 << 20):
        parts.append(b)
    c.sendall(b"".join(parts))
    c.close()


def host(name, spec):
    listener = socket.create_server(("10.7.0.1", 80))
    threading.Thread(target=echo, args=(listener,), daemon=True).start()
    print(name + ":", finish(guest(spec, "10.7.0.2", "10.7.0.1", "ask")), flush=True)
    listener.close()


def ip(words):
    subprocess.run(["ip"] + words.split(), check=True)


ip("link set lo up")
if os.access("/dev/net/tun", os.R_OK | os.W_OK):
    ip("tuntap add tap7 mode tap")
    ip("addr add 10.7.0.1/24 dev tap7")
    ip("link set tap7 up")
    host("tap", "tap,ifname=tap7")
    host("hybrid", "hybrid,ifname=tap7,gro=1")
    ip("link del tap7")
ip("link add dev left type veth peer name right")
ip("addr add 10.7.0.1/24 dev left")
ip("link set left up")
ip("link set right up")
host("raw", "raw,ifname=right,gro=1")
host("raw plain", "raw,ifname=right,vec=0")
ip("link del left")
ends = "src=127.0.0.1,dst=127.0.0.2", "src=127.0.0.2,dst=127.0.0.1"
two("gre", f"gre,{ends[0]},rx_key=1,tx_key=2,sequence=1", f"gre,{ends[1]},rx_key=2,tx_key=1,sequence=1")
two("gre plain", f"gre,{ends[0]},vec=0", f"gre,{ends[1]}")
two("l2tpv3", f"l2tpv3,{ends[0]},rx_session=1,tx_session=2", f"l2tpv3,{ends[1]},rx_session=2,tx_session=1")
two("l2tpv3 udp",
    f"l2tpv3,udp=1,{ends[0]},srcport=5000,dstport=5001,rx_session=1,tx_session=2,rx_cookie=5,tx_cookie=6,cookie64=1,counter=1",
    f"l2tpv3,udp=1,{ends[1]},srcport=5001,dstport=5000,rx_session=2,tx_session=1,rx_cookie=6,tx_cookie=5,cookie64=1,counter=1")
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
two("fd", f"fd,fd={a.fileno()}", f"fd,fd={b.fileno()}", ((a.fileno(),), (b.fileno(),)))
path = os.path.join(DIRECTORY, "bess")
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(path)
listener.listen(2)
threading.Thread(target=bridge, args=(listener,), daemon=True).start()
two("bess", f"bess,dst={path}", f"bess,dst={path}")
