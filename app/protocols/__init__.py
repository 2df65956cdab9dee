"""One module for each wire protocol: it parses requests, renders answers, and its routes join the two."""
