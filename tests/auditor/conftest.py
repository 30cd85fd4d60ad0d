from conftest_auditor import desk

__all__ = ["desk"]
