"""The engine `tensorrt-rtx`: ONNX Runtime with the plugin of TensorRT-RTX."""
