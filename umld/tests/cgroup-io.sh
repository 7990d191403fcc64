# Accounts of block devices in control groups, in a guest with a second disk that nothing else uses.
mkdir -p /tmp/cg && mount -t cgroup2 none /tmp/cg && cd /tmp/cg || exit 1
echo +io >cgroup.subtree_control
mkdir a a/b c
echo +io >a/cgroup.subtree_control
before=$(awk '$3 == "ubdb" { print $4, $6, $8, $10 }' /proc/diskstats)
rios() { sed -n 's/^98:16 .* rios=\([0-9]*\) .*/\1/p' io.stat; }
earlier=$(rios)
sh -c 'echo $$ >a/b/cgroup.procs
    dd if=/dev/ubdb of=/dev/null bs=64k count=16 iflag=direct
    dd if=/dev/zero of=/dev/ubdb bs=64k count=1 oflag=direct' 2>/dev/null
for g in a/b a; do echo "$g $(cat $g/io.stat)"; done
echo "other$(cat c/io.stat)"
rmdir a/b
echo "removed $(cat a/io.stat)"
test "$(rios)" = $((${earlier:-0} + 16)) && echo "more at the root"
awk -v before="$before" '$3 == "ubdb" { split(before, b); print "diskstats", $4 - b[1], $6 - b[2], $8 - b[3], $10 - b[4] }' /proc/diskstats
python3 -c '
import os, mmap
f = os.open("/dev/ubdb", os.O_RDONLY | os.O_DIRECT)
page = mmap.mmap(-1, 1 << 20)
os.readv(f, [page])
print(*[l.strip() for l in open("/proc/self/io") if l.startswith("read_bytes")])'
