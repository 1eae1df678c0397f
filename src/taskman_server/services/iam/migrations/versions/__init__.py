"""The schema of the IAM database, step by step."""
