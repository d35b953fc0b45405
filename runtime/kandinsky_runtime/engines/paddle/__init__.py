"""Paddle Inference, on the CPU, on CUDA, and with TensorRT."""
