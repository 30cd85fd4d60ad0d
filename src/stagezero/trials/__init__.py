"""Trials: paired replicates of two recipes, until a decision rule decides between them.

This package does not use ideas, researchers or campaigns; the rooms ``ideas`` and ``lab`` use it.
"""
