"""Programs that make what the service ships."""
