"""The pages that a person sees: documentation, and what the links in mails lead to."""
