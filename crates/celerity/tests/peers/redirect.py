"""Redirected connections, in a network namespace of their own: run as root, as

    unshare --net python3 redirect.py CELERITY CONFIG_DIR

Connections from 127.0.0.9 to any port but the sidecar's are redirected to it by iptables, as in a pod of Istio. Exits 0
when all went well, 77 when this machine cannot redirect.
"""
import http.server
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request

OUTBOUND, ADMIN, WEB, ECHO = 15001, 15000, 7001, 7002
PATIENCE_S = 20


class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = f"web {self.headers['Host']} {self.path}".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while piece := self.request.recv(65536):
            self.request.sendall(piece)
        self.request.sendall(b" and that was all")


def must(*command):
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode != 0:
        print("cannot redirect:", " ".join(command))
        sys.exit(77)


def ask(port, host, source="127.0.0.9"):
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S, source_address=(source, 0)) as client:
        client.sendall(f"GET /x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: client.recv(65536), b"")).decode()


def main(celerity, config):
    must("ip", "link", "set", "lo", "up")
    must("iptables", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-s", "127.0.0.9", "!", "--dport", str(OUTBOUND),
         "-j", "REDIRECT", "--to-ports", str(OUTBOUND))
    web = http.server.ThreadingHTTPServer(("127.0.0.1", WEB), Web)
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    echo = socketserver.ThreadingTCPServer(("127.0.0.1", ECHO), Echo)
    for server in (web, echo):
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def sidecar(*more):
        command = [celerity, "proxy", "--config", config, "--inbound", "off", "--prometheus", "off", "--health", "off"]
        process = subprocess.Popen(command + ["--workers", "1", *more])
        deadline = time.monotonic() + PATIENCE_S
        while True:
            assert process.poll() is None and time.monotonic() < deadline, "the sidecar is not ready"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN}/ready", timeout=1):
                    return process
            except OSError:
                time.sleep(0.05)

    process = sidecar()
    try:
        # A host and port of the mesh go to their service.
        assert "web known /x" in ask(80, "known"), ask(80, "known")
        # Any other goes where it was meant to go.
        assert "web elsewhere.example /x" in ask(WEB, "elsewhere.example"), ask(WEB, "elsewhere.example")
        nobody = ask(9998, "elsewhere.example")
        assert nobody.startswith("HTTP/1.1 503 "), nobody
        # Without a redirection there is no other place.
        direct = ask(OUTBOUND, "elsewhere.example", "127.0.0.1")
        assert direct.startswith("HTTP/1.1 503 ") and "no healthy upstream" in direct, direct
        # What is no HTTP is passed on as it is, each side ending on its own.
        with socket.create_connection(("127.0.0.1", ECHO), PATIENCE_S, source_address=("127.0.0.9", 0)) as client:
            client.sendall(b"\x16\x03\x01 no request")
            client.shutdown(socket.SHUT_WR)
            heard = b"".join(iter(lambda: client.recv(65536), b""))
            assert heard == b"\x16\x03\x01 no request and that was all", heard
        with urllib.request.urlopen(f"http://127.0.0.1:{ADMIN}/stats/prometheus") as page:
            metrics = page.read().decode()
        assert 'envoy_cluster_upstream_rq_total{cluster_name="PassthroughCluster"} ' in metrics, metrics
    finally:
        process.terminate()
        process.wait(PATIENCE_S)

    process = sidecar("--outbound-traffic-policy", "REGISTRY_ONLY")
    try:
        assert "web known /x" in ask(80, "known")
        refused = ask(WEB, "elsewhere.example")
        assert refused.startswith("HTTP/1.1 502 "), refused
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
    print("redirect ok")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
