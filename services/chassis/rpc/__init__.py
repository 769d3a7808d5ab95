"""gRPC servers and channels that no service can build without health, identity, validation and deadlines."""
