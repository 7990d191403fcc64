"""Members of one uml_switch: two guests, a program that speaks the switch's protocol, and a stock kernel if there is one.

switch.py UMLD SWITCH DIRECTORY [STOCK KERNEL]. Prints one line for each pair.
"""
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading

UMLD, SWITCH, DIRECTORY = sys.argv[1:4]
STOCK = sys.argv[4] if len(sys.argv) > 4 else None
CONTROL = os.path.join(DIRECTORY, "switch.ctl")
PATIENCE = 100

# Serves the bulk data back, or asks every address for it: `t` over TCP, `u` in UDP datagrams one after the other.
GUEST = r'''
import os, socket, subprocess, sys
data = bytes(range(251)) * (4 << 12)
def whole(s):
    parts = []
    while True:
        b = s.recv(1 << 20)
        if not b:
            return b"".join(parts)
        parts.append(b)
if sys.argv[1] == "serve":
    for c in sys.argv[2:]:
        subprocess.run(c.split(), check=True)
    l = socket.create_server(("0.0.0.0", 80))
    print("ready", flush=True)
    while True:
        c, a = l.accept()
        c.sendall(whole(c))
        c.close()
for peer in sys.argv[2:]:
    how, address = peer[0], peer[1:]
    if how == "t":
        s = socket.create_connection((address, 80), timeout=80)
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        same = whole(s) == data
    else:
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.settimeout(5)
        s.connect((address, 7))
        same = True
        for n in range(500):
            sent = data[n:n + 1400]
            for attempt in range(10):
                s.send(sent)
                try:
                    same = same and s.recv(2000) == sent
                    break
                except TimeoutError:
                    pass
            else:
                same = False
    print(address + ":", "same" if same else "different", flush=True)
'''


def guest(n, *args):
    return subprocess.Popen(
        [UMLD, "run", "--mem", "128M", "--net", f"switch,socket={CONTROL},mac=02:00:00:00:00:0{n}",
         "--append", f"ip=10.9.0.{n}:::255.255.255.0::eth0:off", "--", "python3", "-c", GUEST, *args],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def stock(n):
    init = os.path.join(DIRECTORY, "stock-init")
    with open(init, "w") as f:
        f.write("#!/usr/bin/python3\nimport sys\n"
                f"sys.argv[1:] = ['serve', '/bin/ip link set eth0 up', '/bin/ip addr add 10.9.0.{n}/24 dev eth0']\n" + GUEST)
    os.chmod(init, 0o755)
    return subprocess.Popen(
        [STOCK, "mem=128M", f"eth0=daemon,02:00:00:00:00:0{n},unix,{CONTROL}", "root=98:0", "rootfstype=hostfs",
         "rootflags=/", "init=" + init, "con=null", "con0=null,fd:1"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        # Its processes outlive the first one that is killed; they are ended as a group.
        start_new_session=True)


def until(p, word):
    """Whether the line comes; a guest that ends before says why."""
    said = []
    timer = threading.Timer(PATIENCE, p.kill)
    timer.start()
    try:
        for line in p.stdout:
            said.append(line)
            if line.strip() == word:
                return True
    finally:
        timer.cancel()
    print("".join(said[-20:]), file=sys.stderr)
    return False


def checksum(b):
    s = sum(struct.unpack(f"!{len(b) // 2}H", b))
    while s >> 16:
        s = (s & 0xffff) + (s >> 16)
    return ~s & 0xffff


def script(version, n):
    """Joins by a version of the protocol; answers ARP and UDP, port 7, as a host of its own."""
    name = b"\0" + f"switch-test-{os.getpid()}-{version}".encode().ljust(107, b"\0")
    data = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    data.bind(name)
    control = socket.socket(socket.AF_UNIX)
    control.connect(CONTROL)
    address = struct.pack("=H", socket.AF_UNIX) + name
    if version == 1:
        control.sendall(struct.pack("=II", 0xfeedface, 0) + bytes(6) + address)
    else:
        control.sendall(struct.pack("=III", 0xfeedface, version, 0) + address + bytes(2))
    reply = control.recv(110)
    assert len(reply) == 110, reply
    mac, ip = bytes([2, 0, 0, 0, 0, n]), bytes([10, 9, 0, n])

    def serve():
        while True:
            f = data.recv(2000)
            to, kind = f[6:12], f[12:14]
            if kind == b"\x08\x06" and f[20:22] == b"\0\1" and f[38:42] == ip:
                out = to + mac + kind + f[14:20] + b"\0\2" + mac + ip + f[22:32]
            elif kind == b"\x08\0" and f[23] == 17 and f[30:34] == ip and f[36:38] == b"\0\7":
                head = bytearray(f[14:34])
                head[10:12], head[12:16], head[16:20] = b"\0\0", f[30:34], f[26:30]
                head[10:12] = struct.pack("!H", checksum(bytes(head)))
                # No checksum: of UDP over IPv4 it may be left out.
                length = struct.unpack("!H", f[38:40])[0]
                out = to + mac + kind + bytes(head) + f[36:38] + f[34:36] + f[38:40] + b"\0\0" + f[42:34 + length]
            else:
                continue
            data.sendto(out, reply[2:])

    threading.Thread(target=serve, daemon=True).start()
    return control


switch = subprocess.Popen([SWITCH, "-unix", CONTROL], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
others = [switch]
try:
    assert switch.stdout.readline()
    threading.Thread(target=lambda: [None for _ in switch.stdout], daemon=True).start()
    ends = [script(1, 8), script(3, 9)]
    server = guest(1, "serve")
    others.append(server)
    assert until(server, "ready"), "the first guest does not come up"
    peers = ["t10.9.0.1", "u10.9.0.8", "u10.9.0.9"]
    if STOCK:
        others.append(stock(4))
        assert until(others[-1], "ready"), "the stock kernel does not come up"
        peers.append("t10.9.0.4")
    asks = guest(2, "ask", *peers)
    others.append(asks)
    timer = threading.Timer(PATIENCE, asks.kill)
    timer.start()
    print(asks.communicate()[0], end="")
    timer.cancel()
finally:
    for p in others:
        # Only the stock kernel is a group of its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(p.pid, signal.SIGKILL)
        p.kill()
        p.wait()
