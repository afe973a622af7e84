"""Celerity: its configuration is Istio YAML, with all on that a mesh does."""
import json
import os
import subprocess
import urllib.request

from .machine import PROXY_CORE, Missing, Running, free_ports, version
from .peers import ROOT, _ready, _write

IDENTITY = "bench"


class Celerity:
    name = "Celerity"
    binary = os.path.join(ROOT, "target/release/celerity")
    # Options of `celerity proxy` beside those that every run has.
    extra = ()
    # What runs the binary: nothing, or callgrind.
    wrapper = ()

    def supports(self, scenario):
        return None

    def version(self):
        if not os.path.exists(self.binary):
            raise Missing(f"{self.binary} is not built")
        return version([self.binary, "--version"])

    def start(self, plan, certificates):
        outbound, inbound, admin = free_ports(3)
        self.version()
        config = os.path.join(plan.folder, "celerity")
        os.makedirs(config, exist_ok=True)
        _write(plan, "celerity/mesh.yaml", documents(plan, inbound))
        argv = [*self.wrapper, self.binary, "proxy", "--config", config, "--workers", "1", "--outbound", f"127.0.0.1:{outbound}",
                "--admin", f"127.0.0.1:{admin}", "--prometheus", "off", "--health", "off", "--log-level", "warn", *self.extra]
        if plan.scenario.two_hops:
            identity = self._identity(plan)
            argv += ["--inbound", f"127.0.0.1:{inbound}", "--identity", identity, "--labels", "app=svc-0,version=v1",
                     "--workload", IDENTITY]
        else:
            argv += ["--inbound", "off"]
        running = Running(argv, PROXY_CORE, os.path.join(plan.folder, "celerity.log"))
        running.figures = lambda: unattributed(admin)
        return running, outbound, _ready(running, plan, outbound)

    def _identity(self, plan):
        folder = os.path.join(plan.folder, "ca")
        subprocess.run([self.binary, "ca", "init", "--dir", folder], check=True, capture_output=True)
        out = os.path.join(plan.folder, "identity")
        subprocess.run([self.binary, "ca", "issue", "--dir", folder, "--out", out, "--service-account", IDENTITY],
                       check=True, capture_output=True)
        return out


class WithoutLedger(Celerity):
    """The same binary with its account of each request's time switched off: the difference is what the ledger costs."""
    name = "Celerity, ledger off"
    extra = ("--ledger", "off")


def unattributed(admin):
    """The share of all requests' time that the ledger has no name for, of the worse side."""
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/ledger?format=json", timeout=10) as answer:
        reports = [r for r in json.load(answer) if r["requests"]]
    if not reports:
        return {}
    return {"unattributed": max(r["unattributed_share"] for r in reports)}


def documents(plan, inbound):
    """A Service, its EndpointSlice, a DestinationRule with outlier detection and a VirtualService with retries for each."""
    scenario = plan.scenario
    port = "http2" if scenario.h2 else "http"
    if scenario.two_hops:
        return two_hops(plan, inbound)
    parts = []
    for n in range(scenario.services):
        name = f"svc-{n}"
        endpoints = "".join(f"- addresses: [{address}]\n  conditions: {{ready: true}}\n" for address in plan.endpoints(n))
        parts.append(f"""apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  selector: {{app: {name}}}
  ports: [{{name: {port}, port: 80, targetPort: {plan.upstream_port}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: default, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: {port}, port: {plan.upstream_port}}}]
endpoints:
{endpoints}---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: default}}
spec:
  host: {name}
  trafficPolicy:
    tls: {{mode: DISABLE}}
    outlierDetection: {{consecutive5xxErrors: 5, interval: 10s, baseEjectionTime: 30s}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: default}}
spec:
  hosts: [{name}]
  http:
  - route: [{{destination: {{host: {name}}}}}]
    retries: {{attempts: 2, perTryTimeout: 10s, retryOn: "connect-failure,refused-stream,503"}}
""")
    return "---\n".join(parts)


def two_hops(plan, inbound):
    """The service's one workload is this very process: callers connect to its inbound port, where mutual TLS is STRICT."""
    return f"""apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: svc-0, namespace: default}}
spec:
  hosts: [{plan.host(0)}]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{name: http, number: 80, protocol: HTTP, targetPort: {plan.upstream_port}}}]
  workloadSelector: {{labels: {{app: svc-0}}}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: svc-0-1, namespace: default}}
spec:
  address: 127.0.0.1
  ports: {{http: {inbound}}}
  labels: {{app: svc-0, version: v1, security.istio.io/tlsMode: istio}}
  serviceAccount: {IDENTITY}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: default}}
spec: {{mtls: {{mode: STRICT}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: svc-0, namespace: default}}
spec:
  host: {plan.host(0)}
  trafficPolicy:
    tls: {{mode: ISTIO_MUTUAL}}
    connectionPool: {{http: {{h2UpgradePolicy: UPGRADE}}}}
    outlierDetection: {{consecutive5xxErrors: 5, interval: 10s, baseEjectionTime: 30s}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: svc-0, namespace: default}}
spec:
  hosts: [{plan.host(0)}]
  http:
  - route: [{{destination: {{host: {plan.host(0)}}}}}]
    retries: {{attempts: 2, perTryTimeout: 10s, retryOn: "connect-failure,refused-stream,503"}}
"""
