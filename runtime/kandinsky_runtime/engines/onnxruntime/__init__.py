"""ONNX Runtime, on the CPU and through its CUDA and TensorRT providers."""
