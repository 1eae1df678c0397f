"""The pieces of `kit.broker.rabbitmq`: connections, topology, publishing, consuming, looking at dead letters."""
