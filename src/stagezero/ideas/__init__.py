"""Idea files and their admission: the text that crosses between stages, its checks, its review."""
