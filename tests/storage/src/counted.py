"""What disks and processes did, as iostat(1) and pidstat(1) read it: DISK is used by nobody else, DIRECTORY is on another one."""
import fcntl, mmap, os, resource, struct, sys

disk, directory = sys.argv[1:3]
name = os.path.basename(disk)
MIB = 1 << 20
BLKDISCARD = 0x1277


def counters():
    for line in open("/proc/diskstats"):
        words = line.split()
        if words[2] == name:
            numbers = [int(w) for w in words[3:]]
    assert open(f"/sys/block/{name}/stat").read().split() == [str(n) for n in numbers], "sysfs"
    return numbers


def own():
    return {k: int(v) for k, v in (l.split(": ") for l in open("/proc/self/io"))}


def differences(what, f):
    was, io, ru = counters(), own(), resource.getrusage(resource.RUSAGE_SELF)
    f()
    now, io2, ru2 = counters(), own(), resource.getrusage(resource.RUSAGE_SELF)
    d = [b - a for a, b in zip(was, now)]
    # Requests and sectors of reads, writes and discards, flushes; what is under way.
    print(what, d[0], d[2], d[4], d[6], d[11], d[13], d[15], now[8])
    for k in "read_bytes", "write_bytes", "cancelled_write_bytes":
        print(what, k, io2[k] - io[k])
    print(what, "blocks", ru2.ru_inblock - ru.ru_inblock, ru2.ru_oublock - ru.ru_oublock)
    # Weighted time is the sum of the kinds'.
    assert abs(now[10] - now[3] - now[7] - now[14] - now[16]) <= 3, now
    assert now[9] <= now[10] + 3, now


fd = os.open(disk, os.O_RDWR | os.O_DIRECT)
buf = mmap.mmap(-1, MIB)


def reads():
    for i in range(16):
        assert os.preadv(fd, [memoryview(buf)[: 64 << 10]], i << 16) == 64 << 10


def writes():
    for i in range(8):
        assert os.pwritev(fd, [memoryview(buf)[: 32 << 10]], i << 15) == 32 << 10
    os.fsync(fd)


def discards():
    # As blkdiscard(8), which looks for filesystems before.
    fcntl.ioctl(fd, BLKDISCARD, struct.pack("QQ", 0, MIB))


def buffered():
    with open(directory + "/file", "wb") as f:
        f.write(b"x" * MIB)
    os.unlink(directory + "/file")


differences("reads", reads)
differences("writes", writes)
differences("discards", discards)
differences("buffered", buffered)
print("inflight", open(f"/sys/block/{name}/inflight").read().split())
