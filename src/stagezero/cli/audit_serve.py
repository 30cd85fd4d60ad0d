"""``stagezero audit token | serve | unit``: let labs in, and serve them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from stagezero.auditor import server, systemd
from stagezero.auditor.http_api import new_token, token_hash
from stagezero.auditor.storage import Records
from stagezero.cli._output import output
from stagezero.cli.audit import KEEP


def token(account: str, /, *, keep: Path = KEEP) -> None:
    """Let a lab in: prints a new token for it, once. The one it had before is void.

    Parameters
    ----------
    account
        The lab's name.
    keep
        The auditor's folder.
    """
    with Records(keep) as held:
        given = new_token()
        held.meter.set_token(account, token_hash(given))
    print(given)


def serve(
    keep: Path = KEEP,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8443,
    certfile: Path | None = None,
    keyfile: Path | None = None,
    folders: bool = False,
    separation: Literal["colocated", "separate user", "separate host"] = "colocated",
) -> None:
    """Serve until stopped. What was charged and not answered is audited when it is next started.

    Parameters
    ----------
    keep
        The auditor's folder.
    host
        Address to listen on.
    port
        Port to listen on; 0 takes a free one.
    certfile
        TLS certificate (PEM); needed on any address but this machine's own.
    keyfile
        Its private key.
    folders
        Take models from folders on this machine instead of uploads.
    separation
        How far the labs are from here; certificates print it. It is checked as far as it can be from here.
    """
    server.serve(keep, host, port, certfile, keyfile, folders, separation, output().print)


def unit(
    keep: Path = KEEP,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8443,
    certfile: Path | None = None,
    keyfile: Path | None = None,
    folders: bool = False,
    gpu: bool = False,
) -> None:
    """Print a systemd unit that serves as a user of its own, hardened; its first lines say what root does with it, once.

    Parameters
    ----------
    keep
        The auditor's folder; best under /var/lib/stagezero-auditor.
    host
        Address to listen on.
    port
        Port to listen on.
    certfile
        TLS certificate (PEM); needed on any address but this machine's own.
    keyfile
        Its private key.
    folders
        Take models from folders on this machine instead of uploads; that user must be able to read them.
    gpu
        Let it see the machine's devices.
    """
    more = ["--host", host, "--port", str(port)]
    for name, path in (("--certfile", certfile), ("--keyfile", keyfile)):
        more += [name, str(path.resolve())] if path is not None else []
    print(systemd.unit(keep, [*more, *(["--folders"] if folders else [])], gpu), end="")
