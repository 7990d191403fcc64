"""Two guests on a vde_switch, one by vec0 and one by eth0: transfers, the switch stopped, killed and started again.

vde.py UMLD DIRECTORY. Prints one line for each thing that was tried. HOME is the directory: the default network is in it.
"""
import contextlib
import os
import shutil
import signal
import socket
import sys
import threading

from asked import GUEST, PATIENCE, Machine, end_all, say, start

UMLD, DIRECTORY = sys.argv[1:3]
SWITCH, CONSOLE = os.path.join(DIRECTORY, "switch"), os.path.join(DIRECTORY, "console")
# To be found without PATH.
PYTHON = shutil.which("python3")


def guest(spec, ip, **environment):
    return Machine(start(
        [UMLD, "run", "--mem", "128M", "--net", "none", "--append", spec, "--", PYTHON, "-c", GUEST, f"{spec[:4]}={ip}"],
        env=os.environ | environment)).wait()


def switch():
    # It ends with its input.
    p = start(["vde_switch", "-s", SWITCH, "-M", CONSOLE])
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


try:
    # Who names no network has this one.
    os.makedirs(os.path.join(DIRECTORY, ".vde2"), exist_ok=True)
    os.symlink(SWITCH, os.path.join(DIRECTORY, ".vde2", "default.switch"))
    first = switch()
    a = guest(f"vec0:transport=vde,vnl={SWITCH},port=7,descr=alpha", "10.7.0.1")
    b = guest("eth0=vde,,02:00:00:00:00:0b,9,,660,beta", "10.7.0.2")
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
    say("killed", a.until("log vde", "vec0: " + lost.format(SWITCH)).replace(SWITCH, "SWITCH"),
        b.until("log vde", "eth0: " + lost.format("the default network")))
    say("without", a.ask("ping 10.7.0.2"), b.ask("ping 10.7.0.1"))
    second = switch()
    # Until they are opened again nothing moves.
    say("not yet", a.ask("ping 10.7.0.2"), b.ask("ping 10.7.0.1"))
    say("again", a.ask("again vec0"), b.ask("again eth0"), a.until("ping 10.7.0.2", "an answer"), b.ask("send 10.7.0.1"))

    # In the middle of transfers: nobody hangs but the one who sends.
    before = b.ask("send 10.7.0.1")
    b.tell("send 10.7.0.1")
    second.kill()
    second.wait()
    say("in between", before, a.until("log vde", "vec0: " + lost.format(SWITCH)).replace(SWITCH, "SWITCH"))
    third = switch()
    a.ask("again vec0")
    b.process.kill()
    c = guest(f"eth0=vde,{SWITCH}", "10.7.0.3")
    say("third", c.ask("send 10.7.0.1"), a.ask("send 10.7.0.3"))

    nowhere = os.path.join(DIRECTORY, "nowhere")
    d = guest(f"vec0:transport=vde,vnl={nowhere}", "10.7.0.4")
    why = f"vec0: host side failed: vde_plug on {nowhere} failed (exit status: 1); set the interface down and up again"
    say("nowhere", d.until("log vde", why).replace(nowhere, "NOWHERE"), d.ask("ping 10.7.0.1"))
    e = guest("vec0:transport=vde", "10.7.0.5", PATH="/nonexistent")
    say("no program", e.ask("log vde"))
finally:
    end_all()
