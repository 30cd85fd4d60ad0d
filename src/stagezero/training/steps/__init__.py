"""The first trainer: one training method, one file.

Each file has a function ``train`` that reads a checkpoint from one folder, trains it on examples
with a seed, and writes the result to another folder. ``training.build`` calls these functions.
"""
