"""Load generators and what they print."""
import json
import os
import re
import subprocess

from .machine import LOAD_CORE, Missing, program

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OURS = os.path.join(ROOT, "target/release/celerity")

CONNECTIONS = 64
# The same 64 requests in flight, over fewer connections, as HTTP/2 clients have them.
H2_CONNECTIONS = 8
H2_STREAMS = 8

# What our own generator ends with when it was late, which the upstream on its core sees to.
VOID = 4

UNIT_US = {"us": 1, "ms": 1000, "s": 1_000_000}


def wrk(port, host, seconds, connections=CONNECTIONS):
    """As much as the proxy carries: {requests, requests_per_s, errors}."""
    out = _run([program("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "-H", f"Host: {host}",
                f"http://127.0.0.1:{port}/"], seconds)
    requests, span, unit = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)", out).groups()
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    socket_errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    errors = int(refused.group(1)) if refused else 0
    errors += sum(map(int, socket_errors.groups())) if socket_errors else 0
    span_s = float(span) * (60_000_000 if unit == "m" else UNIT_US[unit]) / 1e6
    return {"requests": int(requests), "requests_per_s": int(requests) / span_s, "errors": errors}


def independent(port, host, seconds, rate, h2):
    """Requests that come when they come (Poisson arrivals, open loop): p50 and p99 in microseconds from the write of each.
    Not from the moment at which it was meant to be sent: the sender shares its core with the upstream, and is late by as
    much as that one works; its lateness is not the proxy's. A connection is free for each at these rates."""
    if not os.path.exists(OURS):
        raise Missing(f"{OURS} is not built (cargo build --release)")
    # As many connections as the others have; it opens those that it needs.
    over = ["--http2", "--connections", H2_CONNECTIONS, "--streams", H2_STREAMS] if h2 else ["--connections", CONNECTIONS]
    argv = [OURS, "load", "--rate", rate, "--for", f"{seconds}s", "--threads", 1, "--format", "json", "-H", f"Host: {host}", *over]
    run = json.loads(_run([*argv, f"http://127.0.0.1:{port}/"], seconds, allowed=(0, VOID)))
    return {"requests": run["requests"]["succeeded"], "errors": run["requests"]["failed"],
            "p50_us": run["service_ms"]["p50"] * 1000, "p99_us": run["service_ms"]["p99"] * 1000}


def h2load(port, host, seconds, log=None, rate=None, h1=False):
    """HTTP/2 (or HTTP/1.1) load. With a rate, every connection has a timer, and all begin at once: bursts of as many
    requests as there are connections. With a log, p50 and p99 of all requests, in microseconds."""
    connections, streams = (CONNECTIONS, 1) if h1 else (H2_CONNECTIONS, H2_STREAMS)
    argv = [program("h2load"), "-t1", f"-c{connections}", f"-m{streams}", f"-D{seconds}"]
    argv += ["--h1"] if h1 else []
    argv += [f"--rps={rate / connections:g}"] if rate else []
    if log:
        if os.path.exists(log):
            os.unlink(log)
        argv += [f"--log-file={log}"]
    # The authority comes from the URI; -H would send a second one.
    argv += ["--connect-to", f"127.0.0.1:{port}", f"http://{host}/"]
    out = _run(argv, seconds)
    done, errored, late = re.search(
        r"requests: \d+ total, \d+ started, (\d+) done, .* (\d+) errored, (\d+) timeout", out).groups()
    # A status line without a reason phrase (legal, and what HAProxy writes for HTTP/2) leaves h2load without a status: it
    # calls the request failed, though all came. So what counts is the statuses that it did see.
    refused = sum(map(int, re.search(r"status codes: \d+ 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", out).groups()))
    result = {"requests": int(done), "requests_per_s": int(done) / seconds, "errors": refused + int(errored) + int(late)}
    if log:
        result.update(_percentiles(log))
        os.unlink(log)
    return result


def _percentiles(log):
    with open(log) as f:
        times = sorted(int(line.rsplit("\t", 1)[1]) for line in f if line.count("\t") == 2)
    if not times:
        return {}
    return {"p50_us": times[len(times) // 2], "p99_us": times[min(len(times) - 1, len(times) * 99 // 100)]}


def _run(argv, seconds, allowed=(0,)):
    done = subprocess.run(["taskset", "-c", LOAD_CORE, *map(str, argv)], capture_output=True, text=True,
                          timeout=seconds + 60)
    if done.returncode not in allowed:
        raise RuntimeError(f"{argv[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout
