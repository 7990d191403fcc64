# Limits on memory of control groups, in a guest: what is killed, what is not, and what the files say.
mkdir -p /tmp/cg && mount -t cgroup2 none /tmp/cg && cd /tmp/cg || exit 1
echo +memory >cgroup.subtree_control
mkdir a a/b
echo 48M >a/memory.max
inside() {
    sh -c 'echo $$ >a/b/cgroup.procs; exec "$@"' sh "$@"
    echo "status $?"
}
inside sh -c 'head -c 20M /dev/zero | tail -c 20M | wc -c'
# Grows until something ends it.
inside tail /dev/zero
cat a/b/cgroup.procs
echo "+memory" >a/cgroup.subtree_control
grep -v ' 0$' a/memory.events
test "$(cat a/memory.peak)" -ge $((48 << 20)) && echo peak
# Pages that forks share count once.
inside python3 -c '
import os
data = bytearray(30 << 20)
for at in range(0, len(data), 4096): data[at] = 1
def child():
    for _ in range(10): sum(data[::4096])
    os._exit(0)
children = [os.fork() or child() for _ in range(4)]
print([os.waitpid(pid, 0)[1] for pid in children])'
# One for all.
echo 1 >a/b/memory.oom.group
inside sh -c 'sleep 1000 & tail /dev/zero; echo not reached'
cat a/b/cgroup.procs
grep -v ' 0$' a/memory.events
grep -c . a/memory.events.local
dmesg | grep -c 'Memory cgroup out of memory: Killed process .* (tail)'
# Beyond memory.high a program is slowed down, and nobody is killed.
echo 0 >a/b/memory.oom.group
mkdir c
echo 16M >c/memory.high
sh -c 'echo $$ >c/cgroup.procs; head -c 20M /dev/zero | tail -c 20M | wc -c'
awk '$2 > 0 { print $1 }' c/memory.events
