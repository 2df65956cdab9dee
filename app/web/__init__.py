"""The pages people look at: the home page, its style and its script. No file comes from another host."""
