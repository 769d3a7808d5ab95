"""Dashboards as code, for Grafana and for a viewer of our own."""
