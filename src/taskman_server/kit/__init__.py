"""The pieces every service is built from: wire, data, events, expressions, keys, time."""
