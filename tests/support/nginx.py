"""A separate nginx on a free port of loopback, for tests and benchmarks."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from pathlib import Path

from ports import free_port

COMMAND = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
WHY_NOT = "there is no nginx on this machine (Debian's package nginx-light has it)"

_CONFIG = """
{user}
worker_processes 1;
daemon off;
pid "{home}/pid";
error_log "{home}/error.log" warn;
worker_shutdown_timeout 1s;
events {{ worker_connections 512; }}
http {{
    log_format seen escape=json '{{"uri": "$request_uri", "status": $status,'
        ' "range": "$http_range", "if_match": "$http_if_match", "cookie": "$http_cookie",'
        ' "authorization": "$http_authorization", "connection": $connection,'
        ' "sent": $body_bytes_sent}}';
    access_log {access_log};
    types {{ application/json json; text/html html; }}
    sendfile on;
    tcp_nopush on;
    client_body_temp_path "{home}/body";
    proxy_temp_path "{home}/proxy";
    fastcgi_temp_path "{home}/fastcgi";
    uwsgi_temp_path "{home}/uwsgi";
    scgi_temp_path "{home}/scgi";
    {http}
    server {{
        listen 127.0.0.1:{port};
        {tls}
        root "{folder}";
        location = /{nonce} {{ access_log off; return 204; }}
        {server}
    }}
}}
"""

_TLS = """
        listen 127.0.0.1:{port} ssl;
        ssl_certificate "{certificate}";
        ssl_certificate_key "{certificate}";
"""


class Nginx:
    """Serves a folder; a context manager."""

    def __init__(self, home, folder, *, server="", http="", log=True, certificate=None):
        """Prepare a server for the files of `folder`; `home` is the folder for its own files.

        `server` and `http` are additional lines for these blocks of its configuration. With
        `certificate`, a PEM file with a certificate and its key, the server has a second port for
        TLS.
        """
        self.home = Path(home)
        self.folder = Path(folder)
        self.port = self.tls_port = 0
        self._certificate = certificate
        self._server, self._http, self._log = server, http, log
        self._stderr = self.home / "stderr"
        self._process = None

    def __enter__(self):
        for _ in range(5):
            self.port, self.tls_port = free_port(), free_port()
            if self.start():
                return self
        raise RuntimeError(self._stderr.read_text())

    def __exit__(self, *_):
        self.stop()

    def start(self):
        """Start the server; return False if its port is already in use."""
        nonce = uuid.uuid4().hex
        tls = _TLS.format(port=self.tls_port, certificate=self._certificate)
        config = _CONFIG.format(
            # Otherwise, the workers of nginx would run as a user who may not read the folders of
            # tests.
            user="user root;" if os.geteuid() == 0 else "",
            home=self.home,
            access_log=f'"{self.home}/access.log" seen' if self._log else "off",
            folder=self.folder,
            port=self.port,
            tls=tls if self._certificate else "",
            nonce=nonce,
            server=self._server,
            http=self._http,
        )
        file = self.home / "nginx.conf"
        file.write_text(config)
        with self._stderr.open("w") as stderr:
            command = [COMMAND, "-p", self.home, "-c", file]
            self._process = subprocess.Popen(command, stderr=stderr)
        until = time.monotonic() + 20
        while self._process.poll() is None and time.monotonic() < until:
            if self._answers(nonce):
                return True
            time.sleep(0.01)
        self.stop()
        return False

    def stop(self, *, abort=False):
        """Stop the server; with `abort`, also break its connections. Then the log is complete."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM if abort else signal.SIGQUIT)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def url(self, path, *, tls=False):
        """Return the URL of a path that begins with a slash."""
        scheme, port = ("https", self.tls_port) if tls else ("http", self.port)
        return f"{scheme}://127.0.0.1:{port}{path}"

    def requests(self):
        """Stop the server; return the log entry of each request, in the order of their ends."""
        self.stop()
        lines = (self.home / "access.log").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def _answers(self, nonce):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", f"/{nonce}")
            return connection.getresponse().status == http.client.NO_CONTENT
        except OSError:
            return False
        finally:
            connection.close()
