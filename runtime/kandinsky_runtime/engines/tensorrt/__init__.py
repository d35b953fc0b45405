"""TensorRT, without a framework around it."""
