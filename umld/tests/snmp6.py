"""/proc/net/dev_snmp6: what each interface counts of IPv6, on the host and in a guest, in a network namespace of its own, as its root."""
import os, socket, subprocess

DIRECTORY = "/proc/net/dev_snmp6"


def ip(*args):
    subprocess.run(["ip", *args], check=True)


def counters(name):
    """The values, and the lines as they are without them."""
    lines = open(f"{DIRECTORY}/{name}").read().splitlines()
    return dict((k.strip(), int(v)) for k, v in (x.split("\t") for x in lines)), [x.split("\t")[0] for x in lines]


def there(name):
    try:
        return open(f"{DIRECTORY}/{name}").read(8)
    except OSError as e:
        return e.errno


print(sorted(os.listdir(DIRECTORY)), there("lo"), there("nothere"))
ip("link", "set", "lo", "up")
print(counters("lo")[1])
# These stay down, so that nothing passes them.
ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
print(sorted(os.listdir(DIRECTORY)), there("v0"))
print(counters("v0") == (dict.fromkeys(counters("v0")[0], 0) | {"ifIndex": socket.if_nametoindex("v0")}, counters("lo")[1]))
ip("link", "set", "v1", "name", "other")
print(sorted(os.listdir(DIRECTORY)), there("v1"), there("other"))
ip("link", "set", "other", "mtu", "1000")
print(sorted(os.listdir(DIRECTORY)), there("other"))
ip("link", "set", "other", "mtu", "1500")
print(sorted(os.listdir(DIRECTORY)), there("other"))
ip("link", "del", "v0")
print(sorted(os.listdir(DIRECTORY)), there("v0"))


def change(what, f, *names):
    before = {n: counters(n)[0] for n in names}
    f()
    for n in names:
        after = counters(n)[0]
        print(what, n, {k: v - before[n].get(k, 0) for k, v in sorted(after.items()) if v != before[n].get(k, 0)})


r, w = (socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) for _ in range(2))
r.bind(("::1", 7000))
r.settimeout(20)


def datagrams(n, size):
    def f():
        for _ in range(n):
            w.sendto(bytes(size), ("::1", 7000))
            r.recv(70000)
    return f


change("datagrams", datagrams(5, 100), "lo")
ip("link", "set", "lo", "mtu", "1500")
change("pieces", datagrams(3, 4000), "lo")


def refused():
    c = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    c.connect(("::1", 7001))
    c.send(b"x")
    try:
        c.recv(1)
    except ConnectionRefusedError:
        pass


change("refused", refused, "lo")
p = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
p.settimeout(20)


def echo():
    p.connect(("::1", 0))
    p.send(b"\x80\0\0\0\0\0\0\1")
    while p.recv(100)[0] != 129:
        pass


change("echo", echo, "lo")
marked = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
marked.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 3)


def congested():
    marked.sendto(b"x", ("::1", 7000))
    r.recv(10)


change("congested", congested, "lo")
# IPv4 is not counted here.
four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
four.bind(("127.0.0.1", 0))
four.settimeout(20)
change("of IPv4", lambda: (four.sendto(b"x", four.getsockname()), four.recv(9)), "lo")
