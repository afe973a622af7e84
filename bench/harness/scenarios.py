"""What is measured. Each proxy turns a Plan into its own configuration."""
from dataclasses import dataclass, field

SERVICES_MANY = 1000
ENDPOINTS_EACH = 10


@dataclass
class Scenario:
    key: str
    title: str
    body_bytes: int = 1024
    two_hops: bool = False
    h2: bool = False
    services: int = 1
    # Requests a second for the latency figures: below what the slowest proxy carries on one core here.
    rate: int = 5000
    relay: bool = False


SCENARIOS = [
    Scenario("a", "one hop, plain HTTP/1.1, 1 KB, 64 connections", relay=True),
    Scenario("b", "two hops, mutual TLS between them, both hops in one process", two_hops=True, rate=3000),
    Scenario("c", "HTTP/2 in and out (cleartext), 8 connections of 8 streams", h2=True),
    Scenario("d", "64 KiB bodies, HTTP/1.1, 64 connections", body_bytes=65536, rate=2000, relay=True),
    Scenario("e", f"{SERVICES_MANY} services of {ENDPOINTS_EACH} endpoints; then as (a)", services=SERVICES_MANY),
]


@dataclass
class Plan:
    """One proxy's share of a scenario: where it listens, and where it sends."""
    scenario: Scenario
    folder: str
    upstream_port: int
    ports: dict = field(default_factory=dict)

    def host(self, number):
        return f"svc-{number}.default.svc.cluster.local"

    def target(self):
        """The service that is loaded: one from the middle, so that a linear search would show."""
        return self.host(self.scenario.services // 2)

    def endpoints(self, number):
        """Addresses of a service; the upstream listens on all of 127.0.0.0/8."""
        if self.scenario.services == 1:
            return ["127.0.0.1"]
        return [f"127.{1 + number // 250}.{number % 250}.{1 + e}" for e in range(ENDPOINTS_EACH)]
