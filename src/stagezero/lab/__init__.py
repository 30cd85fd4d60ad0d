"""The lab: runs campaigns, rebuilds their stages, and writes new projects.

Read ``campaign.py`` first; it is the main path. The lab never imports the auditor. The two
communicate through ``stagezero.door`` only.
"""
