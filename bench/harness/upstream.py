"""The service behind every proxy: nginx with one worker on the load's core, answering from memory."""
import os

from .machine import LOAD_CORE, Running, answers_h1, free_ports, listens, program


def start(scenario, folder):
    port, probe = free_ports(2)
    nginx = program("nginx")
    body = os.path.join(folder, "www")
    os.makedirs(body, exist_ok=True)
    with open(os.path.join(body, "index.html"), "w") as f:
        f.write("x" * scenario.body_bytes)
    conf = os.path.join(folder, "upstream.conf")
    with open(conf, "w") as f:
        f.write(f"""
daemon off; worker_processes 1; error_log stderr error; pid {folder}/upstream.pid;
events {{ worker_connections 8192; }}
http {{
    access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; sendfile on; tcp_nopush on;
    open_file_cache max=16 inactive=600s; http2_max_requests 1000000000; http2_max_concurrent_streams 256;
    client_body_temp_path {folder}/u1; proxy_temp_path {folder}/u2; fastcgi_temp_path {folder}/u3;
    uwsgi_temp_path {folder}/u4; scgi_temp_path {folder}/u5;
    server {{ listen 0.0.0.0:{port} {"http2" if scenario.h2 else ""} backlog=4096; root {body}; }}
    server {{ listen 127.0.0.1:{probe}; root {body}; }}
}}
""")
    running = Running([nginx, "-p", folder, "-e", "stderr", "-c", conf], LOAD_CORE, os.path.join(folder, "upstream.log"))
    running.wait_for(lambda: listens(port) and answers_h1(probe, "localhost"))
    return running, port
