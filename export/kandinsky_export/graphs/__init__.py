"""Models and graphs: ppdiffusers' models behind forwards that trace, and their way to a Paddle program and to ONNX."""
