"""What the head tells those who watch: Prometheus metrics, and a page."""
