"""The gRPC face of publishing: proto to model and back, nothing else. One module for each proto file."""
