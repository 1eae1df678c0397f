"""The schema of the audit database, step by step."""
