"""Graph rewrites, one per file: each takes an ONNX model, changes it in place and returns how often it did."""
