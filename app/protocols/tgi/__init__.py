"""Hugging Face's: Text Generation Inference and the tasks of the Inference API."""
