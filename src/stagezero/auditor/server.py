"""Runs an auditor as a service, over TLS where it can be reached from elsewhere."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import uvicorn

from stagezero.auditor.auditor import Auditor
from stagezero.auditor.http_api import application
from stagezero.auditor.process_guard import shut
from stagezero.auditor.storage import Storage
from stagezero.door.client import LOOPBACK
from stagezero.door.messages import Separation
from stagezero.errors import DoorError, InputError


def serve(
    folder: Path,
    host: str,
    port: int,
    certfile: Path | None,
    keyfile: Path | None,
    folders: bool,
    separation: Separation,
    tell: Callable[[str], None],
) -> None:
    """Serve until stopped.

    Raises:
        InputError: tokens would travel in the clear, or the certificate cannot be used.
        DoorError: there is no auditor, or the address is taken.
    """
    if certfile is None and host not in LOOPBACK:
        raise InputError(
            "--certfile: expected a TLS certificate, since tokens would travel in the clear; name one, or listen on 127.0.0.1."
        )
    if certfile is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certfile, keyfile)
        except (OSError, ssl.SSLError) as error:
            raise InputError(f"--certfile: {certfile}: expected a certificate and its key in PEM ({error}); check the paths.") from None
    logging.basicConfig(level=logging.WARNING)
    shut()
    held = Storage(folder)
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        held.close()
        raise DoorError(f"--host, --port: {host}:{port} cannot be listened on ({error.strerror}); choose another.") from None
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else every reply waits 40 ms for an acknowledgement
    with listener, Auditor(held, separation, takes_folders=folders) as auditor:
        scheme = "https" if certfile is not None else "http"
        tell(
            f"auditor {held.public_key.text()} serves {', '.join(held.served()) or 'no suite yet'} at {scheme}://{host}:{listener.getsockname()[1]}"
        )
        config = uvicorn.Config(
            application(auditor), log_level="warning", access_log=False, ssl_certfile=certfile, ssl_keyfile=keyfile, server_header=False
        )
        uvicorn.Server(config).run(sockets=[listener])
