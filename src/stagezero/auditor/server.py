"""Serves an auditor over HTTP; TLS is required on any address except loopback.

``stagezero audit serve`` calls it.
"""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import uvicorn

from stagezero.auditor.auditor import Auditor
from stagezero.auditor.http_api import application
from stagezero.auditor.separation import protect_process
from stagezero.auditor.storage import Storage
from stagezero.door.client import LOOPBACK_HOSTS
from stagezero.door.messages import Separation
from stagezero.errors import DoorError, InputError

SHUTDOWN_SECONDS = 10
"""How long a stopped server waits for its clients, which may hold idle connections open."""


def serve(
    folder: Path,
    host: str,
    port: int,
    certfile: Path | None,
    keyfile: Path | None,
    takes_folders: bool,
    separation: Separation,
    report: Callable[[str], None],
) -> None:
    """Serve an auditor until the process is stopped.

    Args:
        folder: the auditor folder.
        host: the address to listen on.
        port: the port to listen on; 0 takes a free one.
        certfile: the TLS certificate (PEM); None serves plain HTTP on loopback.
        keyfile: the certificate's private key (PEM).
        takes_folders: copy models from folders on this machine; otherwise labs upload them.
        separation: the separation from the labs, as the operator states it.
        report: receives one line with the auditor's key, suites and address.

    Raises:
        InputError: tokens would be sent unencrypted, or the certificate cannot be used.
        DoorError: there is no auditor in the folder, or the address is in use.
    """
    if certfile is None and host not in LOOPBACK_HOSTS:
        raise InputError(
            "--certfile: expected a TLS certificate, since tokens would be sent unencrypted; name one, or listen on 127.0.0.1."
        )
    if certfile is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certfile, keyfile)
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"--certfile: {certfile}: expected a certificate and its key in PEM ({error}); check the paths.") from None
    logging.basicConfig(level=logging.WARNING)
    protect_process()
    storage = Storage(folder)
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError) as error:  # a name of a host that is too long is a UnicodeError
        storage.close()
        reason = error.strerror if isinstance(error, OSError) else "not the name of a host"
        raise DoorError(f"--host, --port: cannot listen on {host}:{port} ({reason}); choose another.") from None
    # Without TCP_NODELAY every reply waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with listener, Auditor(storage, separation, takes_folders=takes_folders) as auditor:
        scheme = "https" if certfile is not None else "http"
        suites = ", ".join(storage.served_suites()) or "no suite yet"
        report(f"auditor {storage.public_key.text()} serves {suites} at {scheme}://{host}:{listener.getsockname()[1]}")
        config = uvicorn.Config(
            application(auditor), log_level="warning", access_log=False, ssl_certfile=certfile, ssl_keyfile=keyfile, server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )  # fmt: skip
        uvicorn.Server(config).run(sockets=[listener])
