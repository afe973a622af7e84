"""The peers: their configurations and how they are started. Each as its own documents advise for speed, one worker."""
import json
import os

from .machine import PROXY_CORE, Running, answers_h1, free_ports, listens, program, version

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def _write(plan, name, text):
    path = os.path.join(plan.folder, name)
    with open(path, "w") as f:
        f.write(text)
    return path


def _ready(running, plan, port):
    """First answered request (first accepted connection for HTTP/2), in milliseconds since exec."""
    if plan.scenario.h2:
        return running.wait_for(lambda: listens(port))
    return running.wait_for(lambda: answers_h1(port, plan.target()))


class HAProxy:
    name = "HAProxy"

    def supports(self, scenario):
        return None

    def version(self):
        return version([program("haproxy"), "-v"])

    def start(self, plan, certificates):
        port, hop = free_ports(2)
        conf = _write(plan, "haproxy.cfg", self._configuration(plan, certificates, port, hop))
        running = Running([program("haproxy"), "-db", "-q", "-f", conf], PROXY_CORE, os.path.join(plan.folder, "haproxy.log"))
        return running, port, _ready(running, plan, port)

    def _configuration(self, plan, certificates, port, hop):
        scenario = plan.scenario
        head = """
global
    nbthread 1
    maxconn 4000
    tune.ssl.default-dh-param 2048
defaults
    mode http
    timeout connect 5s
    timeout client 600s
    timeout server 600s
    http-reuse always
    option http-keep-alive
"""
        if scenario.two_hops:
            ca, client, server = certificates["ca"], certificates["client"], certificates["server"]
            return head + f"""
frontend outbound
    bind 127.0.0.1:{port}
    default_backend peer
backend peer
    server peer 127.0.0.1:{hop} ssl crt {client} ca-file {ca} verify required alpn h2
frontend inbound
    bind 127.0.0.1:{hop} ssl crt {server} ca-file {ca} verify required alpn h2
    default_backend app
backend app
    server app 127.0.0.1:{plan.upstream_port}
"""
        proto = " proto h2" if scenario.h2 else ""
        if scenario.services == 1:
            return head + f"""
frontend in
    bind 127.0.0.1:{port}{proto}
    default_backend app
backend app
    server app 127.0.0.1:{plan.upstream_port}{proto}
"""
        _write(plan, "hosts.map", "".join(f"{plan.host(n)} svc-{n}\n" for n in range(scenario.services)))
        text = head + f"""
frontend in
    bind 127.0.0.1:{port}
    use_backend %[req.hdr(host),lower,map({plan.folder}/hosts.map)]
"""
        for n in range(scenario.services):
            text += f"backend svc-{n}\n    balance leastconn\n"
            text += "".join(f"    server e{i} {address}:{plan.upstream_port}\n" for i, address in enumerate(plan.endpoints(n)))
        return text


class Relay(HAProxy):
    """The floor: HAProxy copying bytes, no HTTP."""
    name = "TCP relay (HAProxy)"

    def supports(self, scenario):
        return None if scenario.relay else "a relay does not speak HTTP"

    def _configuration(self, plan, certificates, port, hop):
        return f"""
global
    nbthread 1
    maxconn 4000
defaults
    mode tcp
    timeout connect 5s
    timeout client 600s
    timeout server 600s
listen relay
    bind 127.0.0.1:{port}
    server app 127.0.0.1:{plan.upstream_port}
"""


class Nginx:
    name = "nginx"

    def supports(self, scenario):
        return "no HTTP/2 to upstreams in this version" if scenario.h2 else None

    def version(self):
        return version([program("nginx"), "-v"])

    def start(self, plan, certificates):
        port, hop = free_ports(2)
        conf = _write(plan, "nginx.conf", self._configuration(plan, certificates, port, hop))
        argv = [program("nginx"), "-p", plan.folder, "-e", "stderr", "-c", conf]
        running = Running(argv, PROXY_CORE, os.path.join(plan.folder, "nginx.log"))
        return running, port, _ready(running, plan, port)

    def _configuration(self, plan, certificates, port, hop):
        scenario, folder = plan.scenario, plan.folder
        head = f"""
daemon off; worker_processes 1; worker_rlimit_nofile 16384; error_log stderr error; pid {folder}/nginx.pid;
events {{ worker_connections 8000; }}
http {{
    access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;
    server_names_hash_max_size 8192; server_names_hash_bucket_size 128;
    client_body_temp_path {folder}/n1; proxy_temp_path {folder}/n2; fastcgi_temp_path {folder}/n3;
    uwsgi_temp_path {folder}/n4; scgi_temp_path {folder}/n5;
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
    proxy_buffers 16 8k; proxy_busy_buffers_size 64k; proxy_max_temp_file_size 0;
"""
        keep = "keepalive 128; keepalive_requests 1000000000;"
        if scenario.two_hops:
            c = certificates
            return head + f"""
    upstream app {{ server 127.0.0.1:{plan.upstream_port}; {keep} }}
    upstream peer {{ server 127.0.0.1:{hop}; {keep} }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass https://peer; proxy_ssl_certificate {c["client.crt"]}; proxy_ssl_certificate_key {c["client.key"]};
            proxy_ssl_trusted_certificate {c["ca"]}; proxy_ssl_verify on; proxy_ssl_name localhost;
            proxy_ssl_protocols TLSv1.3; proxy_ssl_session_reuse on;
        }}
    }}
    server {{
        listen 127.0.0.1:{hop} ssl backlog=4096;
        ssl_certificate {c["server.crt"]}; ssl_certificate_key {c["server.key"]}; ssl_client_certificate {c["ca"]};
        ssl_verify_client on; ssl_protocols TLSv1.3;
        location / {{ proxy_pass http://app; }}
    }}
}}
"""
        text = head
        for n in range(scenario.services):
            servers = " ".join(f"server {address}:{plan.upstream_port};" for address in plan.endpoints(n))
            text += f"    upstream svc-{n} {{ least_conn; {servers} {keep} }}\n"
            text += f"    server {{ listen 127.0.0.1:{port}{' backlog=4096' if n == 0 else ''}; server_name {plan.host(n)};"
            text += f" location / {{ proxy_pass http://svc-{n}; }} }}\n"
        return text + "}\n"


class Envoy:
    name = "Envoy"

    def _binary(self):
        return program("envoy", os.environ.get("CELERITY_ENVOY"), os.path.join(ROOT, "target/peers/envoy"))

    def supports(self, scenario):
        return None

    def version(self):
        return version([self._binary(), "--version"]).replace(self._binary(), "envoy")

    def start(self, plan, certificates):
        port, hop, admin = free_ports(3)
        conf = _write(plan, "envoy.json", json.dumps(self._configuration(plan, certificates, port, hop, admin)))
        argv = [self._binary(), "-c", conf, "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
        running = Running(argv, PROXY_CORE, os.path.join(plan.folder, "envoy.log"))
        return running, port, _ready(running, plan, port)

    def _configuration(self, plan, certificates, port, hop, admin):
        scenario = plan.scenario
        if scenario.two_hops:
            listeners = [_listener("outbound", port, [_virtual_host("peer", ["*"])]),
                         _listener("inbound", hop, [_virtual_host("app", ["*"])], tls=_server_tls(certificates))]
            clusters = [_cluster("peer", [("127.0.0.1", hop)], h2=True, tls=_client_tls(certificates)),
                        _cluster("app", [("127.0.0.1", plan.upstream_port)])]
        else:
            names = range(scenario.services)
            hosts = [_virtual_host(f"svc-{n}", [plan.host(n)]) for n in names]
            listeners = [_listener("in", port, hosts, h2=scenario.h2)]
            clusters = [_cluster(f"svc-{n}", [(a, plan.upstream_port) for a in plan.endpoints(n)], h2=scenario.h2) for n in names]
        return {"admin": {"address": _address("127.0.0.1", admin)},
                "static_resources": {"listeners": listeners, "clusters": clusters}}


TYPE = "type.googleapis.com/envoy.extensions."
LIMITS = {"max_connections": 100000, "max_pending_requests": 100000, "max_requests": 100000}


def _address(host, port):
    return {"socket_address": {"address": host, "port_value": port}}


def _virtual_host(cluster, domains):
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s"}}
    return {"name": cluster, "domains": domains, "routes": [route]}


def _listener(name, port, hosts, h2=False, tls=None):
    manager = {
        "@type": TYPE + "filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name, "codec_type": "HTTP2" if h2 or tls else "HTTP1",
        "route_config": {"name": name, "virtual_hosts": hosts},
        "http_filters": [{"name": "envoy.filters.http.router",
                          "typed_config": {"@type": TYPE + "filters.http.router.v3.Router"}}],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    if tls:
        chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    return {"name": name, "address": _address("127.0.0.1", port), "filter_chains": [chain]}


def _cluster(name, endpoints, h2=False, tls=None):
    hosts = [{"endpoint": {"address": _address(*endpoint)}} for endpoint in endpoints]
    cluster = {"name": name, "type": "STATIC", "connect_timeout": "5s", "lb_policy": "LEAST_REQUEST",
               "circuit_breakers": {"thresholds": [LIMITS]},
               "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": hosts}]}}
    if h2:
        cluster["typed_extension_protocol_options"] = {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": TYPE + "upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}}
    if tls:
        cluster["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
    return cluster


def _tls_common(certificates, name):
    return {"alpn_protocols": ["h2"], "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{"certificate_chain": {"filename": certificates[f"{name}.crt"]},
                                  "private_key": {"filename": certificates[f"{name}.key"]}}],
            "validation_context": {"trusted_ca": {"filename": certificates["ca"]}}}


def _client_tls(certificates):
    return {"@type": TYPE + "transport_sockets.tls.v3.UpstreamTlsContext", "sni": "localhost",
            "common_tls_context": _tls_common(certificates, "client")}


def _server_tls(certificates):
    return {"@type": TYPE + "transport_sockets.tls.v3.DownstreamTlsContext", "require_client_certificate": True,
            "common_tls_context": _tls_common(certificates, "server")}
