"""The services, each on its own; what they share is in `services.chassis`. No service imports another."""
