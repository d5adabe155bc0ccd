"""The peers, each with the fastest settings of those tried on two cores, of which wrk takes most of one.

- bjoern: one process; it has nothing to set, and a second process on the same port made it slower.
- granian: one worker, which was faster than two; HTTP/1 alone, no websockets, no log; single-threaded runtime; WSGI
  with one blocking thread (two contend for the interpreter's lock), ASGI on uvloop.
- gunicorn: two workers, one a core, nearly twice as fast as one. The sync worker closes every connection, since it has
  no keep-alive: that is its nature. gthread has four threads a worker.
- nginx answers a constant of the same length from its configuration. It is no peer but the ceiling: what this machine,
  this kernel and this load generator allow a server that does nothing.

So bjoern, granian and `faas-1` run one interpreter each, and their figures compare like with like.
"""

import json
import shutil

from process import Process, free_port
from target import ANSWER, KEY, Target

NAMES = ["bjoern", "granian-wsgi", "granian-asgi", "gunicorn-sync", "gunicorn-gthread", "nginx-static"]
BASELINE = "bjoern"


def start(name, venv, benches_dir, work_dir):
    """Start one peer and return its target. `venv` is where `machine.ensure_venv` installed them."""
    port = free_port()
    if name == "nginx-static":
        command = _nginx(port, work_dir)
    else:
        command = _python_peer(name, port, venv / "bin")
    process = Process(name, command, work_dir / f"{name}.log", cwd=benches_dir)
    try:
        process.wait_until_listening(port)
    except BaseException:
        process.stop()
        raise
    return Target(name, process, port)


def _python_peer(name, port, bin_dir):
    granian = [bin_dir / "granian", "--host", "127.0.0.1", "--port", port, "--workers", 1, "--http", 1, "--no-ws"]
    granian += ["--no-log", "--no-access-log", "--runtime-threads", 1, "--runtime-mode", "st"]
    gunicorn = [bin_dir / "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", 2, "--log-level", "warning"]
    return {
        "bjoern": [bin_dir / "python", "peer_apps.py", port],
        "granian-wsgi": granian + ["--interface", "wsgi", "--blocking-threads", 1, "peer_apps:wsgi"],
        "granian-asgi": granian + ["--interface", "asgi", "--loop", "uvloop", "peer_apps:asgi"],
        "gunicorn-sync": gunicorn + ["--worker-class", "sync", "peer_apps:wsgi"],
        "gunicorn-gthread": gunicorn + ["--worker-class", "gthread", "--threads", 4, "peer_apps:wsgi"],
    }[name]


def _nginx(port, work_dir):
    config = work_dir / "nginx.conf"
    config.write_text(
        f"""
daemon off;
worker_processes 1;
pid {work_dir}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    default_type application/json;
    keepalive_requests 1000000000;
    client_body_temp_path {work_dir}/nginx-body;
    proxy_temp_path {work_dir}/nginx-proxy;
    fastcgi_temp_path {work_dir}/nginx-fastcgi;
    uwsgi_temp_path {work_dir}/nginx-uwsgi;
    scgi_temp_path {work_dir}/nginx-scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            if ($http_authorization != "Bearer {KEY}") {{ return 401; }}
            return 200 '{json.dumps(ANSWER)}';
        }}
    }}
}}
"""
    )
    # Debian puts nginx where an unprivileged user's PATH does not look.
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    return [nginx, "-c", config, "-p", work_dir, "-e", "stderr"]
