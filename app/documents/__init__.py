"""Documents that chains answer from: ingesting, finding, showing and deleting them.

Parsing, splitting, embedding and storing are ``packages/rag-chat``'s; here they meet the app: its settings, its
embedding model, its errors, its routes.
"""
