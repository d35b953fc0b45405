"""The prior: prompts to image embeddings."""
