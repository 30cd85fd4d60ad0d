"""Where a program that nobody vouches for makes a model: base, human data, idea and seed go in, one set of tensors comes out.

    confined.py   what is asked and what comes back; chooses how
    shut.py       a box of bubblewrap's around one program
    landlocked.py the weaker way, which a project must ask for by name
    watch.py      runs it, counts its memory, processes and time, and takes what it sends
    broker.py     makes the sandbox for a lab that is itself in a box, where none can be made
    runner.py     the program inside; it imports nothing of the package

The programs see read-only system folders and the Python environment, without stagezero itself, its facts or any model's weights that lie
there, and the inputs under ``/in``. They have no network, an environment of a few variables, a /tmp of bounded size, and no way to leave
anything behind but what they send.
"""

from stagezero.isolation.confinement import Confinement, Kind, Limits, Ran, Task, confine, why_not

__all__ = ["Confinement", "Kind", "Limits", "Ran", "Task", "confine", "why_not"]
