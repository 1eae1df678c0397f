"""The edge: REST from the contract, identity, limits, problem documents (GATE-1 to GATE-3). It knows no domain."""
