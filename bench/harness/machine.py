"""Programs, processes and what the kernel says of them."""
import os
import shutil
import signal
import socket
import subprocess
import time

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PROXY_CORE = "0"
LOAD_CORE = "1"
# A proxy that has not answered by then never will: Envoy with 1,000 services takes seconds.
READY_LIMIT_S = 60


class Missing(Exception):
    """Something that a run needs is not there; the message says what to install."""


def program(name, *extra):
    places = [*extra, shutil.which(name), f"/usr/sbin/{name}", f"/usr/local/sbin/{name}"]
    for place in places:
        if place and os.path.exists(place):
            return str(place)
    raise Missing(f"{name} is not installed: bench/README.md says where it comes from")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def free_ports(count):
    """Ports that differ from each other: all are held until the last is chosen."""
    held = [socket.socket() for _ in range(count)]
    for s in held:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


class Running:
    """A program pinned to a core, its output in a file; ended by its own process id."""

    def __init__(self, argv, core, log):
        self.argv = argv
        self.log = log
        self.begun = time.monotonic()
        with open(log, "wb") as out:
            self.child = subprocess.Popen(
                ["taskset", "-c", core, *map(str, argv)], stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def wait_for(self, probe):
        """Poll until probe() is true; the milliseconds since exec."""
        while True:
            if probe():
                return (time.monotonic() - self.begun) * 1000
            if self.child.poll() is not None or time.monotonic() - self.begun > READY_LIMIT_S:
                raise RuntimeError(f"{self.argv[0]} did not get ready:\n{tail(self.log)}")
            time.sleep(0.001)

    def family(self):
        """This process and its children (nginx forks its worker)."""
        pids = [self.child.pid]
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with open(f"/proc/{name}/stat") as f:
                        if int(f.read().rsplit(")", 1)[1].split()[1]) == self.child.pid:
                            pids.append(int(name))
                except (OSError, IndexError):
                    pass
        return pids

    def cpu_s(self):
        """CPU time of all threads of the family so far, user and system."""
        total = 0
        for pid in self.family():
            with open(f"/proc/{pid}/stat") as f:
                fields = f.read().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICKS_PER_S

    def memory_kb(self):
        """(steady, peak): what the processes have to themselves, and the larger part of what any of them shares, since most
        of that they share with each other; the peak is the sum of their peaks."""
        private = shared = peak = 0
        for pid in self.family():
            with open(f"/proc/{pid}/smaps_rollup") as f:
                kb = {line.split(":")[0]: int(line.split()[1]) for line in f if line.endswith("kB\n")}
            private += kb["Private_Clean"] + kb["Private_Dirty"]
            shared = max(shared, kb["Shared_Clean"] + kb["Shared_Dirty"])
            with open(f"/proc/{pid}/status") as f:
                peak += next(int(line.split()[1]) for line in f if line.startswith("VmHWM:"))
        return private + shared, peak

    def stop(self, patience_s=3):
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
            try:
                self.child.wait(patience_s)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()


def tail(path, lines=25):
    try:
        with open(path, errors="replace") as f:
            return "".join(f.readlines()[-lines:])
    except OSError:
        return ""


def answers_h1(port, host, path="/"):
    """One HTTP/1.1 GET is answered 200."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as s:
            s.settimeout(2)
            s.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return s.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


def describe():
    """What a reader needs to judge the numbers."""
    model = "unknown"
    with open("/proc/cpuinfo") as f:
        for line in f:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {"cpu": model, "cores": os.cpu_count(), "kernel": os.uname().release,
            "load_average_at_start": round(os.getloadavg()[0], 2)}


def version(argv):
    out = subprocess.run(argv, capture_output=True, text=True)
    return ((out.stdout + out.stderr).strip().splitlines() or ["unknown"])[0]
