"""A Cerebras cluster, driven through the vendor's own programs."""
