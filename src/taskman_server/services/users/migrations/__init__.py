"""The schema of the Users service's database, step by step."""
