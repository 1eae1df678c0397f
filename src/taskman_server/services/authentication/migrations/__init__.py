"""The schema of the Authentication service's database, step by step."""
