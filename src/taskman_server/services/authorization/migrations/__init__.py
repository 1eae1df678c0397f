"""The schema of the authorization database, step by step."""
