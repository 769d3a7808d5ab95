"""What runs the platform around its services: one machine, containers, the sandbox network, the demo."""
