"""Models by name: pocket models trained here, a packaged real LLM, the hub, or a folder; one loader for all."""

from stagezero.models.checkpoint import checkpoint_digest
from stagezero.models.loader import MAX_NEW_TOKENS, Model, home, known_models, materialise

__all__ = ["MAX_NEW_TOKENS", "Model", "checkpoint_digest", "home", "known_models", "materialise"]
