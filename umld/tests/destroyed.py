"""What programs find whose sockets somebody else ends (SOCK_DESTROY, `ss -K`), in a network namespace of its own."""
import errno, select, socket, subprocess, threading

subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
# How long what must happen may take.
PATIENCE = 10


def ends(*args):
    """Ends sockets; how many ss(8) has ended."""
    return len(subprocess.run(["ss", "-HnK", *args], capture_output=True, text=True).stdout.splitlines())


def refused(*args):
    """Whether that is refused without the privilege."""
    without = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--securebits=+noroot"]
    out = subprocess.run([*without, "ss", "-HnK", *args], capture_output=True, text=True)
    return "SOCK_DESTROY answers: Operation not permitted" in out.stderr


def name(f):
    try:
        return f()
    except TimeoutError:
        return "too slow"
    except OSError as e:
        return errno.errorcode[e.errno]


def events(s):
    p = select.poll()
    p.register(s, select.POLLIN | select.POLLOUT | select.POLLRDHUP | select.POLLPRI)
    return [hex(e) for _, e in p.poll(0)]


def asleep(f):
    """Runs `f` in a thread that sleeps in it; what gives its outcome."""
    said = []
    t = threading.Thread(target=lambda: said.append(name(f)), daemon=True)
    t.start()
    # In accept4(2) or recvfrom(2), not running.
    while open(f"/proc/self/task/{t.native_id}/syscall").read().split()[0] not in ("288", "45"):
        pass

    def outcome():
        t.join(PATIENCE)
        return said or ["still asleep"]

    return outcome


for family, host in (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"):
    print("family", family.name)
    l = socket.create_server((host, 5555), family=family)
    accepted = socket.create_connection((host, 5555))
    a, _ = l.accept()
    waiting = socket.create_connection((host, 5555))
    late, _ = l.accept()
    w = asleep(l.accept)
    print("refused", refused("-tl", "sport = :5555"))
    print("listener", ends("-tl", "sport = :5555"), w(), events(l), name(lambda: l.accept()))
    print("error", l.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), l.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), events(l))
    print("name", name(lambda: l.getsockname()[1]), name(l.getpeername))
    print("nobody", name(lambda: socket.create_connection((host, 5555))))
    # What it had accepted lives on.
    accepted.sendall(b"still")
    print("connection", a.recv(9))
    w = asleep(lambda: accepted.recv(9))
    print("connection", ends("-t", "dport = :5555 and sport = :%d" % accepted.getsockname()[1]), w(), events(accepted))
    print("after", name(lambda: accepted.recv(9)), name(lambda: accepted.send(b"x")), name(accepted.getpeername))
    print("other end", name(lambda: a.recv(9)), events(a), name(lambda: a.recv(9)))
    print("again", name(lambda: l.listen(5)), name(lambda: socket.create_connection((host, 5555)) and "connected"))
    for s in l, a, accepted, waiting, late:
        s.close()
    # A backlog that nobody takes.
    l = socket.create_server((host, 5556), family=family)
    c = socket.create_connection((host, 5556))
    w = asleep(lambda: c.recv(9))
    print("backlog", ends("-tl", "sport = :5556"), w(), events(c))
    l.close()
    l = socket.create_server((host, 5556), family=family)
    print("bound again", l.getsockname()[1])
    l.close()
    u = socket.socket(family, socket.SOCK_DGRAM)
    u.bind((host, 5557))
    v = socket.socket(family, socket.SOCK_DGRAM)
    v.connect((host, 5557))
    w = asleep(lambda: v.recv(9))
    print("datagrams", ends("-u", "dport = :5557"), w(), events(v), name(v.getpeername), name(lambda: v.send(b"x")))
    print("unconnected", ends("-ua", "sport = :5557"), name(u.getsockname), events(u))
