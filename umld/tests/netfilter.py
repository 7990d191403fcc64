"""What filters and NAT do to packets over the loopback: the same transcript on Linux and in a guest.

Runs as root of a network namespace of its own.
"""
import errno
import os
import select
import socket
import subprocess

# The transcripts' patience: long for a loaded machine, only spent where nothing may arrive.
SOON = 15
NEVER = 0.3


def nft(text):
    """Loads rules; braces that close what earlier lines opened get lines of their own, as nft wants it."""
    lines = []
    for line in text.split("\n"):
        open_here = line.count("{") - line.count("}")
        lines.append(line.rstrip("} ") + "\n}" * -open_here if open_here < 0 and line.endswith(" }") else line)
    text = "\n".join(lines)
    r = subprocess.run(["nft", "-f", "-"], input=text, text=True, capture_output=True)
    if r.returncode:
        print("nft:", r.stderr.strip())


def show(*args):
    print(subprocess.run(args, text=True, capture_output=True).stdout, end="")


def flush():
    nft("flush ruleset")


def section(name):
    flush()
    print("##", name, flush=True)


def code(e):
    return errno.errorcode.get(e.errno, str(e)) if isinstance(e, OSError) and e.errno else "timeout"


def udp(address, family=socket.AF_INET):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.bind(address)
    s.setblocking(False)
    return s


def get(s, patience=SOON):
    if not select.select([s], [], [], patience)[0]:
        return "nothing"
    try:
        data, peer = s.recvfrom(70000)
    except OSError as e:
        return code(e)
    return f"{len(data)} from {peer[0]}" + (f":{peer[1]}" if peer[1] < 30000 else "")


def put(s, data, to):
    try:
        s.sendto(data, to)
        return "sent"
    except OSError as e:
        return code(e)


def connect(to, family=socket.AF_INET):
    s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(SOON)
    try:
        s.connect(to)
        s.sendall(b"hello")
        answer = s.recv(100).decode()
        return f"{answer}, peer {s.getpeername()[1]}"
    except OSError as e:
        return code(e)
    finally:
        s.close()


def serve(server):
    """Answers one connection in the background."""
    pid = os.fork()
    if pid == 0:
        server.settimeout(SOON)
        try:
            c, peer = server.accept()
        except OSError:
            os._exit(1)
        c.recv(100)
        try:
            where = c.getsockopt(*((41, 80, 28) if c.family == socket.AF_INET6 else (0, 80, 16)))
            where = str(int.from_bytes(where[2:4], "big"))
        except OSError as e:
            where = code(e)
        c.sendall(f"served {peer[0]} for {where}".encode())
        c.close()
        os._exit(0)
    return pid


def main():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    a, b = udp(("127.0.0.1", 1000)), udp(("127.0.0.1", 1001))
    c = udp(("127.0.0.1", 2000))

    section("drop and count")
    nft("""table ip t { chain i { type filter hook input priority 0; policy accept;
        udp dport 1000 counter drop
        udp dport 1001 counter
        counter } }""")
    for _ in range(3):
        print(put(c, b"x" * 10, ("127.0.0.1", 1000)))
    print(put(c, b"x" * 20, ("127.0.0.1", 1001)))
    print(get(b), get(a, NEVER))
    show("nft", "list", "ruleset")

    section("dropped where it is sent")
    nft("""table ip t { chain o { type filter hook output priority 0;
        udp dport 1000 counter drop } }""")
    print(put(c, b"x", ("127.0.0.1", 1000)), put(c, b"x", ("127.0.0.1", 1001)), get(b))
    show("nft", "list", "ruleset")

    section("reject")
    nft("""table inet t { chain i { type filter hook input priority 0;
        tcp dport 81 reject
        tcp dport 82 reject with tcp reset
        tcp dport 83 reject with icmpx host-unreachable
        ip daddr 127.0.0.1 tcp dport 84 reject with icmp admin-prohibited
        ip6 daddr ::1 tcp dport 84 reject with icmpv6 admin-prohibited
        udp dport 85 counter reject } }""")
    for family, host in (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"):
        for port in 81, 82, 83, 84:
            print(port, connect((host, port), family))
        s = socket.socket(family, socket.SOCK_DGRAM)
        s.connect((host, 85))
        s.send(b"x")
        select.select([s], [], [], SOON)
        print(85, put(s, b"y", (host, 85)) if family == 0 else get(s))
    show("nft", "list", "ruleset")

    section("policy, jumps and verdict maps")
    nft("""table ip t {
        map m { type inet_service : verdict; elements = { 1000 : jump one, 1001 : goto two } }
        chain one { counter; return; counter; }
        chain two { counter; }
        chain i { type filter hook input priority 0; policy drop;
            ip protocol icmp accept
            udp dport vmap @m
            counter
            udp dport 1000 accept } }""")
    print(put(c, b"x", ("127.0.0.1", 1000)), get(a))
    print(put(c, b"x", ("127.0.0.1", 1001)), get(b, NEVER))
    show("nft", "list", "ruleset")

    section("states of connections")
    nft("""table ip t { chain i { type filter hook input priority 0;
        ct state new counter
        ct state established counter
        ct state related counter
        ct state invalid counter
        ct direction reply counter } }""")
    for _ in range(3):
        put(c, b"ping", ("127.0.0.1", 1000))
        print(get(a))
        put(a, b"pong", ("127.0.0.1", 2000))
        print(get(c))
    # Nobody listens there: the error belongs to the connection.
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect(("127.0.0.1", 3000))
    s.send(b"x")
    print(get(s))
    show("nft", "list", "ruleset")

    section("only answers come in")
    nft("""table ip t {
        chain o { type filter hook output priority 0; ct state new ct mark set 7; }
        chain i { type filter hook input priority 0; policy drop;
            ct state established,related counter accept
            udp dport 1000 accept } }""")
    d = udp(("127.0.0.1", 2002))
    put(d, b"in", ("127.0.0.1", 1000))
    print(get(a))
    put(a, b"answer", ("127.0.0.1", 2002))
    print(get(d))
    put(a, b"unasked", ("127.0.0.1", 1001))
    print(get(b, NEVER))
    show("nft", "list", "ruleset")

    section("redirect")
    server = socket.create_server(("127.0.0.1", 9090))
    nft("""table ip t { chain o { type nat hook output priority -100;
        tcp dport 8080 counter redirect to :9090 } }""")
    pid = serve(server)
    print(connect(("127.0.0.1", 8080)))
    os.waitpid(pid, 0)
    show("nft", "list", "ruleset")

    section("redirect, IPv6")
    server6 = socket.create_server(("::1", 9090), family=socket.AF_INET6)
    nft("""table ip6 t { chain o { type nat hook output priority -100;
        tcp dport 8080 counter redirect to :9090 } }""")
    pid = serve(server6)
    print(connect(("::1", 8080), socket.AF_INET6))
    os.waitpid(pid, 0)
    show("nft", "list", "ruleset")

    section("destination and source translated")
    e = udp(("127.0.0.2", 1000))
    nft("""table ip t {
        chain o { type nat hook output priority -100;
            ip daddr 127.0.0.9 udp dport 5000 counter dnat to 127.0.0.2:1000 }
        chain p { type nat hook postrouting priority srcnat;
            ip daddr 127.0.0.2 meta l4proto udp counter snat to 127.0.0.8:7777 } }""")
    d = udp(("127.0.0.1", 2003))
    print(put(d, b"x" * 33, ("127.0.0.9", 5000)))
    print(get(e))
    print(put(e, b"y" * 34, ("127.0.0.8", 7777)))
    print(get(d))
    # No rule is asked about a connection that is known.
    print(put(d, b"x" * 35, ("127.0.0.9", 5000)), get(e))
    show("nft", "list", "ruleset")

    section("sets that packets fill")
    nft("""table ip t {
        set seen { type ipv4_addr . inet_service; flags dynamic; size 10; }
        chain i { type filter hook input priority 0;
            udp dport 1000-1001 update @seen { ip saddr . udp dport counter } counter
            ip saddr . udp dport @seen counter } }""")
    for port in 1000, 1001, 1000:
        put(c, b"x", ("127.0.0.1", port))
    print(get(a), get(b), get(a))
    show("nft", "list", "ruleset")

    section("users and open connections")
    nft("""table ip t {
        chain o { type filter hook output priority 0;
            meta skuid 0 udp dport 1000 counter
            meta skuid 1 udp dport 1000 counter }
        chain i { type filter hook input priority 0;
            udp dport 1000-1001 ct state new ct count over 2 counter reject
            udp dport 1000 counter } }""")
    many = [udp(("127.0.0.1", 2100 + n)) for n in range(4)]
    for m in many:
        put(m, b"x", ("127.0.0.1", 1000))
    print([get(a) for _ in range(2)], get(a, NEVER))
    show("nft", "list", "ruleset")

    section("limit")
    nft("""table ip t { chain i { type filter hook input priority 0;
        udp dport 1000 limit rate 1/hour burst 3 packets counter accept
        udp dport 1000 counter drop } }""")
    for _ in range(8):
        put(c, b"x", ("127.0.0.1", 1000))
    print([get(a) for _ in range(3)], get(a, NEVER))
    show("nft", "list", "ruleset")

    section("marks and changed packets")
    nft("""table ip t {
        chain o { type filter hook output priority 0;
            udp dport 1000 meta mark set 0x1234 ip dscp set cs4 ip ttl set 7
            udp dport 1009 udp dport set 1001 }
        chain i { type filter hook input priority 0;
            meta mark 0x1234 ip dscp cs4 ip ttl 7 meta iifname "lo" meta l4proto udp counter
            @nh,72,8 17 @th,16,16 1001 counter
            ip length 29 udp checksum != 0 meta length 29 counter } }""")
    print(put(c, b"x", ("127.0.0.1", 1000)), get(a))
    print(put(c, b"x", ("127.0.0.1", 1009)), get(b))
    show("nft", "list", "ruleset")

    section("pieces are put together for those who track")
    subprocess.run(["ip", "link", "set", "lo", "mtu", "1500"], check=True)
    nft("""table ip t { chain i { type filter hook input priority 0;
        udp dport 1000 counter } }""")
    print(put(c, b"x" * 5000, ("127.0.0.1", 1000)), get(a))
    nft("""table ip t { chain p { type filter hook prerouting priority 0;
        ct state new counter } }""")
    f = udp(("127.0.0.1", 2004))
    print(put(f, b"x" * 5000, ("127.0.0.1", 1000)), get(a))
    show("nft", "list", "ruleset")
    subprocess.run(["ip", "link", "set", "lo", "mtu", "65536"], check=True)

    section("routes and types of addresses")
    nft("""table ip t { chain i { type filter hook input priority 0;
        udp dport 1000 fib daddr type local counter
        udp dport 1000 fib saddr . iif oif exists counter
        udp dport 1000 fib saddr oif "lo" counter
        udp dport 1000 numgen inc mod 2 vmap { 0 : drop, 1 : accept }
        } }""")
    for _ in range(4):
        put(c, b"x", ("127.0.0.1", 1000))
    print(get(a), get(a), get(a, NEVER))
    show("nft", "list", "ruleset")

    section("iptables")
    for line in """
-A INPUT -p udp -m multiport --dports 1000,1500:1600 -m comment --comment one
-A INPUT -p udp --dport 1000 -m conntrack --ctstate NEW
-A INPUT -p udp --dport 1000 -m length --length 29:29 -m ttl --ttl-eq 64 -m addrtype --dst-type LOCAL
-A INPUT -p udp --dport 1001 -m iprange --src-range 127.0.0.1-127.0.0.3 -j DROP
-A INPUT -p udp --dport 1002 -j REJECT --reject-with icmp-host-prohibited
-A OUTPUT -p udp --dport 1000 -j MARK --set-mark 9
-A OUTPUT -m mark --mark 9 -m state --state NEW
-A OUTPUT -p udp --dport 1001 -m owner --uid-owner 0
-t nat -A OUTPUT -p udp --dport 5001 -j DNAT --to-destination 127.0.0.2:1000
-t nat -A OUTPUT -p tcp --dport 8081 -j REDIRECT --to-ports 9090
-t nat -A POSTROUTING -d 127.0.0.2 -j SNAT --to-source 127.0.0.6
""".strip().split("\n"):
        r = subprocess.run(["iptables", *line.split()], text=True, capture_output=True)
        if r.returncode:
            print(line, r.stderr.strip())
    g = udp(("127.0.0.1", 2005))
    print(put(g, b"x", ("127.0.0.1", 1000)), get(a))
    print(put(g, b"x", ("127.0.0.1", 1001)), get(b, NEVER))
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect(("127.0.0.1", 1002))
    s.send(b"x")
    print(get(s))
    print(put(g, b"x", ("127.0.0.1", 5001)), get(e))
    pid = serve(server)
    print(connect(("127.0.0.1", 8081)))
    os.waitpid(pid, 0)
    show("iptables", "-S")
    show("iptables", "-L", "INPUT", "-v", "-n", "-x")
    show("iptables", "-L", "OUTPUT", "-v", "-n", "-x")
    show("iptables", "-t", "nat", "-S")
    flush()


main()
