"""Trained networks as files for other software: TorchScript, ONNX and safetensors.

Each file is run, and compared with our network, before it is put in its place.
"""
