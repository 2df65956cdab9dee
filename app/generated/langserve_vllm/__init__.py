"""Our own services."""
