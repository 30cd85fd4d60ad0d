"""How one question is decided: paired replicates of two recipes until a rule decides. Knows nothing of ideas or campaigns."""
