"""Graph rewrites, one per file: each takes an ONNX model, changes it in place and returns how often it did.

`values` has what they share: which values nodes read, in their subgraphs too, and how to let them read others.
"""
