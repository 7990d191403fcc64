"""Legacy transports without a switch: a second guest, or the host, at the other end. In a network namespace of its own.

legacy.py UMLD. Prints one line for each transport.
"""
import socket
import subprocess
import sys
import threading

UMLD = sys.argv[1]
PATIENCE = 100
GUEST = r'''
import socket, subprocess, sys
data = bytes(range(251)) * (4 << 12)
def whole(s):
    parts = []
    while True:
        b = s.recv(1 << 20)
        if not b:
            return b"".join(parts)
        parts.append(b)
if sys.argv[1] == "serve":
    l = socket.create_server(("0.0.0.0", 80))
    print("ready", flush=True)
    c, a = l.accept()
    c.sendall(whole(c))
    c.close()
elif sys.argv[1] == "look":
    if "eth0" not in open("/proc/net/dev").read():
        print(subprocess.run("dmesg | grep pcap_setup", shell=True, capture_output=True, text=True).stdout)
        sys.exit()
    subprocess.run(["ip", "link", "set", "eth0", "up"], check=True)
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    s.bind(("eth0", 0))
    print("ready", flush=True)
    s.settimeout(80)
    while True:
        f = s.recv(2000)
        if f[12:14] == b"\x08\0":
            print("the datagram" if f[-3:] == b"ok!" else f.hex(), flush=True)
            break
else:
    s = socket.create_connection((sys.argv[2], 80), timeout=80)
    s.sendall(data)
    s.shutdown(socket.SHUT_WR)
    print("same" if whole(s) == data else "different", flush=True)
    bad = [l for l in open("/proc/net/if_inet6") if int(l.split()[4], 16) & 8]
    print("duplicate address" if bad else "one address", flush=True)
'''


def guest(spec, ip, *args):
    words = ["--append", f"eth0={spec}"]
    if ip:
        words += ["--append", f"ip={ip}:::255.255.255.0::eth0:off"]
    return subprocess.Popen(
        [UMLD, "run", "--mem", "128M", "--net", "none", *words, "--", "python3", "-c", GUEST, *args],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def said(p):
    try:
        return ", ".join(l for l in p.communicate(timeout=PATIENCE)[0].split("\n") if l)
    except subprocess.TimeoutExpired:
        p.kill()
        return "too slow"


def two(name, a, b):
    server = guest(a, "10.7.0.1", "serve")
    server.stdout.readline()
    print(name + ":", said(guest(b, "10.7.0.2", "ask", "10.7.0.1")), flush=True)
    server.kill()
    server.wait()


def echo(listener):
    c, _ = listener.accept()
    parts = []
    while b := c.recv(1 << 20):
        parts.append(b)
    c.sendall(b"".join(parts))
    c.close()


for command in ["ip link set lo up", "ip route add 224.0.0.0/4 dev lo", "ip tuntap add t0 mode tap",
                "ip addr add 10.7.0.1/24 dev t0", "ip link set t0 up"]:
    subprocess.run(command.split(), check=True)
two("ucast", "ucast,,127.0.0.1,5001,5002", "ucast,,127.0.0.1,5002,5001")
two("mcast", "mcast", "mcast,02:00:00:00:00:07,239.192.168.1,1102,1")
listener = socket.create_server(("10.7.0.1", 80))
threading.Thread(target=echo, args=(listener,), daemon=True).start()
print("tuntap:", said(guest("tuntap,t0", "10.7.0.2", "ask", "10.7.0.1")), flush=True)
looker = guest("pcap,lo,udp[8:4]=0x6c6f6f6b", None, "look")
first = looker.stdout.readline()
if first.strip() == "ready":
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    done = threading.Event()

    def send():
        while not done.wait(0.1):
            s.sendto(b"not this", ("127.0.0.1", 9))
            s.sendto(b"look ok!", ("127.0.0.1", 9))

    threading.Thread(target=send, daemon=True).start()
    print("pcap:", said(looker))
    done.set()
else:
    print("pcap:", first, said(looker))
