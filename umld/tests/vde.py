"""Two guests on a vde_switch, one by vec0 and one by eth0: transfers, the switch stopped, killed and started again.

vde.py UMLD DIRECTORY. Prints one line for each thing that was tried. HOME is the directory: the default network is in it.
"""
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading

UMLD, DIRECTORY = sys.argv[1:3]
SWITCH, CONSOLE = os.path.join(DIRECTORY, "switch"), os.path.join(DIRECTORY, "console")
PATIENCE = 60
# Found without PATH.
PYTHON = shutil.which("python3")

# Does what each line of its input says, and answers with one line.
GUEST = r'''
import os, socket, struct, subprocess, sys, threading
DEVICE = sys.argv[1]
os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
data = bytes(range(251)) * (4 << 12)
def whole(s):
    parts = []
    while True:
        b = s.recv(1 << 20)
        if not b:
            return b"".join(parts)
        parts.append(b)
def serve(l):
    while True:
        c, a = l.accept()
        c.sendall(whole(c))
        c.close()
def send(peer):
    s = socket.create_connection((peer, 80), timeout=40)
    s.sendall(data)
    s.shutdown(socket.SHUT_WR)
    return "same" if whole(s) == data else "different"
def ping(peer):
    s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    s.settimeout(1)
    request = bytes([8, 0, 0xf7, 0xfd, 0, 1, 0, 1])
    for attempt in range(3):
        try:
            s.sendto(request, (peer, 0))
            while True:
                b, (a, _) = s.recvfrom(2000)
                if a == peer and b[20] == 0:
                    return "an answer"
        except OSError:
            pass
    return "no answer"
def again():
    for state in "down", "up":
        subprocess.run(["ip", "link", "set", DEVICE, state], check=True)
    return "up"
def log():
    lines = subprocess.run(["dmesg"], capture_output=True, text=True).stdout.split("\n")
    lines = [l for l in lines if " vde" in l]
    return lines[-1].split("] ")[-1] if lines else "nothing"
threading.Thread(target=serve, args=(socket.create_server(("0.0.0.0", 80)),), daemon=True).start()
print("ready", flush=True)
for line in sys.stdin:
    word, *rest = line.split()
    try:
        print({"send": send, "ping": ping, "again": again, "log": log}[word](*rest), flush=True)
    except OSError as e:
        print(e, flush=True)
'''


class Guest:
    def __init__(self, spec, ip, **environment):
        device = spec[:4]
        self.process = subprocess.Popen(
            [UMLD, "run", "--mem", "128M", "--net", "none", "--append", spec,
             "--append", f"ip={ip}:::255.255.255.0::{device}:off", "--", PYTHON, "-c", GUEST, device],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environment)
        started.append(self.process)
        self.before = []
        while (line := self.line()) != "ready":
            self.before.append(line)
            assert line, self.before

    def line(self):
        late = threading.Timer(PATIENCE, self.process.kill)
        late.start()
        line = self.process.stdout.readline().strip()
        late.cancel()
        return line

    def ask(self, words):
        self.process.stdin.write(words + "\n")
        self.process.stdin.flush()
        return self.line() or "ended"

    def until(self, words, answer):
        """Asks until the answer is this one, or for too long."""
        late = threading.Event()
        timer = threading.Timer(PATIENCE, late.set)
        timer.start()
        while (said := self.ask(words)) != answer and said != "ended" and not late.is_set():
            pass
        timer.cancel()
        return said


def switch():
    # It ends with its input.
    p = subprocess.Popen(["vde_switch", "-s", SWITCH, "-M", CONSOLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, text=True)
    started.append(p)
    console("showinfo", p)
    return p


def console(command, process):
    """A command of the switch's own console, once that is there; its answer."""
    late = threading.Event()
    timer = threading.Timer(PATIENCE, late.set)
    timer.start()
    while True:
        assert not late.is_set() and process.poll() is None, "no switch"
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as s:
            s.connect(CONSOLE)
            s.sendall(command.encode() + b"\n")
            text = ""
            # An answer ends with its status and a prompt.
            while "1000 Success" not in text:
                b = s.recv(4096)
                if not b:
                    break
                text += b.decode()
            else:
                timer.cancel()
                return text


def say(what, *said):
    print(what + ":", ", ".join(said), flush=True)


started = []
try:
    # Who names no network has this one.
    os.makedirs(os.path.join(DIRECTORY, ".vde2"), exist_ok=True)
    os.symlink(SWITCH, os.path.join(DIRECTORY, ".vde2", "default.switch"))
    first = switch()
    a = Guest(f"vec0:transport=vde,vnl={SWITCH},port=7,descr=alpha", "10.7.0.1")
    b = Guest("eth0=vde,,02:00:00:00:00:0b,9,,660,beta", "10.7.0.2")
    say("transfers", a.ask("send 10.7.0.2"), b.ask("send 10.7.0.1"))
    ports = console("port/allprint", first)
    at = {n: [l.strip() for l in p.split("\n")] for n, _, p in
          (p.partition(" ") for p in ports.split("\nPort ")[1:])}
    for n in "0007", "0009":
        say("port " + n, *(w for w in ("alpha", "beta") if any(w in l for l in at.get(n, []))))
    say("mode", *(oct(os.stat(os.path.join(SWITCH, f)).st_mode & 0o777) for f in sorted(os.listdir(SWITCH)) if f[:3] == "009"))

    # A switch that does nothing: nobody waits for it, and it goes on.
    first.send_signal(signal.SIGSTOP)
    say("stopped", a.ask("ping 10.7.0.2"), b.ask("ping 10.7.0.1"))
    first.send_signal(signal.SIGCONT)
    say("goes on", a.until("ping 10.7.0.2", "an answer"), b.ask("send 10.7.0.1"))

    first.kill()
    first.wait()
    lost = "host side failed: vde_plug on {} has ended; set the interface down and up again"
    say("killed", a.until("log", "vec0: " + lost.format(SWITCH)).replace(SWITCH, "SWITCH"),
        b.until("log", "eth0: " + lost.format("the default network")))
    say("without", a.ask("ping 10.7.0.2"), b.ask("ping 10.7.0.1"))
    second = switch()
    # Until they are opened again nothing moves.
    say("not yet", a.ask("ping 10.7.0.2"), b.ask("ping 10.7.0.1"))
    say("again", a.ask("again"), b.ask("again"), a.until("ping 10.7.0.2", "an answer"), b.ask("send 10.7.0.1"))

    # In the middle of transfers: nobody hangs but the one who sends.
    b.process.stdin.write("send 10.7.0.1\n" * 2)
    b.process.stdin.flush()
    before = b.line()
    second.kill()
    second.wait()
    say("in between", before, a.until("log", "vec0: " + lost.format(SWITCH)).replace(SWITCH, "SWITCH"))
    third = switch()
    a.ask("again")
    b.process.kill()
    c = Guest(f"eth0=vde,{SWITCH}", "10.7.0.3")
    say("third", c.ask("send 10.7.0.1"), a.ask("send 10.7.0.3"))

    nowhere = os.path.join(DIRECTORY, "nowhere")
    d = Guest(f"vec0:transport=vde,vnl={nowhere}", "10.7.0.4")
    why = f"vec0: host side failed: vde_plug on {nowhere} failed (exit status: 1); set the interface down and up again"
    say("nowhere", d.until("log", why).replace(nowhere, "NOWHERE"), d.ask("ping 10.7.0.1"))
    e = Guest("vec0:transport=vde", "10.7.0.5", PATH="/nonexistent")
    say("no program", e.ask("log"))
finally:
    for p in started:
        p.kill()
        p.wait()
