"""The wing that proposes: airlock, trial, researchers, and ``campaign.py``, which a newcomer reads first."""
