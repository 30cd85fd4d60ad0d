"""Where an untrusted program makes a model: base, human data, idea and seed go in, one set of tensors comes out.

Each module imports only those above it:

    confinement.py  the types: what is asked, within which limits, and what comes back
    harden.py       restricts its own process (seccomp, Landlock, resource limits) and becomes a command; imports nothing of the package
    runner.py       the program inside a sandbox: runs the code or command and sends its weights; imports nothing of the package
    visible.py      the paths and environment variables that every kind of sandbox shows
    commands.py     the parts of command lines that sandboxes and the lab's box share
    supervisor.py   runs a sandboxed program, enforces its limits and receives its weights
    bubblewrap.py   the sandbox: mount, process and network namespaces around one program
    unconfined.py   a program with the user's own rights, in a folder of its own
    landlock.py     the weaker sandbox, which a project must ask for by name
    broker.py       makes sandboxes for a lab that is itself in a box, where none can be made
    run.py          chooses among them
    lab_box.py      the box around the lab

Programs see read-only system folders, the Python environment without stagezero, its facts or any model's weights that lie there, and their
inputs under ``/in``. They have no network, an environment of a few variables, a /tmp of bounded size, and leave nothing behind but the
weights they send.
"""

from stagezero.isolation.confinement import Confinement, Kind, Limits, Ran, Task
from stagezero.isolation.run import confine, why_not

__all__ = ["Confinement", "Kind", "Limits", "Ran", "Task", "confine", "why_not"]
