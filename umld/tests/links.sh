# Virtual interfaces: what a guest says must be what Linux says. Run in namespaces of its own (unshare -rnm), prints
# what both must print.
mount -t tmpfs none /run || exit 1
# What depends on the machine or on the moment; of VLANs a host's kernel may have no filter.
same() { sed -E 's/ vlan_(protocol|default_pvid|stats_enabled|stats_per_port) [^ ]+//g; s/num[tr]xqueues [0-9]+/queues/g; s/_timer +[0-9.]+/_timer/g; s/link-netnsid [0-9]+/link-netnsid/; s/ +$//'; }
show() { echo "-- $*"; "$@" 2>&1 | same; }
fails() { "$@" >/dev/null 2>&1 && echo "no error: $*" || echo "error $?: $*"; }
# The state follows the carrier, in a moment.
settle() { i=0; until ip link show "$1" | grep -q "state $2 " || [ $((i += 1)) -gt 100 ]; do sleep 0.1; done; }
fdb() { echo "-- fdb"; bridge fdb show br br0 | grep -v ' self' | sed 's/ *$//' | sort; }

ip link add br0 address 02:00:00:00:00:01 type bridge
ip link add v0 address 02:00:00:00:00:02 type veth peer name v1 address 02:00:00:00:00:03
show ip -d link show br0
show ip -d link show v0
ip link set v0 master br0
show ip -d link show v0
show ip link show master br0
show ip link show type veth
ip link set br0 up
settle br0 DOWN
show ip link show br0
ip link set v0 up
settle v0 LOWERLAYERDOWN
show ip link show v0
show ip link show v1
ip link set v1 up
settle v0 UP; settle v1 UP; settle br0 UP
for i in br0 v0 v1; do show ip link show $i; done
show ip -j link show v0
show bridge link
show bridge -d link
fails ip link add br0 type bridge
fails ip link add v0 type veth peer name v9
fails ip link show v9
fails ip link set lo master br0
fails ip link set br0 master br0
fails ip link set v1 master v0
fails ip link add b0 type nonsense
bridge link set dev v0 hairpin on learning off cost 7 priority 9
show bridge -d link
bridge link set dev v0 hairpin off learning on cost 2 priority 32
bridge fdb add 02:aa:00:00:00:01 dev v0 master static
fails bridge fdb add 02:aa:00:00:00:01 dev v0 master static
bridge fdb add 02:aa:00:00:00:02 dev v0 master permanent
bridge fdb add 02:aa:00:00:00:03 dev v0 master dynamic
fails bridge fdb add 01:00:00:00:00:03 dev v0 master
bridge fdb del 02:aa:00:00:00:02 dev v0 master
fails bridge fdb del 02:aa:00:00:00:02 dev v0 master
# A frame from the other end is learned.
python3 -c '
import socket
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
s.bind(("v1", 0))
s.send(bytes.fromhex("ffffffffffff 02bb00000001 88b5") + bytes(46))
s.send(bytes.fromhex("ffffffffffff 03bb00000001 88b5") + bytes(46))'
i=0
until bridge fdb show br br0 | grep -q 02:bb || [ $((i += 1)) -gt 100 ]; do sleep 0.1; done
# What the ends themselves send comes when it comes.
fdb | grep -v 02:00:00:00:00:03
ip link set br0 type bridge ageing_time 100 forward_delay 400
show ip -d link show br0
i=0
while bridge fdb show br br0 | grep -q 02:bb; do [ $((i += 1)) -gt 300 ] && echo "it does not age" && break; sleep 0.1; done

ip netns add foo
ip netns add bar
ip link set v1 netns foo
settle v0 DOWN
show ip link show v0
fails ip link show v1
show ip -n foo -d link show v1
ip -n foo link set v1 name inside up
settle v0 UP
show ip -n foo link show inside
show ip link show v0
ip link add w0 address 02:00:00:00:00:04 type veth peer name w1 address 02:00:00:00:00:05 netns bar
ip link set w0 master br0 up
ip -n bar link set w1 up
fails ip link set br0 netns bar
fails ip -n foo link set lo netns bar
ip link add x type veth peer name inside address 02:00:00:00:00:06
fails ip link set inside netns foo
ip link set inside netns foo name other
show ip -n foo -br link show other
fails ip link del lo
ip netns exec foo ip link del other
fails ip link show x
ip addr add 10.1.0.1/24 dev br0
ip -n foo addr add 10.1.0.2/24 dev inside
ip -n bar addr add 10.1.0.3/24 dev w1
show ip -n bar route
python3 - <<'P'
# Bulk data both ways between all three, and through the bridge alone.
import socket, subprocess
server = r"""
import socket, sys
l = socket.create_server((sys.argv[1], 5000))
print("ready", flush=True)
while True:
    c, _ = l.accept()
    while b := c.recv(1 << 20):
        c.sendall(b)
    c.close()
"""
client = r"""
import socket, sys, threading
for a in sys.argv[1:]:
    s = socket.create_connection((a, 5000), timeout=60)
    data = bytes(range(251)) * 40000
    def send():
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
    t = threading.Thread(target=send)
    t.start()
    back = b""
    while b := s.recv(1 << 20):
        back += b
    t.join()
    print(a, "same" if back == data else "different", flush=True)
"""
run = {"10.1.0.1": [], "10.1.0.2": ["ip", "netns", "exec", "foo"], "10.1.0.3": ["ip", "netns", "exec", "bar"]}
servers = []
for a, how in run.items():
    p = subprocess.Popen([*how, "python3", "-c", server, a], stdout=subprocess.PIPE, text=True)
    p.stdout.readline()
    servers.append(p)
for a, how in run.items():
    print("-- from", a, flush=True)
    subprocess.run([*how, "python3", "-c", client, *[o for o in run if o != a]])
for p in servers:
    p.kill()
    p.wait()
P
fdb | sed 's/ offload//'
bridge link set dev v0 isolated on; bridge link set dev w0 isolated on
ip netns exec foo python3 -c '
import socket
for a in ["10.1.0.3", "10.1.0.1"]:
    try:
        socket.create_connection((a, 5001), timeout=3)
    except OSError as e:
        print(a, "refused" if e.errno == 111 else "not reached")'
ip netns exec foo true && ip netns exec bar true
ip link del w0
fails ip -n bar link show w1
ip netns del foo
i=0
while ip link show v0 >/dev/null 2>&1; do [ $((i += 1)) -gt 100 ] && echo "v0 stays" && break; sleep 0.1; done
settle br0 DOWN
show ip link show br0
show ip link show type veth
ip link del br0
fails ip link show br0
