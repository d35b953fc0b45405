"""fp16 and bf16 graphs: the ranges of a measured trajectory, and the nodes that stay in float32."""
