"""Frames in memory that a program has mapped (PACKET_RX_RING), and tcpdump, which receives them so.

ring.py UMLD DIRECTORY, in a network namespace of its own as its root. Prints what the program saw on the host, and whether the
same program saw the same in a guest.
"""
import os
import shutil
import subprocess
import sys
import tempfile

PROGRAM = r'''
import ctypes, errno, mmap, os, select, socket, struct, subprocess
SOL_PACKET, RX_RING, STATISTICS, VERSION, HDRLEN, RESERVE = 263, 5, 6, 10, 11, 12
libc = ctypes.CDLL(None, use_errno=True)
def name(f):
    try:
        return f() or "fine"
    except OSError as e:
        return errno.errorcode[e.errno]
def header_length(s, version):
    v, n = ctypes.c_int(version), ctypes.c_uint(4)
    if libc.getsockopt(s.fileno(), SOL_PACKET, HDRLEN, ctypes.byref(v), ctypes.byref(n)):
        raise OSError(ctypes.get_errno(), "")
    return v.value
def get(s, option):
    return s.getsockopt(SOL_PACKET, option)
def want(s, *shape):
    s.setsockopt(SOL_PACKET, RX_RING, struct.pack("=4I", *shape))
def packets(kind=socket.SOCK_RAW):
    s = socket.socket(socket.AF_PACKET, kind, 0)
    return s
def begin(s):
    s.bind(("lo", 0x0800))
def frames(m, version, size, count, at=0):
    """Slots that are the program's, given back."""
    while True:
        b = m[at * size:(at + 1) * size]
        status = struct.unpack("=I", b[:4])[0]
        if not status & 1:
            return
        if version:
            status, length, kept, mac, net, sec, nsec, tci, tpid = struct.unpack("=IIIHHIIHH", b[:28])
        else:
            status, length, kept, mac, net, sec, usec = struct.unpack("=QIIHHII", b[:28])
        family, protocol, index, hatype, kind, halen = struct.unpack("=HHiHBB", b[32:44])
        data = b[mac:mac + kept]
        # Whether a stamp is the driver's, and of the checksum, hosts differ in.
        print("frame", at, "status", hex(status & ~(7 << 29 | 0x88)), length, kept, mac, net, sec > 1000000000,
              family, hex(socket.ntohs(protocol)), hatype, kind, halen, (data[:2] + data[12:14]).hex(), data[-6:], flush=True)
        m[at * size:at * size + 4] = bytes(4)
        at = (at + 1) % count
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
u, heard = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
heard.bind(("127.0.0.1", 7777))
u.connect(("127.0.0.1", 7777))
def send(text):
    u.send(text)
    # It has passed the interface once it is there.
    heard.recv(4000)
s = packets()
print("lengths", [name(lambda v=v: header_length(s, v)) for v in (0, 1, 7, -1)])
print("version", get(s, VERSION), name(lambda: s.setsockopt(SOL_PACKET, VERSION, 9)), name(lambda: s.setsockopt(SOL_PACKET, VERSION, 1)), get(s, VERSION))
print("reserve", get(s, RESERVE), name(lambda: s.setsockopt(SOL_PACKET, RESERVE, -1)), name(lambda: s.setsockopt(SOL_PACKET, RESERVE, 4)), get(s, RESERVE))
for shape in [(4096, 2, 2048, 5), (4096, 0, 2048, 4), (4095, 2, 2048, 4), (0, 2, 2048, 4), (4096, 2, 2040, 4), (4096, 2, 48, 170),
              (4096, 2, 8192, 1), (4096, 2, 0, 4), (4096, 0, 0, 0), (1 << 31, 1, 2048, 1 << 20)]:
    print("shape", shape, name(lambda: want(s, *shape)))
print("short", name(lambda: s.setsockopt(SOL_PACKET, RX_RING, bytes(8))))
def mapped(n):
    mmap.mmap(s.fileno(), n).close()
print("no ring", name(lambda: mapped(8192)))
print("ring", name(lambda: want(s, 4096, 2, 2048, 4)), name(lambda: want(s, 4096, 2, 2048, 4)),
      name(lambda: s.setsockopt(SOL_PACKET, VERSION, 0)), name(lambda: s.setsockopt(SOL_PACKET, RESERVE, 0)))
m = mmap.mmap(s.fileno(), 8192)
print("mapped", name(lambda: want(s, 0, 0, 0, 0)))
p = select.poll()
p.register(s, select.POLLIN)
print("poll", p.poll(0) == [])
begin(s)
send(b"first!")
print("poll", p.poll(5000) == [(s.fileno(), select.POLLIN)])
frames(m, 1, 2048, 4)
print("poll", p.poll(0) == [])
# More than there are slots.
for n in range(7):
    send(b"number%d" % n)
frames(m, 1, 2048, 4, 1)
print("statistics", struct.unpack("=II", s.getsockopt(SOL_PACKET, STATISTICS, 8)), struct.unpack("=II", s.getsockopt(SOL_PACKET, STATISTICS, 8)))
send(b"y" * 3000 + b"ending")
frames(m, 1, 2048, 4, 1)
m.close()
print("gone", name(lambda: want(s, 0, 0, 0, 0)))
send(b"queued")
s.settimeout(5)
print("queue", [s.recv(2000)[-6:]])
s.close()
# The other layout, and without link headers.
for version, kind in (0, socket.SOCK_RAW), (0, socket.SOCK_DGRAM), (1, socket.SOCK_DGRAM):
    s = packets(kind)
    s.setsockopt(SOL_PACKET, VERSION, version)
    want(s, 4096, 2, 128, 64)
    m = mmap.mmap(s.fileno(), 8192)
    begin(s)
    send(b"layout")
    send(b"another with more than fits")
    p = select.poll()
    p.register(s, select.POLLIN)
    p.poll(5000)
    frames(m, version, 128, 64)
    # Closed with the ring mapped, whose memory stays.
    s.close()
    m[0:4] = b"abcd"
    m.close()
'''
# Four frames: two datagrams and what they are refused with. Where a user namespace forbids it to change groups it does not run;
# what it says on a host is known.
TCPDUMP = r'''
import re, socket, subprocess
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
p = subprocess.Popen(["tcpdump", "-Z", "root", "-lnti", "lo", "-c", "4", "icmp or udp port 9"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
while "listening" not in p.stderr.readline():
    assert p.poll() is None
for n in 10, 20:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as u:
        u.sendto(bytes(n), ("127.0.0.1", 9))
print(re.sub(r"(\d+(\.\d+){3})\.\d+ >", r"\1 >", p.communicate()[0]), end="")
'''
SEEN = "".join(f"IP 127.0.0.1 > 127.0.0.1.9: UDP, length {n}\n"
               f"IP 127.0.0.1 > 127.0.0.1: ICMP 127.0.0.1 udp port 9 unreachable, length {n + 36}\n" for n in (10, 20))


def guest(text):
    with tempfile.NamedTemporaryFile("w", dir=sys.argv[2], suffix=".py") as f:
        f.write(text)
        f.flush()
        os.chmod(f.name, 0o644)
        return subprocess.run([sys.argv[1], "run", "--mem", "128M", "--net", "none", "--", "python3", f.name],
                              capture_output=True, text=True, stdin=subprocess.DEVNULL)


def compared(what, expected, text, detail=""):
    other = guest(text)
    if other.stdout != expected:
        print(expected, detail, other.stdout, other.stderr, file=sys.stderr)
    print(what + ":", "same" if other.stdout == expected else "different", flush=True)


host = subprocess.run(["python3", "-c", PROGRAM], capture_output=True, text=True, stdin=subprocess.DEVNULL)
compared("ring", host.stdout, PROGRAM, host.stderr)
if shutil.which("tcpdump"):
    compared("tcpdump", SEEN, TCPDUMP)
else:
    print("tcpdump: not on this host")
