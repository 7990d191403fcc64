"""Runs a command beside ten thousand sockets that do nothing: beside.py idle|wait COMMAND..."""
import resource
import socket
import subprocess
import sys

COUNT = 10_000
kind, command = sys.argv[1], sys.argv[2:]
# What root may, whatever the limit is.
most = max(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 2 * COUNT)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
listener = socket.create_server(("127.0.0.1", 0), backlog=100)
kept = []
for _ in range(COUNT // 2 if kind == "idle" else COUNT):
    ends = socket.create_connection(listener.getsockname()), listener.accept()[0]
    if kind == "idle":
        kept.extend(ends)
    else:
        # Who closes first waits.
        for e in ends:
            e.close()
words = next(l.split() for l in open("/proc/net/sockstat") if l.startswith("TCP:"))
have = int(words[words.index("inuse" if kind == "idle" else "tw") + 1])
if have < COUNT * 9 // 10:
    sys.exit(f"only {have} sockets are there")
sys.exit(subprocess.run(command).returncode)
