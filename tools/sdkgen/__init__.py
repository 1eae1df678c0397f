"""Makes the SDK's models and verbs from the descriptor image of the contract."""
