"""The contract of the whole system: one set of cases over REST, gRPC and in process."""
