"""A bridge that tells VLANs apart, as bridge(8) sets it up and shows it, and what comes of it: as root of a network namespace. (A host whose kernel
has no filter for VLANs cannot be asked.)"""
import json, socket, subprocess


def run(*args):
    subprocess.run(args, check=True)


def tried(*args):
    out = subprocess.run(args, capture_output=True, text=True)
    return "fine" if out.returncode == 0 else out.stderr.strip().split("\n")[-1]


def vlans(*args):
    out = subprocess.run(["bridge", *args, "vlan", "show"], capture_output=True, text=True, check=True).stdout
    return [" ".join(x.split()) for x in out.splitlines()]


def of_bridge():
    d = json.loads(subprocess.run(["ip", "-j", "-d", "link", "show", "br0"], capture_output=True, text=True, check=True).stdout)
    return {k: v for k, v in d[0]["linkinfo"]["info_data"].items() if k.startswith("vlan")}


run("ip", "link", "add", "br0", "address", "02:00:00:00:00:99", "type", "bridge")
ends = {}
for n in range(3):
    run("ip", "link", "add", f"p{n}", "address", f"02:00:00:00:00:1{n}", "type", "veth", "peer", "name", f"e{n}", "address", f"02:00:00:00:00:2{n}")
    run("ip", "link", "set", f"p{n}", "master", "br0", "up")
    run("ip", "link", "set", f"e{n}", "up")
    s = ends[n] = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x88b5))
    s.bind((f"e{n}", 0x88b5))
    s.setsockopt(263, 8, 1)
    s.setsockopt(263, 23, 1)
    s.setblocking(False)
run("ip", "link", "set", "br0", "up")
print(of_bridge(), vlans())
print("default", tried("ip", "link", "set", "br0", "type", "bridge", "vlan_default_pvid", "7"), vlans())
run("ip", "link", "set", "br0", "type", "bridge", "vlan_default_pvid", "1")
run("ip", "link", "set", "br0", "type", "bridge", "vlan_filtering", "1")
print("default", tried("ip", "link", "set", "br0", "type", "bridge", "vlan_default_pvid", "7"), of_bridge())
for args in (("add", "vid", "10", "pvid", "untagged", "dev", "p0"), ("del", "vid", "1", "dev", "p0"), ("add", "vid", "10", "dev", "p1"),
             ("add", "vid", "20-24", "dev", "p1"), ("del", "vid", "22", "dev", "p1"), ("add", "vid", "20", "dev", "p2", "pvid", "untagged"),
             ("del", "vid", "99", "dev", "p2"), ("add", "vid", "0", "dev", "p2"), ("add", "vid", "4095", "dev", "p2"), ("add", "vid", "30", "dev", "e0"),
             ("add", "vid", "30", "dev", "br0"), ("add", "vid", "30", "dev", "br0", "self"), ("add", "vid", "31", "dev", "p1", "self"),
             ("del", "vid", "1", "dev", "br0", "self")):
    print(args, tried("bridge", "vlan", *args))
print(*vlans(), sep="\n")
print(*vlans("-compressvlans"), sep="\n")


def frame(to, source, tag=None):
    return bytes.fromhex(to + source) + (b"" if tag is None else b"\x81\0" + tag.to_bytes(2, "big")) + b"\x88\xb5" + bytes(46)


def got():
    """What each end has: without a tag 0. A frame has passed all of them once its sender is back."""
    all = []
    for s in ends.values():
        mine = []
        try:
            while True:
                data, control, _, _ = s.recvmsg(2000, 100)
                aux = [b for level, kind, b in control if kind == 8]
                status, tci = int.from_bytes(aux[0][:4], "little"), int.from_bytes(aux[0][16:18], "little")
                mine.append(tci if status & 0x10 else 0)
        except BlockingIOError:
            all.append(mine)
    return all


BROADCAST, A, B = "ff" * 6, "020000000041", "020000000042"
for end, what in ((0, frame(BROADCAST, A)), (1, frame(BROADCAST, B, 10)), (1, frame(A, B, 10)), (0, frame(B, A)), (1, frame(BROADCAST, A, 20)), (2, frame(A, B)),
                  (1, frame(BROADCAST, B, 22)), (0, frame(B, A, 20)), (1, frame(BROADCAST, B))):
    ends[end].send(what)
    print(end, what[:18].hex(), got())
rows = subprocess.run(["bridge", "fdb", "show", "br", "br0"], capture_output=True, text=True).stdout.splitlines()
print(*sorted(" ".join(x.split()) for x in rows if "02:00:00:00:00:4" in x), sep="\n")
print("fdb", tried("bridge", "fdb", "add", "02:00:00:00:00:50", "dev", "p1", "vlan", "10", "master", "static"),
      tried("bridge", "fdb", "add", "02:00:00:00:00:50", "dev", "p1", "vlan", "22", "master", "static"),
      tried("bridge", "fdb", "add", "02:00:00:00:00:51", "dev", "p2", "master", "static"),
      tried("bridge", "fdb", "del", "02:00:00:00:00:50", "dev", "p1", "vlan", "20", "master"),
      tried("bridge", "fdb", "del", "02:00:00:00:00:50", "dev", "p1", "vlan", "10", "master"))
rows = subprocess.run(["bridge", "fdb", "show", "br", "br0"], capture_output=True, text=True).stdout.splitlines()
print(*sorted(" ".join(x.split()) for x in rows if "02:00:00:00:00:5" in x), sep="\n")
run("ip", "link", "set", "br0", "type", "bridge", "vlan_filtering", "0")
ends[0].send(frame(BROADCAST, A, 77))
print("not told apart", got())
