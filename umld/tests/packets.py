"""The same scripts of packets against Linux and against a guest: what each answers must be the same.

Runs in a network namespace of its own as its root: packets.py UMLD [SCRIPT...]. Prints a line for each script, and below it the packets of
both where they differ.

A script is the far end of a wire: it sends segments byte by byte as it likes and sees every segment that comes. The near end is
a stack under test with a program that makes the calls it is told by datagrams on the same wire. Of segments are compared: flags,
sequence and acknowledgement numbers from the beginnings of both streams, length, whether the window is open, the options with
their values (time stamps of the near end aside), urgent pointers, and gaps in time of the order of a timeout.
"""
import array
import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
import time

UMLD = sys.argv[1]
NEAR, FAR = "10.9.0.1", "10.9.0.2"
FAR_MAC = bytes.fromhex("02000a090002")
CONTROL = 9999
FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
# Seconds within which an answer is an answer; what takes longer is a timer's.
SOON = 0.15

PROGRAM = r'''
import errno, fcntl, socket, struct, sys, termios, time
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind(("0.0.0.0", 9999))
# A call that would wait for ever is the script's to see.
socket.setdefaulttimeout(2)
env = dict(globals())
print("ready", flush=True)
while True:
    code, a = u.recvfrom(65536)
    try:
        try:
            r = eval(code.decode(), env)
        except SyntaxError:
            exec(code.decode(), env)
            r = None
    except OSError as e:
        r = errno.errorcode.get(e.errno, "timeout")
    u.sendto(repr(r if isinstance(r, (int, str, bytes, type(None))) else "object").encode(), a)
'''


def checksum(b):
    if len(b) % 2:
        b += b"\0"
    n = sum(array.array("H", b))
    while n >> 16:
        n = (n & 0xffff) + (n >> 16)
    return struct.pack("=H", ~n & 0xffff)


def ipv4(proto, payload):
    h = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0x4000, 64, proto, 0,
                    socket.inet_aton(FAR), socket.inet_aton(NEAR))
    return h[:10] + checksum(h) + h[12:] + payload


def with_checksum(proto, b, at):
    pseudo = socket.inet_aton(FAR) + socket.inet_aton(NEAR) + struct.pack("!BBH", 0, proto, len(b))
    return b[:at] + checksum(pseudo + b) + b[at + 2:]


class Wire:
    """The far end of a link with frames: `read` and `write` are functions, `fd` tells of frames."""

    def __init__(self, fd, read, write):
        self.fd, self.read, self.write = fd, read, write
        self.mac = None
        self.segments = []
        self.replies = []

    def pump(self, seconds):
        """Takes what comes; true when something came."""
        if not select.select([self.fd], [], [], max(seconds, 0))[0]:
            return False
        f = self.read()
        kind = f[12:14]
        if kind == b"\x08\x06":
            if f[20:22] == b"\0\1" and f[38:42] == socket.inet_aton(FAR):
                self.mac = f[6:12]
                self.write(self.mac + FAR_MAC + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x800, 6, 4, 2)
                           + FAR_MAC + socket.inet_aton(FAR) + f[22:32])
            elif f[20:22] == b"\0\2":
                self.mac = f[22:28]
        elif kind == b"\x08\0" and f[30:34] == socket.inet_aton(FAR):
            b = f[14:14 + struct.unpack("!H", f[16:18])[0]]
            b = b[(b[0] & 15) * 4:]
            if f[23] == 6:
                self.segments.append((time.monotonic(), b))
            elif f[23] == 17 and b[:2] == struct.pack("!H", CONTROL):
                self.replies.append(b[8:])
        return True

    def find(self):
        """Asks for the hardware address of the near end."""
        ask = (b"\xff" * 6 + FAR_MAC + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x800, 6, 4, 1)
               + FAR_MAC + socket.inet_aton(FAR) + bytes(6) + socket.inet_aton(NEAR))
        for _ in range(100):
            self.write(ask)
            end = time.monotonic() + 0.1
            while time.monotonic() < end:
                self.pump(end - time.monotonic())
                if self.mac:
                    return
        raise SystemExit("nobody answers")

    def packet(self, proto, payload):
        self.write(self.mac + FAR_MAC + b"\x08\0" + ipv4(proto, payload))

    def call(self, code, patience=5):
        """Has the program evaluate Python; returns what it says."""
        u = struct.pack("!HHHH", 7777, CONTROL, 8 + len(code), 0) + code.encode()
        self.packet(17, with_checksum(17, u, 6))
        end = time.monotonic() + patience
        while not self.replies:
            if time.monotonic() > end:
                return "no reply"
            self.pump(end - time.monotonic())
        return self.replies.pop(0).decode()


class Peer:
    """A connection's far end. Sequence numbers are given and told from the beginnings of both streams."""

    def __init__(self, wire, name, near_port, far_port, options):
        self.wire, self.ports = wire, (far_port, near_port)
        self.own, self.other = 0x10000000, None
        self.told = [name]
        self.seen = time.monotonic()
        # Time stamps of this end are the script's.
        self.ts = 1000 if "ts" in options else None
        self.near_ts = 0
        self.options = options
        self.win = 65535

    def say(self, what):
        self.told.append(what)

    def syn_options(self):
        o = b""
        if "mss" in self.options:
            o += struct.pack("!BBH", 2, 4, 1460)
        if "sack" in self.options:
            o += b"\x04\x02\x01\x01"
        if "ts" in self.options:
            o += b"\x01\x01" + struct.pack("!BBII", 8, 10, self.ts, self.near_ts)
        if "ws" in self.options:
            o += b"\x01\x03\x03\x07"
        return o

    def send(self, flags, seq=0, ack=None, data=b"", sack=(), win=None, ts=None, options=None, urg=0):
        o = b""
        if options is not None:
            o = options
        else:
            if self.ts is not None:
                o += b"\x01\x01" + struct.pack("!BBII", 8, 10, self.ts if ts is None else ts, self.near_ts)
            if sack:
                o += b"\x01\x01" + struct.pack("!BB", 5, 2 + 8 * len(sack))
                for a, b in sack:
                    o += struct.pack("!II", *(self.other + x & 0xffffffff for x in (a, b)))
        a = 0 if ack is None else (self.other or 0) + ack & 0xffffffff
        h = struct.pack("!HHIIBBHHH", *self.ports, self.own + seq & 0xffffffff, a, (20 + len(o)) // 4 << 4, flags,
                        self.win if win is None else win, 0, urg)
        self.wire.packet(6, with_checksum(6, h + o + data, 16))

    def describe(self, b):
        src, dst, seq, ack, off, flags, win, _, urg = struct.unpack("!HHIIBBHHH", b[:20])
        off = (off >> 4) * 4
        if flags & SYN:
            self.other = seq
        rel = lambda n: (n - (self.other or 0) + 0x80000000 & 0xffffffff) - 0x80000000
        own = lambda n: (n - self.own + 0x80000000 & 0xffffffff) - 0x80000000
        names = "".join(c for bit, c in ((SYN, "S"), (FIN, "F"), (RST, "R"), (PSH, "P"), (URG, "U"), (ACK, ".")) if flags & bit)
        # What pushes is a matter of taste where a write was cut into segments.
        names = names.replace("P", "")
        n = len(b) - off
        out = [names, f"{rel(seq)}:{rel(seq) + n}" if self.other is not None else "?"]
        if flags & ACK:
            out.append(f"ack {own(ack)}")
        if not flags & RST:
            out.append("open" if win else "closed")
        if flags & URG:
            out.append(f"urg {urg}")
        o, at, opts = b[20:off], 0, []
        while at < len(o):
            k = o[at]
            if k == 0:
                break
            if k == 1:
                opts.append("nop")
                at += 1
                continue
            ln = o[at + 1]
            v = o[at + 2:at + ln]
            if k == 2:
                opts.append(f"mss {struct.unpack('!H', v)[0]}")
            elif k == 3:
                opts.append("ws")
            elif k == 4:
                opts.append("sackOK")
            elif k == 5:
                w = struct.unpack(f"!{len(v) // 4}I", v)
                opts.append("sack " + " ".join(f"{own(a)}-{own(e)}" for a, e in zip(w[::2], w[1::2])))
            elif k == 8:
                self.near_ts, ecr = struct.unpack("!II", v)
                opts.append(f"ts ecr {ecr}")
            else:
                opts.append(f"kind {k}")
            at += ln
        return " ".join(out) + (f" <{', '.join(opts)}>" if opts else "")

    def next(self, patience):
        """The next segment of this connection, or none."""
        end = time.monotonic() + patience
        while True:
            for n, (at, b) in enumerate(self.wire.segments):
                if struct.unpack("!HH", b[:4]) == self.ports[::-1]:
                    del self.wire.segments[n]
                    return at, b
            left = end - time.monotonic()
            if left <= 0:
                return None
            self.wire.pump(left)

    def hear(self, patience=SOON, most=100):
        """Tells of segments until there is none for so long."""
        for _ in range(most):
            got = self.next(patience)
            if got is None:
                self.say("-")
                return
            at, b = got
            gap, self.seen = at - self.seen, at
            self.say((f"+{gap:.2f} " if gap > SOON else "") + self.describe(b))

    def idle(self, seconds):
        """Hears nothing for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.wire.pump(left)
        while self.next(0):
            pass

    def call(self, code):
        self.say(f"{code} -> {self.wire.call(code)}")
        self.seen = time.monotonic()

    def quiet(self, code):
        self.wire.call(code)
        self.seen = time.monotonic()

    def answered(self, *a, **k):
        self.seen = time.monotonic()
        self.send(*a, **k)
        self.hear()


SCRIPTS = []


def script(options="mss sack ts ws"):
    """A script whose SYN has these options."""
    def enter(f):
        SCRIPTS.append((f, options.split()))
        return f
    return enter


def listen(p):
    p.quiet(f"l = socket.socket(); l.setsockopt(1, 2, 1); l.bind(('', {p.ports[1]})); l.listen(8)")


def establish(p):
    """A connection that this end opens: both streams go on at 1."""
    listen(p)
    p.send(SYN, options=p.syn_options())
    p.hear()
    p.send(ACK, 1, 1)
    p.quiet("s = l.accept()[0]; l.close()")


@script()
def handshake_passive(p):
    listen(p)
    p.answered(SYN, options=p.syn_options())
    p.hear(1.5, 1)
    p.answered(SYN, options=p.syn_options())
    p.answered(ACK, 1, 1)
    p.call("s = l.accept()[0]")


@script("mss")
def handshake_plain(p):
    listen(p)
    p.answered(SYN, options=p.syn_options())
    p.answered(ACK, 1, 1)
    p.call("s = l.accept()[0]")
    p.answered(ACK | PSH, 1, 1, b"x" * 100)
    p.call("len(s.recv(1000))")


@script("")
def handshake_without_options(p):
    listen(p)
    p.answered(SYN, options=b"")
    p.answered(ACK, 1, 1)
    p.quiet("s = l.accept()[0]")
    p.quiet("s.send(b'x' * 2000)")
    p.hear()


def connect(p):
    p.call("s = socket.socket(); s.bind(('', %d)); s.setblocking(0); s.connect_ex(('10.9.0.2', %d)) == errno.EINPROGRESS"
           % p.ports[::-1])


@script()
def handshake_active(p):
    connect(p)
    p.hear(SOON, 1)
    p.hear(1.5, 1)
    p.answered(SYN | ACK, 0, 1, options=p.syn_options())
    p.call("s.send(b'x')")
    p.hear(SOON, 1)


@script()
def refused(p):
    connect(p)
    p.hear(SOON, 1)
    p.answered(RST | ACK, 0, 1, options=b"")
    p.call("s.getsockopt(1, 4)")


@script()
def wrong_acknowledgement_of_a_syn(p):
    connect(p)
    p.hear(SOON, 1)
    p.answered(SYN | ACK, 0, 77, options=p.syn_options())
    p.answered(RST | ACK, 0, 77, options=b"")
    p.answered(SYN | ACK, 0, 1, options=p.syn_options())
    p.call("s.send(b'x')")
    p.hear(SOON, 1)


@script()
def simultaneous_open(p):
    connect(p)
    p.hear(SOON, 1)
    p.answered(SYN, 0, options=p.syn_options())
    p.answered(SYN | ACK, 0, 1, options=p.syn_options())
    p.call("s.send(b'x')")
    p.hear(SOON, 1)


@script()
def closed_port(p):
    p.answered(SYN, options=p.syn_options())
    p.other = 0
    p.answered(ACK, 1, 5, options=b"")
    p.answered(FIN, 1, options=b"")
    p.answered(RST, 1, options=b"")
    p.answered(PSH | ACK, 1, 9, b"data", options=b"")


@script()
def request_reset(p):
    listen(p)
    p.answered(SYN, options=p.syn_options())
    p.answered(RST, 1, options=b"")
    p.answered(ACK, 1, 1)
    p.call("l.setblocking(0)")
    p.call("l.accept()")


@script()
def request_acknowledged_wrongly(p):
    listen(p)
    p.answered(SYN, options=p.syn_options())
    p.answered(ACK, 1, 2)
    p.answered(ACK, 1, 1)
    p.call("s = l.accept()[0]")


@script()
def data_and_delayed_acknowledgements(p):
    establish(p)
    p.answered(ACK | PSH, 1, 1, b"x" * 1448)
    p.answered(ACK | PSH, 1449, 1, b"x" * 1448)
    p.call("len(s.recv(10000))")
    p.call("s.send(b'y' * 100)")
    p.hear(SOON, 1)
    p.send(ACK, 2897, 101)
    p.call("s.send(b'y' * 100)")
    p.hear(SOON, 1)
    # A reply of the program has been seen: single segments wait for another one.
    p.answered(ACK | PSH, 2897, 201, b"z" * 10)


@script()
def nagle(p):
    establish(p)
    p.quiet("s.send(b'a' * 10); s.send(b'b' * 10)")
    p.hear(SOON, 1)
    p.answered(ACK, 1, 11)
    p.answered(ACK, 1, 21)
    p.quiet("s.setsockopt(6, 1, 1); s.send(b'a' * 10); s.send(b'b' * 10)")
    p.hear(SOON, 2)


@script()
def cork(p):
    establish(p)
    p.quiet("s.setsockopt(6, 3, 1); s.send(b'a' * 10)")
    p.hear(0.8, 1)
    p.answered(ACK, 1, 11)
    p.quiet("s.send(b'a' * 10); s.setsockopt(6, 3, 0)")
    p.hear(SOON, 1)


@script()
def initial_window_and_growth(p):
    establish(p)
    p.quiet("s.send(b'x' * 1448 * 12)")
    p.hear(SOON, 10)
    p.quiet("s.send(b'x' * 1448 * 6)")
    p.send(ACK, 1, 1 + 1448 * 2)
    p.hear(SOON, 4)
    p.quiet("s.send(b'x' * 1448 * 8)")
    p.send(ACK, 1, 1 + 1448 * 6)
    p.hear(SOON, 8)


@script()
def lost_tail_is_probed_then_sent_again(p):
    establish(p)
    p.quiet("s.send(b'x' * 3000)")
    p.hear(SOON, 3)
    p.hear(1, 1)
    p.hear(1, 1)
    p.hear(2, 1)


@script("mss")
def retransmission_without_options(p):
    establish(p)
    p.quiet("s.send(b'x' * 1460 * 3)")
    p.hear(SOON, 3)
    p.hear(1, 1)
    p.hear(1, 1)
    p.answered(ACK, 1, 1461)
    p.answered(ACK, 1, 4381)


@script()
def sack_and_fast_retransmission(p):
    establish(p)
    p.quiet("s.send(b'x' * 1448 * 10)")
    p.hear(SOON, 10)
    for n in 2, 3, 4:
        p.send(ACK, 1, 1, sack=[(1449, 1449 + 1448 * (n - 1))])
    p.hear(SOON, 1)
    p.answered(ACK, 1, 1 + 1448 * 10)


@script()
def two_holes(p):
    establish(p)
    p.quiet("s.send(b'x' * 1448 * 10)")
    p.hear(SOON, 10)
    m = lambda n: 1 + 1448 * n
    p.send(ACK, 1, 1, sack=[(m(1), m(2))])
    p.send(ACK, 1, 1, sack=[(m(3), m(4)), (m(1), m(2))])
    p.send(ACK, 1, 1, sack=[(m(3), m(6)), (m(1), m(2))])
    p.hear(SOON, 2)
    p.answered(ACK, 1, m(10))


@script("mss ts ws")
def three_duplicates_without_sack(p):
    establish(p)
    p.quiet("s.send(b'x' * 1448 * 8)")
    p.hear(SOON, 8)
    p.send(ACK, 1, 1)
    p.send(ACK, 1, 1)
    p.hear(0.05, 3)
    p.send(ACK, 1, 1)
    p.hear(SOON, 1)
    # A partial acknowledgement: the next one is lost, too.
    p.send(ACK, 1, 1449)
    p.hear(SOON, 1)
    p.answered(ACK, 1, 1 + 1448 * 8)


@script()
def out_of_order_data_is_reported(p):
    establish(p)
    p.answered(ACK, 1001, 1, b"c" * 500)
    p.answered(ACK, 2001, 1, b"d" * 500)
    p.answered(ACK, 1501, 1, b"e" * 500)
    p.answered(ACK, 2001, 1, b"d" * 500)
    p.answered(ACK, 1, 1, b"a" * 1000)
    p.answered(ACK, 1, 1, b"a" * 1000)
    p.answered(ACK, 501, 1, b"a" * 2500)
    p.call("len(s.recv(10000))")


@script()
def paws(p):
    establish(p)
    p.ts = 2000
    p.answered(ACK | PSH, 1, 1, b"x" * 10)
    p.answered(ACK | PSH, 11, 1, b"y" * 10, ts=1500)
    p.answered(ACK, 11, 1, ts=1500)
    p.answered(ACK | PSH, 11, 1, b"z" * 10, ts=2001)
    p.answered(RST, 21, ts=1)
    p.call("s.recv(100)")


@script()
def time_stamps_go_with_what_is_acknowledged(p):
    establish(p)
    p.ts = 3000
    p.answered(ACK, 101, 1, b"later")
    p.ts = 3001
    p.answered(ACK, 1, 1, b"x" * 100)
    p.ts = 3002
    p.answered(ACK, 106, 1, b"y")


@script()
def resets(p):
    establish(p)
    p.answered(RST, 3000, options=b"")
    p.answered(RST, 0xffff0000, options=b"")
    p.call("s.send(b'x')")
    p.hear(SOON, 1)
    p.send(ACK, 1, 2)
    p.answered(RST, 1, options=b"")
    p.call("s.send(b'x')")


@script()
def challenges(p):
    establish(p)
    # The second is too soon.
    for pause in 0, 0.6:
        p.answered(SYN, 500, options=p.syn_options())
        p.idle(pause)
    p.answered(SYN | ACK, 0, 1, options=p.syn_options())
    p.idle(0.6)
    p.answered(ACK, 1, 5000)
    p.idle(0.6)
    p.answered(ACK | PSH, 1, 5000, b"data")
    p.answered(PSH, 1, None, b"data")
    p.call("s.setblocking(0)")
    p.call("s.recv(10)")


@script()
def beyond_the_window(p):
    establish(p)
    p.answered(ACK | PSH, 10_000_000, 1, b"data")
    p.answered(ACK, 0, 1)
    p.answered(ACK, 0, 1, b"k")


@script()
def closed_by_both_near_first(p):
    establish(p)
    p.quiet("s.close()")
    p.hear(SOON, 1)
    p.answered(ACK, 1, 2)
    p.answered(FIN | ACK, 1, 2)
    # TIME_WAIT: the acknowledgement was lost, and old data.
    p.answered(FIN | ACK, 1, 2)
    p.answered(ACK, 1, 2, b"x")
    p.answered(SYN, 5000, options=p.syn_options())


@script()
def closed_by_both_far_first(p):
    establish(p)
    p.answered(FIN | ACK, 1, 1)
    p.call("s.recv(10)")
    p.call("s.send(b'rest')")
    p.hear(SOON, 1)
    p.send(ACK, 2, 5)
    p.quiet("s.close()")
    p.hear(SOON, 1)
    p.answered(ACK, 2, 6)
    p.answered(ACK, 2, 6)


@script()
def closing_at_once(p):
    establish(p)
    p.quiet("s.close()")
    p.hear(SOON, 1)
    p.answered(FIN | ACK, 1, 1)
    p.answered(ACK, 2, 2)
    p.answered(FIN | ACK, 1, 2)


@script()
def fin_again(p):
    establish(p)
    p.quiet("s.close()")
    p.hear(SOON, 1)
    p.hear(1, 1)
    p.answered(ACK, 1, 2)


@script()
def fin_out_of_order(p):
    establish(p)
    p.answered(FIN | ACK, 11, 1, b"k" * 5)
    p.answered(FIN | ACK, 16, 1)
    p.answered(ACK, 1, 1, b"a" * 10)
    p.call("s.recv(100)")
    p.call("s.recv(100)")


@script()
def data_for_who_is_gone(p):
    establish(p)
    p.quiet("s.close()")
    p.hear(SOON, 1)
    p.answered(ACK | PSH, 1, 2, b"data")
    p.answered(ACK | PSH, 5, 2, b"data")


@script()
def closed_with_unread_data(p):
    establish(p)
    p.answered(ACK | PSH, 1, 1, b"data")
    p.quiet("s.close()")
    p.hear()
    p.answered(ACK, 5, 1)


@script()
def reset_by_linger(p):
    establish(p)
    p.quiet("s.setsockopt(1, 13, struct.pack('ii', 1, 0)); s.close()")
    p.hear()


@script()
def half_closed(p):
    establish(p)
    p.quiet("s.shutdown(1)")
    p.hear(SOON, 1)
    p.answered(ACK, 1, 2)
    p.answered(ACK | PSH, 1, 2, b"data")
    p.call("s.recv(10)")
    p.answered(FIN | ACK, 5, 2)


@script()
def closed_window_is_probed(p):
    establish(p)
    p.answered(ACK, 1, 1, win=0)
    p.quiet("s.send(b'x' * 100)")
    p.hear(1, 1)
    p.send(ACK, 1, 1, win=0)
    p.hear(1, 1)
    p.answered(ACK, 1, 1)
    p.answered(ACK, 1, 101)


@script()
def silly_window(p):
    establish(p)
    p.quiet("s.send(b'x' * 1448 * 2)")
    p.hear(SOON, 2)
    p.answered(ACK, 1, 1 + 2896, win=1)
    p.quiet("s.send(b'x' * 1448)")
    p.hear(1, 1)


@script()
def full_buffer_closes_the_window(p):
    establish(p)
    at, room = 1, 65000
    # Twice what the buffer holds, and never beyond what is offered.
    while room >= 1448 and at < 300_000:
        p.send(ACK | PSH, at, 1, b"x" * 1448)
        at += 1448
        room -= 1448
        while got := p.next(0.01 if room >= 1448 else SOON):
            ack, win = struct.unpack("!IxxH", got[1][8:16])
            room = (ack - p.own & 0xffffffff) + (win << 7) - at
    p.say(f"full: {room < 1448}")
    p.quiet("len(s.recv(1000000))")
    p.say(f"opens: {any(struct.unpack('!H', g[1][14:16])[0] for g in iter(lambda: p.next(0.5), None))}")


@script()
def keepalive(p):
    establish(p)
    p.quiet("[s.setsockopt(*o) for o in ((1, 9, 1), (6, 4, 1), (6, 5, 1), (6, 6, 2))]")
    p.hear(1.5, 1)
    p.answered(ACK, 1, 1)
    p.hear(1.5, 1)
    p.hear(1.5, 1)
    p.hear(1.5, 1)
    p.call("s.getsockopt(1, 4)")


@script()
def user_timeout(p):
    establish(p)
    p.quiet("s.setsockopt(6, 18, 600); s.send(b'x')")
    p.hear(SOON, 1)
    p.hear(1, 1)
    p.idle(1.5)
    p.call("s.getsockopt(1, 4)")


@script()
def urgent_data(p):
    establish(p)
    p.quiet("s.send(b'abc', 1)")
    p.hear(SOON, 1)
    p.answered(ACK, 1, 4)
    p.answered(ACK | URG, 1, 4, b"xyz", urg=3)
    p.call("s.recv(1, 1)")
    p.call("s.recv(10)")


@script()
def connection_again_in_time_wait(p):
    establish(p)
    p.quiet("s.close()")
    p.hear(SOON, 1)
    p.answered(FIN | ACK, 1, 2)
    listen(p)
    p.ts = 5000
    p.answered(SYN, 100_000, options=p.syn_options())


@script()
def data_with_the_last_acknowledgement_of_a_handshake(p):
    listen(p)
    p.answered(SYN, options=p.syn_options())
    p.answered(ACK | PSH, 1, 1, b"first")
    p.call("s = l.accept()[0]")
    p.call("s.recv(10)")


@script()
def syn_with_data(p):
    listen(p)
    p.answered(SYN, 0, None, b"early", options=p.syn_options())
    p.answered(ACK, 1, 1)
    p.call("s = l.accept()[0]")
    p.answered(ACK | PSH, 1, 1, b"early")


def run(wire, only):
    out = {}
    for n, (f, options) in enumerate(SCRIPTS):
        if only and f.__name__ not in only:
            continue
        p = Peer(wire, f.__name__, 2000 + n, 3000 + n, options)
        try:
            f(p)
        except Exception as e:
            p.say(f"the script failed: {e!r}")
        wire.call("[x.close() for x in (globals().get('s'), globals().get('l')) if x]")
        wire.call("s = l = None")
        # What is left of it is reset.
        p.send(RST, 1, options=b"")
        while p.next(0.02):
            pass
        out[f.__name__] = p.told[1:]
    return out


def linux(only):
    name = "pk0"
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, 0x400454ca, struct.pack("16sH22x", name.encode(), 0x1002))
    for words in f"addr add {NEAR}/24 dev {name}", f"link set {name} up", "link set lo up":
        subprocess.run(["ip"] + words.split(), check=True)
    program = subprocess.Popen(["python3", "-c", PROGRAM], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    program.stdout.readline()
    w = Wire(fd, lambda: os.read(fd, 70000), lambda f: os.write(fd, f))
    w.find()
    out = run(w, only)
    program.kill()
    program.wait()
    os.close(fd)
    return out


def guest(only):
    far, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = subprocess.Popen(
        [UMLD, "run", "--mem", "128M", "--net", "none",
         "--append", f"vec0:transport=fd,fd={near.fileno()}",
         "--append", f"ip={NEAR}:::255.255.255.0::vec0:off",
         "--", "python3", "-c", PROGRAM],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, pass_fds=(near.fileno(),))
    near.close()
    first = program.stdout.readline().strip()
    if first != "ready":
        raise SystemExit(first + program.communicate()[0])
    w = Wire(far.fileno(), lambda: far.recv(70000), far.send)
    w.find()
    out = run(w, only)
    program.kill()
    program.wait()
    far.close()
    return out


def alike(a, b):
    """The same lines; moments of timers may differ by a third and a tenth of a second."""
    if a == b:
        return True
    if not (a.startswith("+") and b.startswith("+")):
        return False
    (s, x), (t, y) = a.split(" ", 1), b.split(" ", 1)
    return x == y and abs(float(s) - float(t)) <= 0.1 + max(float(s), float(t)) / 3


if __name__ == "__main__":
    only = sys.argv[2:]
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        print("no /dev/net/tun here")
        raise SystemExit
    reference, ours = linux(only), guest(only)
    for name, lines in reference.items():
        other = ours[name]
        same = len(lines) == len(other) and all(map(alike, lines, other))
        print(f"{name}: {'same' if same else 'different'}", flush=True)
        if not same:
            for n in range(max(len(lines), len(other))):
                a, b = (l[n] if n < len(l) else "" for l in (lines, other))
                print(f"  {'  ' if alike(a, b) else '! '}{a:70} | {b}")
