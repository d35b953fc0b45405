"""Check of ONNX graphs against TensorRT's published limits, without TensorRT."""
