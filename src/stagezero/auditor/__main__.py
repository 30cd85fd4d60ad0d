"""Runs an auditor for the process that started it: ``python -m stagezero.auditor --folder DIR``.

It prints one line of JSON to stdout, either its endpoint (address, token, separation) or an error,
and serves until its stdin closes. ``door.auditor_process`` starts it.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import socket
import sys
import threading
from pathlib import Path

import uvicorn

from stagezero.auditor.separation import protect_process
from stagezero.door.messages import SEPARATIONS
from stagezero.errors import StagezeroError

LAB_ACCOUNT = "lab"


def main() -> int:
    """Start the auditor, print its endpoint, serve until stdin closes; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="stagezero.auditor",
        description="Serve an auditor on this machine until standard input closes.",
        epilog="Example: python -m stagezero.auditor --folder auditor",
    )
    parser.add_argument("--folder", type=Path, required=True, help="the auditor folder; created on first use")
    parser.add_argument("--separation", choices=SEPARATIONS, default="colocated", help="the separation from the lab")
    parser.add_argument("--sealed", help="the only sealed file that a boxed lab may name")
    options = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    protect_process()

    from stagezero.auditor.auditor import Auditor
    from stagezero.auditor.http_api import application, new_token, token_hash
    from stagezero.auditor.storage import MIN_SLOT_SECONDS, SETTINGS_FILE, Storage

    try:
        folder = options.folder
        exists = (folder / SETTINGS_FILE).is_file()
        storage = Storage(folder) if exists else Storage.create(folder, f"embedded-{secrets.token_hex(4)}", MIN_SLOT_SECONDS)
        allowed = None if options.separation == "colocated" else [options.sealed]
        auditor = Auditor(storage, options.separation, allowed_sealed_files=allowed)
    except (StagezeroError, OSError) as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 2
    token = new_token()
    storage.meter.set_token(LAB_ACCOUNT, token_hash(token))
    listener = socket.create_server(("127.0.0.1", 0))
    # Without TCP_NODELAY every reply waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = uvicorn.Server(uvicorn.Config(application(auditor, embedded=True), log_level="warning", access_log=False))

    def exit_when_stdin_closes() -> None:
        sys.stdin.read()
        # Every charge is on disk. An interrupted audit is repeated when the auditor is next opened.
        auditor.examiner.stop()
        os._exit(0)

    threading.Thread(target=exit_when_stdin_closes, daemon=True).start()
    endpoint = {"address": f"http://127.0.0.1:{listener.getsockname()[1]}", "token": token, "separation": options.separation}
    print(json.dumps(endpoint), flush=True)
    server.run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
