"""The door: messages and client, all that the two wings may say to one another."""

from stagezero.door.client import Door
from stagezero.door.embedded import EmbeddedAuditor
from stagezero.door.messages import Reply, Status, Submission, Terms

__all__ = ["Door", "EmbeddedAuditor", "Reply", "Status", "Submission", "Terms"]
