"""The HTTP port: metrics for Prometheus, and whether the process is alive and ready."""
