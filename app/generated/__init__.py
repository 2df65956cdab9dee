"""Made from proto/ by ``make proto``; not edited. ``pool.py`` alone is written by hand."""
