# What brctl(8) does and shows, and the files that it reads, the same on Linux; as root of a network namespace with its sysfs.
ip link add v0 address 02:00:00:00:00:10 type veth peer name v1 address 02:00:00:00:00:11
ip link add w0 address 02:00:00:00:00:12 type veth peer name w1 address 02:00:00:00:00:13
for i in v0 v1 w0 w1; do ip link set $i addrgenmode none; done
try() { echo "-- $*"; "$@" 2>&1; echo "= $?"; }
try brctl addbr br0
ip link set br0 addrgenmode none
try brctl addbr br0
try brctl addbr 'a/b'
try brctl addif br0 v0 w0
try brctl addif br0 v0
try brctl addif br0 br0
try brctl addif v0 w0
try brctl addif br0 nothere
try brctl delif br0 lo
try brctl show
try brctl setfd br0 4
try brctl sethello br0 3
try brctl setmaxage br0 7
try brctl setageing br0 77
try brctl setbridgeprio br0 4096
try brctl setpathcost br0 v0 9
try brctl setportprio br0 w0 7
try brctl hairpin br0 v0 on
try brctl setmaxage br0 3
try brctl stp br0 on
try brctl setfd br0 1
try brctl show
echo "-- showstp"; brctl showstp br0 | sed "s/gc timer.*//"
try brctl showmacs br0
cd /sys/class/net
for f in br0/bridge/* v0/brport/*; do
    # A host without a filter for VLANs has no such files.
    case $f in *vlan*|*default_pvid|*gc_timer) continue;; esac
    echo $f $(stat -c '%A' $f) $(cat $f 2>/dev/null)
done
ls -l br0/brif v0 | grep -o ' [^ ]* -> .*\(br0\|brport\).*' | sort
echo 1 > br0/bridge/flush; echo flush $?
echo x 2>/dev/null > br0/bridge/stp_state; echo nonsense $?
echo 0 > br0/bridge/stp_state; cat br0/bridge/stp_state
echo 1 > v0/brport/learning; echo 0 > v0/brport/learning; cat v0/brport/learning
try brctl delif br0 w0
ls br0/brif; ls w0/brport 2>&1
try brctl delif br0 w0
ip link set br0 up
try brctl delbr br0
ip link set br0 down
try brctl delbr v0
try brctl delbr br0
try brctl delbr br0
ls -d v0/brport br0 2>&1
