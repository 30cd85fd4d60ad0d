"""``python -m stagezero.auditor --folder DIR``: terms on the first line of standard input, address and token on
standard output, then it serves until standard input closes."""

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

from stagezero.door.messages import Terms
from stagezero.errors import StagezeroError


def main() -> int:
    parser = argparse.ArgumentParser(prog="stagezero.auditor")
    parser.add_argument("--folder", type=Path, required=True)
    folder = parser.parse_args().folder
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    terms = Terms.model_validate_json(sys.stdin.readline())

    from stagezero.auditor.service import Auditor, application
    from stagezero.models.loader import settle_libraries

    settle_libraries()
    try:
        auditor = Auditor(folder, terms)
    except StagezeroError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 2
    token = secrets.token_urlsafe(32)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(application(auditor, token), log_level="warning", access_log=False))

    def end_with_the_lab() -> None:
        sys.stdin.read()
        # Whatever was charged is on disk; an audit cut off here is finished on the next request.
        os._exit(0)

    threading.Thread(target=end_with_the_lab, daemon=True).start()
    print(json.dumps({"address": f"http://127.0.0.1:{listener.getsockname()[1]}", "token": token}), flush=True)
    server.run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
