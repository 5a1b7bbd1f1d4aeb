"""Models for other runtimes than PyTorch: ONNX files, the same faces from the same names, a page for the browser."""
