"""A stock kernel (7.2, with vector interfaces alone) and our machines: on a uml_switch, a vde_switch, and end to end.

Runs in a network namespace of its own as its root: stock.py UMLD DIRECTORY SWITCH ROOT, the root being that with the stock kernel.
Prints one line for each thing that was tried.
"""
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading

from asked import GUEST, Machine, bridge, end_all, say, start

UMLD, DIRECTORY, SWITCH, ROOT = sys.argv[1:5]
# As the stock kernel sees what is ours: its own root is that of its libraries.
HOST = "/host"
VDE = os.path.join(DIRECTORY, "vde")
# The host's plug, for a kernel in a root that has none.
PLUG = "#!/bin/sh\nexec /usr/sbin/chroot /host vde_plug \"$@\"\n"
ENTER = r'''
set -e
root=$1; plug=$2; shift 2
mkdir -p "$root/host"
mount --rbind / "$root/host"
mount --rbind /proc "$root/proc"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
if [ -e /dev/net/tun ]; then mkdir -p "$root/dev/net"; : >>"$root/dev/net/tun"; mount --bind /dev/net/tun "$root/dev/net/tun"; fi
cp "$plug" "$root/tmp/vde_plug"
exec chroot "$root" /usr/bin/env TMPDIR=/dev/shm HOME=/tmp PATH=/tmp:/usr/bin:/bin /usr/bin/linux.uml "$@"
'''


def script(path, text):
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, 0o755)


def stock(interfaces, fds):
    """`interfaces` are their specifications with their addresses."""
    init, plug = os.path.join(DIRECTORY, "init"), os.path.join(DIRECTORY, "plug")
    words = [f"vec{n}={a}" for n, (_, a) in enumerate(interfaces)]
    script(plug, PLUG)
    script(init, "#!/usr/bin/python3\nimport subprocess, sys\n"
           "for kind, at in ('proc', '/proc'), ('sysfs', '/sys'):\n    subprocess.run(['/bin/mount', '-t', kind, kind, at])\n"
           f"sys.argv[1:] = {words!r}\n" + GUEST)
    return Machine(start(
        ["unshare", "-m", "/bin/sh", "-c", ENTER, "stock", ROOT, plug, "mem=128M", "quiet", "console=tty0", "root=/dev/root",
         "rootfstype=hostfs", "hostfs=" + HOST, "rw", "con=null", "con0=fd:0,fd:1", "ssl=null", "init=" + init,
         *(f"vec{n}:transport={s},mac=02:00:00:00:00:9{n}" for n, (s, _) in enumerate(interfaces))],
        stock=True, pass_fds=fds))


def ours(interfaces, fds=()):
    words = []
    for spec, _ in interfaces:
        words += ["--append", spec]
    return Machine(start(
        [UMLD, "run", "--mem", "128M", "--net", "none", *words, "--", "python3", "-c", GUEST,
         *(f"{s[:4]}={a}" for s, a in interfaces)], pass_fds=fds))


def port(control):
    """A port of the switch for a kernel that does not speak its protocol: its data socket, and the connection that keeps it."""
    name = b"\0" + f"stock-lab-{os.getpid()}".encode().ljust(107, b"\0")
    data = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    data.bind(name)
    asks = socket.socket(socket.AF_UNIX)
    asks.connect(control)
    asks.sendall(struct.pack("=III", 0xfeedface, 3, 0) + struct.pack("=H", socket.AF_UNIX) + name + bytes(2))
    reply = asks.recv(110)
    assert len(reply) == 110, reply
    data.connect(reply[2:])
    return data, asks


def switch(name, *more):
    control = os.path.join(DIRECTORY, name)
    p = start([SWITCH, "-unix", control, *more])
    assert p.stdout.readline()
    threading.Thread(target=lambda: [None for _ in p.stdout], daemon=True).start()
    return control


def ip(words):
    subprocess.run(["ip"] + words.split(), check=True)


def both(name, net):
    """Pings of several sizes and transfers, both ways."""
    there, here = f"10.7.{net}.9", f"10.7.{net}.1"
    pings = {m.ask(f"ping {peer} {size}") for m, peer in ((a, there), (s, here)) for size in (0, 1472, 6000)}
    say(name, *sorted(pings), a.ask("send " + there), s.ask("send " + here))


try:
    ip("link set lo up")
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    bess = os.path.join(DIRECTORY, "bess")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(bess)
    listener.listen(2)
    threading.Thread(target=bridge, args=(listener,), daemon=True).start()
    control = switch("control")
    data, kept = port(control)
    l2tp = "l2tpv3,udp=1,rx_cookie=%d,tx_cookie=%d,rx_session=%d,tx_session=%d,cookie64=1,counter=1,src=127.0.0.%d,dst=127.0.0.%d"
    gre = "gre,rx_key=%d,tx_key=%d,sequence=1,src=127.0.0.%d,dst=127.0.0.%d"
    theirs = [
        (f"fd,fd={ends[0].fileno()}", "10.7.0.9"),
        (f"bess,dst={HOST}{bess}", "10.7.1.9"),
        (l2tp % (5, 6, 1, 2, 1, 2) + ",srcport=5000,dstport=5001", "10.7.2.9"),
        (gre % (1, 2, 1, 2), "10.7.3.9"),
        (f"fd,fd={data.fileno()}", "10.7.4.9"),
    ]
    mine = [
        (f"vec0:transport=fd,fd={ends[1].fileno()}", "10.7.0.1"),
        (f"vec1:transport=bess,dst={bess}", "10.7.1.1"),
        ("vec2:transport=" + l2tp % (6, 5, 2, 1, 2, 1) + ",srcport=5001,dstport=5000", "10.7.2.1"),
        ("vec3:transport=" + gre % (2, 1, 2, 1), "10.7.3.1"),
        (f"eth4=daemon,02:00:00:00:00:14,unix,{control}", "10.7.4.1"),
    ]
    has_vde, has_tap = shutil.which("vde_switch"), os.access("/dev/net/tun", os.R_OK | os.W_OK)
    if has_vde:
        p = start(["vde_switch", "-s", VDE])
        while not os.path.exists(os.path.join(VDE, "ctl")):
            assert p.poll() is None, p.stdout.read()
        theirs.append((f"vde,vnl={VDE}", "10.7.5.9"))
        mine.append((f"eth5=vde,{VDE}", "10.7.5.1"))
    if has_tap:
        # The stock kernel's tap device and that of a second switch, on a bridge of the host.
        for words in ["link add name lab type bridge", "link set lab up", "tuntap add t0 mode tap", "tuntap add t1 mode tap",
                      "link set t0 master lab up", "link set t1 master lab up"]:
            ip(words)
        theirs.append(("tap,ifname=t0", "10.7.6.9"))
        mine.append((f"eth6=daemon,,unix,{switch('second', '-tap', 't1')}", "10.7.6.1"))
    a, b = ours(mine, [ends[1].fileno()]), ours([(f"eth0=daemon,02:00:00:00:00:24,unix,{control}", "10.7.4.2")])
    s = stock(theirs, [ends[0].fileno(), data.fileno()])
    for m in a, b, s:
        m.wait()
    both("fd", 0)
    both("bess", 1)
    both("l2tpv3 udp", 2)
    both("gre", 3)
    both("uml_switch", 4)
    # Who shouts hears itself, too.
    say("broadcasts", *(m.ask("shout 10.7.4.255 3") for m in (a, b, s)))
    say("neighbours", *(m.ask("neighbour 10.7.4." + n) for m, n in ((a, "9"), (b, "9"), (s, "1"), (s, "2"))))
    # All at once: each answers while it asks.
    for m, peer in (a, 9), (s, 1), (b, 9):
        m.tell(f"send 10.7.4.{peer}")
    say("at once", a.line(), s.line(), b.line())
    if has_vde:
        both("vde_switch", 5)
    if has_tap:
        both("bridge", 6)
finally:
    end_all()
