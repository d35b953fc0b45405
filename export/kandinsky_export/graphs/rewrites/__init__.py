"""Graph rewrites, one per file: each takes an ONNX model, changes it in place and returns its `Outcome`.

A rewrite has three parts: a pattern that finds candidates, checks that may refuse a candidate with a reason, and the
rewrite itself. `outcome` has what they return, `values` which values nodes read, in their subgraphs too.
"""
