"""Children that were made without a signal for their end, and lose their parent: their heir waits for them as for all others."""
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
for late in (True, False):
    r, w = os.pipe()
    b = os.fork()
    if b == 0:
        # clone(2) without a signal at its end, as a kernel in user mode makes its processes.
        c = libc.syscall(56, 0, 0, 0, 0, 0)
        if c == 0:
            os.close(w)
            if late:
                os.read(r, 1)
            os._exit(7)
        if not late:
            while open(f"/proc/{c}/stat").read().rsplit(")", 1)[1].split()[0] != "Z":
                pass
        os._exit(3)
    assert os.waitpid(b, 0) == (b, 3 << 8)
    os.write(w, b"x")
    os.close(w)
    pid, status = os.waitpid(-1, 0)
    print("late" if late else "early", os.WEXITSTATUS(status))
    os.close(r)
