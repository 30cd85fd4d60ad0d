"""``stagezero audit token | serve | unit``: gives labs access to an auditor and serves them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from stagezero.auditor import server, systemd
from stagezero.auditor.http_api import new_token, token_hash
from stagezero.auditor.setup import check_name
from stagezero.auditor.storage import Records
from stagezero.cli._limits import MAX_PORT, check_number
from stagezero.cli._output import stdout_console
from stagezero.cli.audit import DEFAULT_FOLDER


def token(account: str, /, *, folder: Path = DEFAULT_FOLDER) -> None:
    """Create and print a token for a lab.

    The token is printed once; the auditor stores only its hash. An earlier token of the same lab
    becomes invalid.

    Example: `stagezero audit token some-lab --folder /srv/auditor`

    Parameters
    ----------
    account
        The lab's name.
    folder
        The auditor's folder.
    """
    check_name("ACCOUNT", account)
    with Records(folder) as records:
        created = new_token()
        records.meter.set_token(account, token_hash(created))
    print(created)


def serve(
    folder: Path = DEFAULT_FOLDER,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8443,
    certfile: Path | None = None,
    keyfile: Path | None = None,
    folders: bool = False,
    separation: Literal["colocated", "separate user", "separate host"] = "colocated",
) -> None:
    """Serve the auditor over HTTP until it is stopped.

    On the next start, the auditor audits every submission that was charged and not yet answered.

    Example: `stagezero audit serve /srv/auditor --port 8443`

    Parameters
    ----------
    folder
        The auditor's folder.
    host
        Address to listen on.
    port
        Port to listen on; 0 chooses a free one.
    certfile
        TLS certificate (PEM). Required on every address except the loopback ones.
    keyfile
        Private key of the certificate (PEM).
    folders
        Take models from folders on this machine instead of uploads.
    separation
        Separation between this auditor and the labs, which certificates state. It is verified as
        far as this process can.
    """
    check_number("--port", port, 0, MAX_PORT)
    server.serve(folder, host, port, certfile, keyfile, folders, separation, stdout_console().print)


def unit(
    folder: Path = DEFAULT_FOLDER,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8443,
    certfile: Path | None = None,
    keyfile: Path | None = None,
    folders: bool = False,
    gpu: bool = False,
) -> None:
    """Print a hardened systemd unit that serves the auditor as a separate user.

    The first lines of the unit list the commands with which root installs it, once.

    Example: `stagezero audit unit /var/lib/stagezero-auditor/auditor --port 8443`

    Parameters
    ----------
    folder
        The auditor's folder, preferably under /var/lib/stagezero-auditor.
    host
        Address to listen on.
    port
        Port to listen on.
    certfile
        TLS certificate (PEM). Required on every address except the loopback ones.
    keyfile
        Private key of the certificate (PEM).
    folders
        Take models from folders on this machine instead of uploads. The auditor's user must be able
        to read them.
    gpu
        Give the auditor access to the machine's devices.
    """
    check_number("--port", port, 0, MAX_PORT)
    arguments = ["--host", host, "--port", str(port)]
    for name, path in (("--certfile", certfile), ("--keyfile", keyfile)):
        arguments += [name, str(path.resolve())] if path is not None else []
    print(systemd.render_unit(folder, [*arguments, *(["--folders"] if folders else [])], gpu), end="")
