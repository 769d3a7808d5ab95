"""Helpers and fixtures with which every service tests against real PostgreSQL, RabbitMQ and gRPC."""
