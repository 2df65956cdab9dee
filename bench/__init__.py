"""What a layer in front of an engine costs: measured, beside others, by one command (``make bench``)."""
