"""Machines that do what they are asked, line by line, ours and stock ones, and a wire between two of them."""
import contextlib
import os
import signal
import subprocess
import sys
import threading

# How long anything may take.
PATIENCE = 60

# The first arguments are interfaces with their addresses, DEVICE=ADDRESS. Then it does what each line of its input says, and
# answers with one line that begins with `=`: a console has other lines, too.
GUEST = r'''
import os, re, select, socket, struct, subprocess, sys, termios, threading
os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
data = bytes(range(251)) * (4 << 12)
def say(*words):
    print("=" + " ".join(words), flush=True)
def ip(*words):
    subprocess.run(["ip", *words], check=True)
def whole(s):
    parts = []
    while True:
        b = s.recv(1 << 20)
        if not b:
            return b"".join(parts)
        parts.append(b)
def serve(l):
    while True:
        c, a = l.accept()
        threading.Thread(target=echo, args=(c,), daemon=True).start()
def echo(c):
    try:
        c.sendall(whole(c))
        c.close()
    except OSError:
        pass
def heard(u):
    while True:
        b, a = u.recvfrom(100)
        u.sendto(b, a)
def send(peer):
    s = socket.create_connection((peer, 80), timeout=40)
    s.sendall(data)
    s.shutdown(socket.SHUT_WR)
    return "same" if whole(s) == data else "different"
def checksum(b):
    n = sum(struct.unpack(f"!{len(b) // 2}H", b))
    while n >> 16:
        n = (n & 0xffff) + (n >> 16)
    return ~n & 0xffff
def ping(peer, size="0"):
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    s.settimeout(1)
    payload = bytes(range(250)) * (int(size) // 250 + 1)
    payload = payload[:int(size)]
    head = struct.pack("!BBHHH", 8, 0, 0, 7, 1)
    request = struct.pack("!BBHHH", 8, 0, checksum(head + payload), 7, 1) + payload
    for attempt in range(3):
        try:
            s.sendto(request, (peer, 0))
            while True:
                b, (a, _) = s.recvfrom(70000)
                if a == peer and b[20] == 0 and b[24:] == request[4:]:
                    return "an answer"
        except OSError:
            pass
    return "no answer"
def shout(broadcast, many):
    """Asks everybody; who answers."""
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    s.settimeout(1)
    who = set()
    for attempt in range(5):
        s.sendto(b"who", (broadcast, 7))
        try:
            while len(who) < int(many):
                who.add(s.recvfrom(100)[1][0])
        except OSError:
            pass
    return " ".join(sorted(who))
def neighbour(address):
    for l in open("/proc/net/arp"):
        if l.split()[0] == address:
            return l.split()[3]
    return "none"
def again(device):
    for state in "down", "up":
        ip("link", "set", device, state)
    return "up"
def log(about):
    lines = subprocess.run(["dmesg"], capture_output=True, text=True).stdout.split("\n")
    lines = [l.split("] ")[-1] for l in lines if about in l and "ommand line" not in l]
    return lines[-1] if lines else "nothing"
if os.getpid() == 1:
    ip("link", "set", "lo", "up")
if os.isatty(0):
    t = termios.tcgetattr(0)
    t[3] &= ~termios.ECHO
    termios.tcsetattr(0, termios.TCSANOW, t)
for word in sys.argv[1:]:
    device, address = word.split("=")
    ip("addr", "add", address + "/24", "broadcast", "+", "dev", device)
    if subprocess.run(["ip", "link", "set", device, "up"], capture_output=True).returncode:
        print(device, "does not come up")
threading.Thread(target=serve, args=(socket.create_server(("0.0.0.0", 80)),), daemon=True).start()
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(("0.0.0.0", 7))
threading.Thread(target=heard, args=(u,), daemon=True).start()
verbs = {f.__name__: f for f in (send, ping, shout, neighbour, again, log)}
say("ready")
for line in sys.stdin:
    word, *rest = line.split()
    try:
        say(verbs[word](*rest))
    except OSError as e:
        say(str(e))
'''

started = []


def end_all():
    for p in started:
        p.kill()
        # The processes of a stock kernel outlive the first one; it is a group of its own.
        if p.stock:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(p.pid, signal.SIGKILL)
        p.wait()


def start(command, stock=False, **more):
    p = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                         start_new_session=stock, **more)
    p.stock = stock
    started.append(p)
    return p


class Machine:
    """A process whose guest runs GUEST."""

    def __init__(self, process):
        self.process = process
        self.said = []

    def wait(self):
        """Until it is up."""
        said = self.line()
        assert said == "ready", said
        return self

    def line(self):
        late = threading.Timer(PATIENCE, self.process.kill)
        late.start()
        try:
            for line in self.process.stdout:
                if line.startswith("="):
                    return line.strip()[1:]
                self.said.append(line)
            print("".join(self.said[-20:]), file=sys.stderr)
            self.said.clear()
            return "ended"
        finally:
            late.cancel()

    def tell(self, words):
        # Of one that has ended the next line tells.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(words + "\n")
            self.process.stdin.flush()

    def ask(self, words):
        self.tell(words)
        return self.line()

    def until(self, words, answer):
        """Asks until the answer is this one, or for too long."""
        late = threading.Event()
        timer = threading.Timer(PATIENCE, late.set)
        timer.start()
        while (said := self.ask(words)) != answer and said != "ended" and not late.is_set():
            pass
        timer.cancel()
        return said


def say(what, *said):
    print(what + ":", ", ".join(said), flush=True)


def bridge(listener):
    """Two clients of one socket hear each other."""
    ends = [listener.accept()[0] for _ in range(2)]

    def copy(x, y):
        while b := x.recv(70000):
            y.send(b)

    for x, y in (ends, ends[::-1]):
        threading.Thread(target=copy, args=(x, y), daemon=True).start()
